"""The certificates that people keep for one registry in `certs.d` (containers-certs.d(5)).

A folder named as the registry, with its port if it has one, holds `*.crt` (authorities to trust besides the
system's) and pairs of `NAME.cert` and `NAME.key` (what the registry is shown).
"""

import contextlib
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crossmount.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Certificates:
    """What belongs to one registry.

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
    """Answer for the passphrase of a key: asking a person would stop a CI job for ever."""
    return ""
