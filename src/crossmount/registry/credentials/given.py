"""Credentials that a program has in memory, and which registry gets them: only the one that they are for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from crossmount._arguments import kind_of
from crossmount.errors import InvalidInputError
from crossmount.oci.reference import normalise_registry
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.lookup import CredentialSource, StoredCredentials

UserAndPassword = tuple[str, str]

AnyCredentials = UserAndPassword | Credential | Mapping[str, UserAndPassword | Credential] | CredentialSource
"""User name and password, or a credential, for the one registry that is meant; those by registry; or a source."""

_WANTED = "give (user, password), a Credential, a mapping of those by registry, or a CredentialSource"


class NoCredentials:
    """A source without credentials: all requests are anonymous."""

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return None."""
        del registry, name
        return None

    async def is_at_hand(self, registry: str, name: str = "") -> bool:
        """Return True."""
        del registry, name
        return True


class GivenCredentials:
    """A source of one credential for one registry.

    Args:
        registry: the registry's name.
        credential: the credential.

    Raises:
        InvalidReferenceError: `registry` names no registry.
    """

    def __init__(self, registry: str, credential: Credential) -> None:
        self._registry = normalise_registry(registry)
        self._credential = credential

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return the credential if it is for this registry."""
        del name
        return self._credential if registry == self._registry else None

    async def is_at_hand(self, registry: str, name: str = "") -> bool:
        """Return True."""
        del registry, name
        return True


class CredentialsByRegistry:
    """A source of credentials that are given for some registries; for all others another source is asked.

    Args:
        given: credentials by the name of their registry.
        others: the source for other registries.
    """

    def __init__(self, given: Mapping[str, Credential], others: CredentialSource) -> None:
        self._given = given
        self._others = others

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return the credential that is given for this registry, or that of the other source."""
        found = self._given.get(registry)
        return await self._others.find(registry, name) if found is None else found

    async def is_at_hand(self, registry: str, name: str = "") -> bool:
        """Return whether the credential is given: the other source may have to ask a helper."""
        del name
        return registry in self._given


def check_credentials(given: object) -> None:
    """Check what a program gives as credentials. No message repeats any of it.

    Raises:
        InvalidInputError: it is neither a pair of texts, nor a credential, a mapping of those, nor a source.
        InvalidReferenceError: a key of the mapping names no registry.
    """
    if isinstance(given, Mapping):
        for registry, value in given.items():
            if not isinstance(registry, str):
                raise InvalidInputError(f"credentials: a key is {kind_of(registry)}: give a registry's name")
            normalise_registry(registry)
            as_credential(value)
    elif given is not None and not _is_source(given):
        as_credential(given)


def _is_source(given: object) -> TypeGuard[CredentialSource]:
    return isinstance(given, CredentialSource) and not isinstance(
        given, str | bytes | bytearray
    )  # these have find


def as_credential(given: object) -> Credential:
    """Return a credential from a pair of texts or a credential.

    Raises:
        InvalidInputError: it is neither.
    """
    match given:
        case Credential():
            return given
        case (str(user), str(password)):
            if ":" in user or not password:
                wrong = "the password is empty" if not password else "the user name has a colon"
                raise InvalidInputError(f"credentials: {wrong}: {_WANTED}")
            return Credential(user, password)
    raise InvalidInputError(f"credentials: {kind_of(given)} of another shape: {_WANTED}")


def is_for_one(given: object) -> bool:
    """Return whether credentials do not say which registry they are for."""
    return isinstance(given, Credential | tuple | list)


def bound_to(registry: str, given: AnyCredentials | None) -> AnyCredentials | None:
    """Return credentials that say which registry they are for: this one, if they did not say it."""
    return {registry: as_credential(given)} if is_for_one(given) else given


def credential_source(
    given: AnyCredentials | None,
    *,
    registry: str,
    authfile: Path | None = None,
    written: str = "",
    lasting: bool = False,
) -> CredentialSource:
    """Return the source of credentials for one registry.

    Args:
        given: credentials in memory; a pair is for `registry`. None takes those that docker and podman stored.
        registry: the registry's name.
        authfile: the only credential file to read, where none are given.
        written: the registry as the user wrote it.
        lasting: a file that cannot be used any more stays as it was read before.

    Raises:
        InvalidInputError: what is given is no credential.
    """
    check_credentials(given)
    stored = StoredCredentials(authfile=authfile, written=written, lasting=lasting)
    if given is None:
        return stored
    if _is_source(given):
        return given
    if not isinstance(given, Mapping):
        return GivenCredentials(registry, as_credential(given))
    by_registry = {normalise_registry(name): as_credential(value) for name, value in given.items()}
    return CredentialsByRegistry(by_registry, stored)
