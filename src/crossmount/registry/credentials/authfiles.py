"""Credential files of docker and podman, read and searched. No I/O.

`config.json` and `auth.json` are one format: `auths` by registry (podman's keys may go on with a path, the most
specific wins), `credsStore` for all registries, `credHelpers` for one each.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from crossmount.errors import CredentialsError, InvalidReferenceError
from crossmount.oci.reference import normalise_registry

TOKEN_USER = "<token>"  # noqa: S105 the user's name that marks an identity token, not a secret
_LEGACY_PATHS = frozenset({"", "v1", "v2"})

Kind = Literal["password", "identity", "registry"]


@dataclass(frozen=True, slots=True)
class Credential:
    """Who we are to a registry.

    Attributes:
        kind: `password`; `identity`: the secret is a refresh token for the realm; `registry`: it is the bearer
            token itself.
        origin: where it was found, in words that may be shown.
    """

    username: str
    secret: str = field(repr=False)
    kind: Kind = "password"
    origin: str = field(default="given", compare=False)


@dataclass(frozen=True, slots=True)
class AuthFile:
    """One credential file.

    Attributes:
        origin: what to call it.
        auths: entries by (registry, path under it); the values may hold secrets.
        store: the helper for every registry, if any.
        helpers: helpers by registry.
    """

    origin: str
    auths: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict, repr=False)
    store: str | None = None
    helpers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: str | bytes, origin: str) -> Self:
        """Read a file's content; keys that name no registry are passed over.

        Raises:
            CredentialsError: it is not a JSON object of the known shape.
        """
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            raise CredentialsError(f"{origin}: not JSON: fix it, or log in anew") from None
        if not isinstance(document, dict):
            raise CredentialsError(f"{origin}: not a JSON object: fix it, or log in anew")
        auths: dict[tuple[str, str], Mapping[str, Any]] = {}
        for key, entry in _object(document, "auths", origin).items():
            place = _place(key)
            if place is not None and isinstance(entry, dict):
                auths.setdefault(place, entry)
        helpers: dict[str, str] = {}
        for key, name in _object(document, "credHelpers", origin).items():
            place = _place(key)
            if place is not None and isinstance(name, str) and name:
                helpers.setdefault(place[0], name)
        store = document.get("credsStore")
        return cls(origin, auths, store if isinstance(store, str) and store else None, helpers)

    def helper(self, registry: str) -> str | None:
        """Return the name of the helper that is asked for `registry`: its own, else the store."""
        return self.helpers.get(registry) or self.store

    def credential(self, registry: str, name: str) -> Credential | None:
        """Return the entry for a repository, from its own path up to the registry.

        Args:
            registry: the registry, normalised.
            name: the repository's name on it, or "" for the registry as such.

        Raises:
            CredentialsError: the entry that counts cannot be read.
        """
        for path in _paths(name):
            entry = self.auths.get((registry, path))
            credential = None if entry is None else self._read(entry, f"{registry}/{path}".rstrip("/"))
            if credential is not None:
                return credential
        return None

    def _read(self, entry: Mapping[str, Any], key: str) -> Credential | None:
        """Read one entry; an empty one (docker's mark that a store has it) is none."""
        where = f"{self.origin}: auths: {key}"
        username, password = _text(entry, "username"), _text(entry, "password")
        if auth := _text(entry, "auth"):
            username, password = _decode(auth, where)
        if token := _text(entry, "identitytoken"):
            return Credential(username, token, "identity", where)
        if token := _text(entry, "registrytoken"):
            return Credential(username, token, "registry", where)
        return credential(username, password, where) if username or password else None


def credential(username: str, secret: str, origin: str) -> Credential:
    """Return a credential by name and secret, where docker's `<token>` marks an identity token."""
    if username == TOKEN_USER:
        return Credential("", secret, "identity", origin)
    return Credential(username, secret, "password", origin)


def _decode(auth: str, where: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, ValueError):
        raise CredentialsError(f"{where}: its auth is not base64 of name:password: log in anew") from None
    username, colon, password = text.partition(":")
    if not colon:
        raise CredentialsError(f"{where}: its auth holds no name:password: log in anew")
    return username, password.rstrip("\x00")


def _place(key: str) -> tuple[str, str] | None:
    """Return (registry, path) for a key: a host, podman's host/path, or docker's URL, whose path means nothing."""
    scheme, is_url, rest = key.partition("://")
    host, _, path = (rest if is_url else key).partition("/")
    path = path.strip("/")
    if is_url and scheme not in {"http", "https"}:
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
