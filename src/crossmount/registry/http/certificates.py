"""The TLS contexts of one client: whom it trusts, and which certificate it shows the registry.

Certificates come from the options and from `certs.d` (containers-certs.d(5)): a folder there that is named as the
registry, with its port if it has one, contains `*.crt` (authorities to trust besides the system's) and pairs of
`NAME.cert` and `NAME.key` (what the registry is shown).

Nothing is read before the first TLS connection is made: loading the system's authorities takes 80 ms, and a
registry on plain HTTP seldom needs them.
"""

import contextlib
import os
import ssl
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.registry.http.location import Origin
from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.tls import unverified_context

_HUB_ADDRESS = "registry-1.docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io")
_DEFAULT_PORTS = frozenset({80, 443})


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates for one registry.

    Attributes:
        authorities: PEM files of authorities that are trusted besides others.
        pairs: a client certificate's file and its key's.
    """

    authorities: tuple[Path, ...] = ()
    pairs: tuple[tuple[Path, Path], ...] = ()

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let a TLS context trust these authorities and show these certificates.

        Raises:
            InvalidInputError: a file cannot be read, or holds no certificate or key.
        """
        for file in (*self.authorities, *chain.from_iterable(self.pairs)):
            if file.exists() and not file.is_file():  # OpenSSL would wait for ever for a FIFO's writer
                raise InvalidInputError(f"{file}: not a file: put a PEM file there, or remove it")
        for file in self.authorities:
            try:
                context.load_verify_locations(cafile=file)
            except OSError as error:  # ssl.SSLError is one
                raise InvalidInputError(f"{file}: not a readable PEM file of authorities") from error
        for certificate, key in self.pairs:
            try:
                context.load_cert_chain(certificate, key, password=_no_passphrase)
            except (OSError, ValueError) as error:
                raise InvalidInputError(
                    f"{certificate}, {key}: not a readable PEM certificate and its key without a passphrase"
                ) from error


def folders(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where certificates are looked for, the most specific place first."""
    home = environment.get("HOME") or "~"
    config = environment.get("XDG_CONFIG_HOME") or str(Path(home, ".config"))
    personal = (Path(config, "containers/certs.d"), Path(home, ".config/containers/certs.d"))
    return (*dict.fromkeys(personal), Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


def find(names: Iterable[str], places: Iterable[Path]) -> Certificates:
    """Return the certificates of a registry, from the first folder that there is for it and that may be read.

    Args:
        names: how the registry may be spelt: with its port, and without a default one.
        places: `certs.d` folders, the most specific first.

    Raises:
        InvalidInputError: one file of a pair is missing.
    """
    spellings = tuple(dict.fromkeys(names))
    for place in places:
        for name in spellings:
            folder = place / name
            with contextlib.suppress(PermissionError):  # podman and docker skip such a folder too
                if folder.is_dir():
                    return _read(folder)
    return Certificates()


def _read(folder: Path) -> Certificates:
    files = sorted(folder.iterdir())
    for file in files:
        partner = {".cert": ".key", ".key": ".cert"}.get(file.suffix)
        if partner is not None and file.with_suffix(partner) not in files:
            raise InvalidInputError(
                f"{file}: {file.stem}{partner} is missing beside it: add that file, or remove this one"
            )
    return Certificates(
        authorities=tuple(file for file in files if file.suffix == ".crt"),
        pairs=tuple((file, file.with_suffix(".key")) for file in files if file.suffix == ".cert"),
    )


def _no_passphrase() -> str:
    """Return an empty passphrase: OpenSSL would ask on the terminal, and a CI job would wait for ever."""
    return ""


class TrustStore:
    """Makes the TLS contexts of one client.

    The authorities that are stored for a registry are trusted for its token service and its storage too, as docker
    and podman do: whoever has their keys could play the registry itself. The client certificate is shown to the
    registry alone.

    Args:
        options: how to reach the registry.
        registry: the registry's origin; None for a client that serves no particular registry.
        environment: variables by name; they say where `certs.d` is.
        places: `certs.d` folders, the most specific first; by default the usual ones.
    """

    def __init__(
        self,
        options: ClientOptions,
        registry: Origin | None,
        *,
        environment: Mapping[str, str] = os.environ,
        places: Sequence[Path] | None = None,
    ) -> None:
        self._options = options
        self._registry = registry
        self._places = folders(environment) if places is None else tuple(places)
        self._certificates: Certificates | None = None
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def context(self, *, for_registry: bool) -> ssl.SSLContext:
        """Return the context for connections to the registry, or to another host.

        Raises:
            InvalidInputError: a file of certificates cannot be used.
        """
        if for_registry and self._options.ssl_context is not None:
            return self._options.ssl_context
        certificates = self._own_certificates()
        with_pair = for_registry and bool(certificates.pairs)
        if with_pair not in self._contexts:
            shown = certificates if with_pair else replace(certificates, pairs=())
            context = self._base()
            shown.load_into(context)
            self._contexts[with_pair] = context
        return self._contexts[with_pair]

    def check_named_files(self) -> None:
        """Read the files that the options name, so that a mistake is found before anything is sent.

        Raises:
            InvalidInputError: a file cannot be used.
        """
        if self._options.ca_file is not None or self._options.cert_file is not None:
            self.context(for_registry=True)

    def _own_certificates(self) -> Certificates:
        """Return the certificates of the options, and where they name none, those of `certs.d`."""
        if self._certificates is None:
            options = self._options
            kept = Certificates() if self._registry is None else find(spellings(self._registry), self._places)
            if options.insecure or options.ca_file is not None:
                kept = replace(kept, authorities=())
            if options.cert_file is not None and options.key_file is not None:
                kept = replace(kept, pairs=((options.cert_file, options.key_file),))
            self._certificates = kept
        return self._certificates

    def _base(self) -> ssl.SSLContext:
        """Return a context with the authorities of the options or of the system."""
        options = self._options
        if options.insecure:
            return unverified_context()
        try:
            if options.ca_file is not None:
                return ssl.create_default_context(cafile=options.ca_file)
            paths = ssl.get_default_verify_paths()
            if paths.cafile or paths.capath or sys.platform == "win32":
                return ssl.create_default_context()
        except OSError as error:  # ssl.SSLError is one
            what = options.ca_file or "the system's certificate authorities"
            raise InvalidInputError(f"{what}: not a readable PEM file of authorities") from error
        return httpx.create_ssl_context()  # the system has no authorities: use those of httpx


def spellings(registry: Origin) -> tuple[str, ...]:
    """Return the names under which a registry's folder in `certs.d` may stand, the likeliest first."""
    host = f"[{registry.host}]" if ":" in registry.host else registry.host
    with_port = f"{host}:{registry.port}"
    names = (host, with_port) if registry.port in _DEFAULT_PORTS else (with_port,)
    return (*_HUB_NAMES, *names) if host == _HUB_ADDRESS else names
