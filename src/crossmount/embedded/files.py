"""Where the embedded index lives: a private folder, found the same way by every process of a user on a host."""

import fcntl
import hashlib
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossmount.errors import IndexUnavailableError

SOCKET_BYTES_MAX = 100
"""The longest path a unix socket is reached by; the kernel's bound is 108 on Linux and 104 on macOS."""

_SHARED_TEMP = Path("/tmp")  # noqa: S108 only a folder of mode 0700 in it is used, and its owner is checked
_NO_OTHERS = 0o077
_OTHERS_WRITE = 0o022


@dataclass(frozen=True, slots=True)
class EmbeddedPaths:
    """The files of one embedded index.

    The server binds its socket in `folder` by a relative name, so a long folder is no trouble for it. Clients
    connect by `socket`, which leads through a short symbolic link where the folder's own path is too long.

    Attributes:
        folder: holds everything: locks, log, data, socket.
        links: private folders for that link, the first that works is used; none where the path is short enough.
        uid: the user it belongs to.
    """

    folder: Path
    links: tuple[Path, ...]
    uid: int

    @property
    def start_lock(self) -> Path:
        """Held by whoever starts or stops the server."""
        return self.folder / "start.lock"

    @property
    def alive_lock(self) -> Path:
        """Held by the server itself, from before it reads its data until the kernel has ended it."""
        return self.folder / "alive.lock"

    @property
    def log(self) -> Path:
        """What the server has to say, of its last start."""
        return self.folder / "log"

    @property
    def pid(self) -> Path:
        """Where the server writes its process's number."""
        return self.folder / "pid"

    @property
    def data(self) -> Path:
        """What is kept on disk."""
        return self.folder / "appendonlydir"

    @property
    def own_socket(self) -> Path:
        """Where the socket really is, however long the path."""
        return self.folder / "socket"


def locate(env: Mapping[str, str], *, uid: int, host: str) -> EmbeddedPaths:
    """Tell where the embedded index of a user on a host lives; nothing is touched.

    Args:
        env: `CROSSMOUNT_STATE_DIR` is taken as it is. Without it the folder carries the host's name, since a home
            folder may be shared by hosts: `$XDG_STATE_HOME/crossmount`, else `~/.local/state/crossmount`.
        uid: the user.
        host: the host's name.

    Raises:
        IndexUnavailableError: the user has no home folder.
    """
    chosen, state = env.get("CROSSMOUNT_STATE_DIR"), env.get("XDG_STATE_HOME", "")
    if chosen:
        folder = Path(chosen).expanduser().absolute() / "embedded"
    else:  # a relative XDG path must be ignored (XDG base directory specification)
        base = Path(state) if state.startswith("/") else _home(env, uid) / ".local" / "state"
        folder = base / "crossmount" / f"embedded-{_file_name(host)}"
    if len(os.fsencode(folder / "socket")) <= SOCKET_BYTES_MAX:
        return EmbeddedPaths(folder, (), uid)
    runtime = env.get("XDG_RUNTIME_DIR", "")
    links = (Path(runtime) / "crossmount",) if runtime.startswith("/") else ()
    return EmbeddedPaths(folder, (*links, _SHARED_TEMP / f"crossmount-{uid}"), uid)


def prepare_folder(place: EmbeddedPaths) -> Path:
    """Make the private folder, and return the path by which clients reach the socket.

    Raises:
        IndexUnavailableError: it cannot be made, is somebody else's, or others may write to it.
    """
    _make_private(place.folder, place.uid)
    if not place.links:
        return place.own_socket
    reasons = []
    for folder in place.links:
        try:
            return _link(folder, place)
        except IndexUnavailableError as error:
            reasons.append(str(error))
    raise IndexUnavailableError(
        f"embedded index: {place.folder} is too long for a unix socket, and no short link to it can be made "
        f"({'; '.join(reasons)}): set CROSSMOUNT_STATE_DIR to a shorter folder"
    )


@contextmanager
def os_errors(doing: str) -> Iterator[None]:
    """Turn the operating system's errors into ours; `doing` says what failed, and on which path."""
    try:
        yield
    except OSError as error:
        raise IndexUnavailableError(
            f"embedded index: cannot {doing}: {error.strerror or error}: "
            f"set CROSSMOUNT_STATE_DIR to a folder of yours on a local disk, or use --index"
        ) from error


class FileLock:
    """A lock on a file (flock): it ends with the last process that holds its descriptor."""

    def __init__(self, path: Path) -> None:
        with os_errors(f"open {path}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fileno = os.open(path, flags, 0o600)
        self._path = path

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it."""
        with os_errors(f"lock {self._path}"):
            try:
                fcntl.flock(self.fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def release(self) -> None:
        """Give the lock up, for processes that inherited the descriptor by a fork too."""
        fcntl.flock(self.fileno, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor; whoever inherited it keeps the lock."""
        os.close(self.fileno)


def last_lines(path: Path, *, lines: int = 3) -> str:
    """Return the end of a log in one line, for an error's message."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[-4096:]
    except OSError:
        return "no log"
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(said[-lines:]) or "the log is empty"


def _make_private(folder: Path, uid: int) -> None:
    """Make `folder` if it is missing, and check that it is a folder, of `uid`, closed to others.

    It is opened without following a link in its place, and what was opened is what is checked.
    """
    with os_errors(f"make {folder}"):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    with os_errors(f"open {folder}"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if found.st_uid != uid:
            raise IndexUnavailableError(
                f"embedded index: {folder} belongs to uid {found.st_uid}, not to you ({uid}): "
                f"remove it, or set CROSSMOUNT_STATE_DIR"
            )
        if found.st_mode & _OTHERS_WRITE:
            raise IndexUnavailableError(
                f"embedded index: others may write to {folder} (mode {stat.S_IMODE(found.st_mode):04o}): "
                f"look through it, then chmod 700 it, or set CROSSMOUNT_STATE_DIR"
            )
        if found.st_mode & _NO_OTHERS:
            with os_errors(f"close {folder} to others"):
                os.fchmod(handle, 0o700)
    finally:
        os.close(handle)


def _link(folder: Path, place: EmbeddedPaths) -> Path:
    """Return a short path to the socket, by a link in `folder` that is named after where it leads."""
    name = hashlib.sha256(os.fsencode(place.folder)).hexdigest()[:16]
    link = folder / name
    if len(os.fsencode(link / "socket")) > SOCKET_BYTES_MAX:
        raise IndexUnavailableError(f"{folder} is too long as well")
    _make_private(folder, place.uid)
    with os_errors(f"link {link} to {place.folder}"):
        if not link.is_symlink() or link.readlink() != place.folder:
            fresh = folder / f"{name}.{os.getpid()}.{os.urandom(4).hex()}"
            fresh.symlink_to(place.folder)
            fresh.replace(link)
    return link / "socket"


def _home(env: Mapping[str, str], uid: int) -> Path:
    home = env.get("HOME", "")
    if home.startswith("/"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        raise IndexUnavailableError(
            f"embedded index: uid {uid} has no home folder: set CROSSMOUNT_STATE_DIR, or use --index"
        ) from None


def _file_name(host: str) -> str:
    """Return a host's name as one harmless path component."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in host)[:64] or "host"
