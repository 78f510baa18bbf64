"""The format of docker's and podman's credential files. No I/O.

`config.json` and `auth.json` have one format: `auths` by registry (podman's keys may have a path, and the longest
matching one is used), `credsStore` for all registries, `credHelpers` for single registries. The old `.dockercfg`
has only what they have in `auths`.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import Any, Literal, Self

from crossmount._dataclass import dataclass
from crossmount.errors import CredentialsError, InvalidReferenceError
from crossmount.oci.reference import DOCKER_HUB, normalise_registry

NO_CREDENTIALS = "no credentials"
"""What a request without credentials was sent with, for messages."""

TOKEN_USER = "<token>"  # noqa: S105 a user name that marks an identity token, not a secret
HUB_KEY = "https://index.docker.io/v1/"
_LEGACY_PATHS = frozenset({"", "v1", "v2"})
_DESKTOP_KEYS = ("/access-token", "/refresh-token")
"""Where docker keeps the tokens of a login by browser, which no registry takes as a password."""

_SPELLINGS_MAX = 4
"""The most names that a helper is asked for: each is a process, and may ask a cloud."""


_ACCOUNT_ROUNDS = 5000
_ACCOUNT_BYTES = 3
"""So short that many secrets have the same digest: it confirms no guess of a secret."""

CredentialKind = Literal["password", "identity", "registry"]


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential for a registry.

    Attributes:
        username: the user name; may be empty for a token.
        secret: the password or token.
        kind: `password`; `identity`: the secret is a refresh token for the realm; `registry`: it is the bearer
            token itself.
        origin: the file, variable or helper that it comes from, for messages.
    """

    username: str
    secret: str = field(repr=False)
    kind: CredentialKind = "password"
    origin: str = field(default="given", compare=False)


def account_digest(registry: str, credential: Credential | None) -> str:
    """Return the name of an account in a shared index, the same for everybody who has the same credential.

    It is keyed by the secret, so nobody else can compute it. A collision is harmless: the index only hints.

    Args:
        registry: the registry, normalised.
        credential: the credential; None for anonymous requests.
    """
    secret, user = ("", "") if credential is None else (credential.secret, credential.username)
    salt = f"crossmount account\n{registry}\n{user}".encode()
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, _ACCOUNT_ROUNDS, _ACCOUNT_BYTES).hex()


@dataclass(frozen=True, slots=True)
class AuthFile:
    """One credential file.

    Attributes:
        origin: its name, for messages.
        auths: entries by registry and path, each with its key as it stands in the file; they may have secrets.
        store: the helper for all registries, if there is one.
        helpers: helpers by key as it stands in the file, by registry.
    """

    origin: str
    auths: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]] = field(default_factory=dict, repr=False)
    store: str | None = None
    helpers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: str | bytes, origin: str, *, legacy: bool = False) -> Self:
        """Return the file with this content; keys that name no registry are skipped.

        Args:
            content: the file's bytes.
            origin: its name, for messages.
            legacy: whether it is a `.dockercfg`.

        Raises:
            CredentialsError: the content is not a JSON object of this format.
        """
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            raise CredentialsError(f"{origin}: not JSON: fix it, or log in anew") from None
        if not isinstance(document, dict):
            raise CredentialsError(f"{origin}: not a JSON object: fix it, or log in anew")
        if legacy:
            document = {"auths": document}
        auths: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
        for key, entry in _object(document, "auths", origin).items():
            found = _registry_and_path(key)
            if found is not None and isinstance(entry, dict):
                auths.setdefault(found, {})[key] = entry
        helpers: dict[str, dict[str, str]] = {}
        for key, name in _object(document, "credHelpers", origin).items():
            found = _registry_and_path(key)
            if found is not None and isinstance(name, str) and name:
                helpers.setdefault(found[0], {})[key] = name
        store = document.get("credsStore")
        return cls(origin, auths, store if isinstance(store, str) and store else None, helpers)

    def helper(self, registry: str, written: str = "") -> str | None:
        """Return the name of the helper for a registry: its own, else the store.

        Args:
            registry: the registry, normalised.
            written: the registry as the user wrote it; of several helpers, that for this spelling counts.
        """
        own = self.helpers.get(registry, {})
        return own.get(written) or next(iter(own.values()), None) or self.store

    def spellings(self, registry: str, written: str = "") -> tuple[str, ...]:
        """Return the names to ask a helper for: as the user wrote it, as it stands in the file, normalised."""
        stored = (*self.helpers.get(registry, ()), *self.auths.get((registry, ""), ()))
        first = (HUB_KEY,) if registry == DOCKER_HUB else ((written,) if written else ())
        return tuple(dict.fromkeys((*first, *stored, registry)))[:_SPELLINGS_MAX]

    def credential(self, registry: str, name: str, written: str = "") -> Credential | None:
        """Return the credential in the most specific entry for a repository: from its own path up to the registry.

        Args:
            registry: the registry, normalised.
            name: the repository's name, or "" for the registry itself.
            written: the registry as the user wrote it; of several entries for one, that for this spelling counts.

        Raises:
            CredentialsError: the entry cannot be read.
        """
        for path in _paths(name):
            entries = self.auths.get((registry, path), {})
            for key in sorted(entries, key=lambda key: key != written):
                found = self._read(entries[key], f"{registry}/{path}".rstrip("/"))
                if found is not None:
                    return found
        return None

    def _read(self, entry: Mapping[str, Any], key: str) -> Credential | None:
        """Return an entry's credential; an empty entry, docker's mark for "in the store", has none."""
        where = f"{self.origin}: auths: {key}"
        username, password = _text(entry, "username"), _text(entry, "password")
        if auth := _text(entry, "auth"):
            username, password = _decode(auth, where)
        if token := _text(entry, "identitytoken"):
            return replace(credential(username, token, where), kind="identity")
        if token := _text(entry, "registrytoken"):
            return replace(credential(username, token, where), kind="registry")
        return credential(username, password, where) if username or password else None


def credential(username: str, secret: str, origin: str) -> Credential:
    """Return the credential of a user name and a secret; docker's user name `<token>` marks an identity token.

    Raises:
        CredentialsError: JSON's escapes made them of half characters, which nothing can send.
    """
    if any("\ud800" <= character <= "\udfff" for character in username + secret):
        raise CredentialsError(f"{origin}: its user name or secret is not text: log in anew")
    if username == TOKEN_USER:
        return Credential("", secret, "identity", origin)
    return Credential(username, secret, "password", origin)


def _decode(auth: str, where: str) -> tuple[str, str]:
    try:
        # base64(1) breaks lines, and the decoders of docker and podman leave line breaks out
        text = base64.b64decode(auth.replace("\r", "").replace("\n", ""), validate=True).decode()
    except (binascii.Error, ValueError):
        raise CredentialsError(f"{where}: its auth is not base64 of name:password: log in anew") from None
    username, colon, password = text.partition(":")
    if not colon:
        raise CredentialsError(f"{where}: its auth holds no name:password: log in anew")
    return username, password.rstrip("\x00")


def _registry_and_path(key: str) -> tuple[str, str] | None:
    """Return the registry and path of a key: a host, podman's host/path, or docker's URL (its path is ignored)."""
    scheme, is_url, rest = key.partition("://")
    host, _, path = (rest if is_url else key).partition("/")
    path = path.strip("/")
    if is_url and (scheme not in {"http", "https"} or path.endswith(_DESKTOP_KEYS)):
        return None
    try:
        return normalise_registry(host), "" if is_url or path in _LEGACY_PATHS else path
    except InvalidReferenceError:
        return None


def _paths(name: str) -> Iterator[str]:
    """Yield `a/b/c`, `a/b`, `a` and the empty path."""
    while name:
        yield name
        name = name.rpartition("/")[0]
    yield ""


def _object(document: Mapping[str, Any], key: str, origin: str) -> Mapping[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CredentialsError(f"{origin}: its {key} is not a JSON object: fix it, or log in anew")
    return value


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""
