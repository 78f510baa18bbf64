"""Credentials that docker and podman stored: in the environment, in files, and in the helpers that these name."""

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from crossmount._dataclass import dataclass
from crossmount.errors import CredentialsError
from crossmount.oci.reference import normalise_registry
from crossmount.registry.credentials.authfiles import AuthFile, Credential
from crossmount.registry.credentials.helpers import HELPER_SECONDS, ask_helper

ENV_CONTENT = "DOCKER_AUTH_CONFIG"
_LEGACY = ".dockercfg"
_FILE_MAX = 4 * 1024 * 1024

_log = logging.getLogger(__name__)


@runtime_checkable
class CredentialSource(Protocol):
    """A source of credentials."""

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return the credential for a repository of a registry, or None if there is none.

        Args:
            registry: the registry, normalised.
            name: the repository's name; "" for the registry itself.

        Raises:
            CredentialsError: there is a credential, and it cannot be used.
        """
        ...


@runtime_checkable
class CredentialsAtHand(Protocol):
    """A source that knows whether it has an answer at once."""

    async def is_at_hand(self, registry: str, name: str = "") -> bool:
        """Return whether `find` would answer without a helper, which may take long or ask the user."""
        ...


@runtime_checkable
class RecordsSearch(Protocol):
    """A source that can say where it looked."""

    @property
    def looked(self) -> tuple[str, ...]:
        """The places of the last search, each with why it had nothing."""
        ...


def where_looked(source: CredentialSource) -> str:
    """Return, for the middle of a message, where a source looked; nothing if it does not say.

    Paths in the home folder are shortened, and files without a login are not told from absent ones.
    """
    looked = source.looked if isinstance(source, RecordsSearch) else ()
    places = (from_home(place).removesuffix(" (not there)").removesuffix(" (has none)") for place in looked)
    return f": looked in {', '.join(places)}" if looked else ""


def from_home(path: str) -> str:
    """Return a path with `~` for the user's home folder."""
    home = _own_home()
    return f"~{path.removeprefix(str(home))}" if home is not None and path.startswith(f"{home}/") else path


@dataclass(frozen=True, slots=True)
class CredentialFile:
    """A file that may have credentials.

    Attributes:
        path: the file.
        required: whether the user named it, so that it must exist.
        folder_of: the variable that names the file's folder, if one does.
    """

    path: Path
    required: bool = False
    folder_of: str = ""


def search_path(
    *, authfile: Path | None, env: Mapping[str, str], home: Path | None, run: Path | None = None
) -> Iterator[CredentialFile]:
    """Yield the files to search in order; `authfile`, or else `REGISTRY_AUTH_FILE`, replaces them all.

    Args:
        authfile: the only file.
        env: variables by name.
        home: the user's home folder.
        run: where skopeo, podman and buildah keep logins without `XDG_RUNTIME_DIR`; by default
            `/run/containers/UID`.
    """
    named = authfile or (Path(env["REGISTRY_AUTH_FILE"]) if env.get("REGISTRY_AUTH_FILE") else None)
    if named is not None:
        yield CredentialFile(named, required=True)
        return
    if folder := env.get("DOCKER_CONFIG"):
        yield CredentialFile(Path(folder) / "config.json", folder_of="DOCKER_CONFIG")
    elif home is not None:
        yield CredentialFile(home / ".docker" / "config.json")
    if folder := env.get("XDG_RUNTIME_DIR"):
        yield CredentialFile(Path(folder) / "containers" / "auth.json")
    else:
        yield CredentialFile((run or Path(f"/run/containers/{os.getuid()}")) / "auth.json")
    if folder := env.get("XDG_CONFIG_HOME"):
        yield CredentialFile(Path(folder) / "containers" / "auth.json")
    elif home is not None:
        yield CredentialFile(home / ".config" / "containers" / "auth.json")
    if home is not None:
        yield CredentialFile(home / _LEGACY)


class StoredCredentials:
    """The credentials that docker and podman stored for this user.

    They are searched in this order until one has a credential: `DOCKER_AUTH_CONFIG` (JSON in the environment),
    `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json` or
    `/run/containers/UID/auth.json`, `$XDG_CONFIG_HOME/containers/auth.json` or `~/.config/containers/auth.json`,
    `~/.dockercfg`. `REGISTRY_AUTH_FILE` replaces them all, and `authfile` replaces that one. A registry's own
    helper is asked before the store, and both before the file's own entries.

    Args:
        authfile: the only file to read.
        env: the environment; by default the process's own.
        home: the user's home folder; by default the current user's.
        run: the folder of logins without `XDG_RUNTIME_DIR`; by default `/run/containers/UID`.
        written: the registry as the user wrote it (with its port, say): helpers are asked for this name first.
        helper_timeout: the seconds that a helper may take.
        lasting: a file that cannot be used any more stays as it was read before.
    """

    def __init__(
        self,
        *,
        authfile: Path | None = None,
        env: Mapping[str, str] | None = None,
        home: Path | None = None,
        run: Path | None = None,
        written: str = "",
        helper_timeout: float = HELPER_SECONDS,
        lasting: bool = False,
    ) -> None:
        self._authfile = authfile
        self._lasting = lasting
        self._read: dict[Path, AuthFile | None] = {}
        self._env = os.environ if env is None else env
        self._home = home
        self._run = run
        self._written = written
        self._helper_timeout = helper_timeout
        self._looked: tuple[str, ...] = ()

    @property
    def looked(self) -> tuple[str, ...]:
        """The places of the last search, each with why it had nothing."""
        return self._looked

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return the first credential that is found for a repository of a registry, or None.

        Args:
            registry: the registry, normalised.
            name: the repository's name; "" for the registry itself.

        Raises:
            CredentialsError: a file or a helper cannot be used.
        """
        looked: list[str] = []
        found = await self._search(registry, name, looked)
        self._looked = tuple(looked)
        origin = "none" if found is None else found.origin
        before = f"; looked before in: {', '.join(looked)}" if looked else ""
        _log.debug("credentials for %s: %s%s", registry, origin, before)
        return found

    async def _search(self, registry: str, name: str, looked: list[str]) -> Credential | None:
        """Search all places in order, and note in `looked` those that have no credential."""
        written = self._written if self._written and normalise_registry(self._written) == registry else ""
        for place, load in self._loads():
            file = await asyncio.to_thread(load)
            if file is None:
                looked.append(f"{place} (not there)")
                continue
            helper, found = file.helper(registry, written), None
            if helper is not None:
                found = await ask_helper(
                    helper,
                    file.spellings(registry, written),
                    env=self._env,
                    named_by=file.origin,
                    deadline=self._helper_timeout,
                )
            found = found or file.credential(registry, name, written)
            if found is not None:
                return found
            asked = "" if helper is None else f", nor does docker-credential-{helper[:64]}"
            looked.append(f"{place} (has none{asked})")
        return None

    async def is_at_hand(self, registry: str, name: str = "") -> bool:
        """Return whether the files have the answer; none with a helper has, and none that cannot be used."""
        with contextlib.suppress(CredentialsError):
            return await asyncio.to_thread(self.read_files, registry, name)
        return False

    def read_files(self, registry: str, name: str = "") -> bool:
        """Read the files as a search does, without helpers; return whether they have the answer.

        Raises:
            CredentialsError: a file cannot be used.
        """
        for _, load in self._loads():
            file = load()
            if file is not None and file.helper(registry, self._written) is not None:
                return False
            if file is not None and file.credential(registry, name, self._written) is not None:
                break
        return True

    def _loads(self) -> Iterator[tuple[str, Callable[[], AuthFile | None]]]:
        """Yield each place, in order, and a function that reads it."""
        files = list(
            search_path(authfile=self._authfile, env=self._env, home=self._home or _own_home(), run=self._run)
        )
        content = self._env.get(ENV_CONTENT)
        if content and not any(file.required for file in files):
            yield ENV_CONTENT, partial(AuthFile.parse, content, f"{ENV_CONTENT} (environment)")
        for file in files:
            yield str(file.path), partial(self._load, file)

    def _load(self, file: CredentialFile) -> AuthFile | None:
        try:
            self._read[file.path] = _load(file)
        except CredentialsError as error:
            if not self._lasting or file.path not in self._read:
                raise
            _log.warning("what was read before stays in use: %s", error)
        return self._read[file.path]


def _load(file: CredentialFile) -> AuthFile | None:
    try:
        content = _content(file.path)
    except (FileNotFoundError, NotADirectoryError):
        if file.required:
            raise CredentialsError(f"{file.path}: no such credential file: log in, or name another") from None
        folder = file.path.parent
        if file.folder_of and folder.is_file():
            raise CredentialsError(
                f"{file.folder_of} is {folder}, a file: give the folder that config.json is in, {folder.parent}"
            ) from None
        return None
    except OSError as error:
        raise CredentialsError(f"{file.path}: cannot be read: {error.strerror}") from error
    if not content.strip():
        return None
    return AuthFile.parse(content, str(file.path), legacy=file.path.name == _LEGACY)


def _content(path: Path) -> bytes:
    """Read a whole file, unless it is none.

    Raises:
        OSError: it cannot be read.
        CredentialsError: it is a pipe, or far too large.
    """
    # O_NONBLOCK, since opening a pipe would wait for a writer without end
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise CredentialsError(f"{path}: a pipe, which cannot be read again: give a file")
        content = file.read(_FILE_MAX + 1)
    if len(content) > _FILE_MAX:
        raise CredentialsError(f"{path}: not a credential file: it has more than {_FILE_MAX} bytes")
    return content


def _own_home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # the user id has no entry, as in many containers
        return None
