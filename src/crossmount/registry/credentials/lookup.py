"""Where credentials live: the environment, docker's and podman's files, and the helpers they name."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from crossmount.errors import CredentialsError
from crossmount.oci.reference import normalise_registry
from crossmount.registry.credentials.authfiles import AuthFile, Credential
from crossmount.registry.credentials.helpers import HELPER_SECONDS, ask_helper

ENV_CONTENT = "DOCKER_AUTH_CONFIG"


class CredentialSource(Protocol):
    """Whoever knows credentials."""

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return the credential for a repository of a registry, or None for an anonymous visit.

        Args:
            registry: the registry, normalised.
            name: the repository's name; "" for the registry as such.

        Raises:
            CredentialsError: there is one, and it cannot be used.
        """
        ...


class NoCredentials:
    """Always an anonymous visit."""

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return None."""
        del registry, name
        return None


class GivenCredentials:
    """One credential, for one registry.

    Raises:
        InvalidReferenceError: `registry` names no registry.
    """

    def __init__(self, registry: str, credential: Credential) -> None:
        self._registry = normalise_registry(registry)
        self._credential = credential

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return the credential, if it is for this registry."""
        del name
        return self._credential if registry == self._registry else None


@dataclass(frozen=True, slots=True)
class Place:
    """A file in which credentials may be.

    Attributes:
        required: the user named it, so it must be there.
    """

    path: Path
    required: bool = False


def search_path(*, authfile: Path | None, env: Mapping[str, str], home: Path | None) -> Iterator[Place]:
    """Yield the files to search, first to last; an `authfile`, else `REGISTRY_AUTH_FILE`, replaces the search."""
    named = authfile or (Path(env["REGISTRY_AUTH_FILE"]) if env.get("REGISTRY_AUTH_FILE") else None)
    if named is not None:
        yield Place(named, required=True)
        return
    if folder := env.get("DOCKER_CONFIG"):
        yield Place(Path(folder) / "config.json")
    elif home is not None:
        yield Place(home / ".docker" / "config.json")
    if folder := env.get("XDG_RUNTIME_DIR"):
        yield Place(Path(folder) / "containers" / "auth.json")
    if folder := env.get("XDG_CONFIG_HOME"):
        yield Place(Path(folder) / "containers" / "auth.json")
    elif home is not None:
        yield Place(home / ".config" / "containers" / "auth.json")


class StoredCredentials:
    """The credentials that docker and podman stored for this user.

    Searched in this order, the first that has an answer wins: `DOCKER_AUTH_CONFIG` (JSON in the environment),
    `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`,
    `$XDG_CONFIG_HOME/containers/auth.json` or `~/.config/containers/auth.json`. `REGISTRY_AUTH_FILE` replaces them
    all, `authfile` that one too. In a file, a registry's own helper comes before the store, and both before
    what is written in the file.

    Args:
        authfile: the one file to read.
        env: the environment; the process's own by default.
        home: the user's home folder; found out by default.
        helper_timeout: seconds that a helper may take.
    """

    def __init__(
        self,
        *,
        authfile: Path | None = None,
        env: Mapping[str, str] | None = None,
        home: Path | None = None,
        helper_timeout: float = HELPER_SECONDS,
    ) -> None:
        self._authfile = authfile
        self._env = os.environ if env is None else env
        self._home = home
        self._helper_timeout = helper_timeout

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """See `CredentialSource.find`."""
        for load in self._loads():
            file = await asyncio.to_thread(load)
            if file is None:
                continue
            helper = file.helper(registry)
            found = None
            if helper is not None:
                found = await ask_helper(
                    helper, registry, env=self._env, named_by=file.origin, deadline=self._helper_timeout
                )
            found = found or file.credential(registry, name)
            if found is not None:
                return found
        return None

    def _loads(self) -> Iterator[Callable[[], AuthFile | None]]:
        """Yield what reads each place, in order."""
        places = list(search_path(authfile=self._authfile, env=self._env, home=self._home or _own_home()))
        content = self._env.get(ENV_CONTENT)
        if content and not any(place.required for place in places):
            yield partial(AuthFile.parse, content, f"{ENV_CONTENT} (environment)")
        for place in places:
            yield partial(_load, place)


def _load(place: Place) -> AuthFile | None:
    try:
        content = place.path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if place.required:
            raise CredentialsError(f"{place.path}: no such credential file: log in, or name another") from None
        return None
    except OSError as error:
        raise CredentialsError(f"{place.path}: cannot be read: {error.strerror}") from error
    return AuthFile.parse(content, str(place.path)) if content.strip() else None


def _own_home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # a user id without an entry, as in many containers
        return None
