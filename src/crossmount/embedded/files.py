"""The private folder of the embedded index: every process of a user on a host finds the same one."""

import fcntl
import hashlib
import os
import pwd
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from crossmount._dataclass import dataclass
from crossmount.errors import IndexUnavailableError

SOCKET_BYTES_MAX = 100
"""The longest path of a unix socket that is used; the kernel's limit is 108 on Linux and 104 on macOS."""

_SHARED_TEMP = Path("/tmp")  # noqa: S108 only a folder of mode 0700 in it is used, after a check of its owner
_NO_OTHERS = 0o077
_OTHERS_WRITE = 0o022


@dataclass(frozen=True, slots=True)
class EmbeddedPaths:
    """The files of one embedded index.

    The server binds its socket by a relative name, so the folder's path may be long. Clients connect through a
    short symbolic link where that path is too long for a socket.

    Attributes:
        folder: contains the locks, the log, the data and the socket.
        links: private folders for the symbolic link, the first that works is used; empty if the path is short
            enough.
        uid: the owner.
    """

    folder: Path
    links: tuple[Path, ...]
    uid: int

    @property
    def start_lock(self) -> Path:
        """The lock that a process holds while it starts or stops the server."""
        return self.folder / "start.lock"

    @property
    def alive_lock(self) -> Path:
        """The lock that the server holds from its start until its process has ended."""
        return self.folder / "alive.lock"

    @property
    def log(self) -> Path:
        """The server's log since its last start."""
        return self.folder / "log"

    @property
    def pid(self) -> Path:
        """The file with the server's process id."""
        return self.folder / "pid"

    @property
    def data(self) -> Path:
        """The folder of the append-only file."""
        return self.folder / "appendonlydir"

    @property
    def own_socket(self) -> Path:
        """The path of the socket without a symbolic link."""
        return self.folder / "socket"


def locate(env: Mapping[str, str], *, uid: int, host: str) -> EmbeddedPaths:
    """Return the paths of the embedded index of a user on a host, without access to the file system.

    Args:
        env: the environment. The folder is in `CROSSMOUNT_STATE_DIR`, or else in `$XDG_STATE_HOME/crossmount` or
            `~/.local/state/crossmount` with the host's name, since several hosts may share a home folder.
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


def default_paths(env: Mapping[str, str] | None = None) -> EmbeddedPaths:
    """Return the paths of the embedded index of this user on this host.

    Args:
        env: the environment; by default that of this process. See `locate`.

    Raises:
        IndexUnavailableError: the user has no home folder.
    """
    return locate(os.environ if env is None else env, uid=os.geteuid(), host=socket.gethostname())


def prepare_folder(paths: EmbeddedPaths) -> Path:
    """Create the private folder, and return the path of the socket for clients.

    Raises:
        IndexUnavailableError: the folder cannot be created, has another owner, or is writable for others.
    """
    _make_private(paths.folder, paths.uid)
    if not paths.links:
        return paths.own_socket
    reasons = []
    for folder in paths.links:
        try:
            return _link(folder, paths)
        except IndexUnavailableError as error:
            reasons.append(str(error))
    raise IndexUnavailableError(
        f"embedded index: {paths.folder} is too long for a unix socket, and no short link to it can be made "
        f"({'; '.join(reasons)}): set CROSSMOUNT_STATE_DIR to a shorter folder"
    )


@contextmanager
def os_errors(doing: str) -> Iterator[None]:
    """Raise errors of the operating system as ours; `doing` names the operation and its path."""
    try:
        yield
    except OSError as error:
        raise IndexUnavailableError(
            f"embedded index: cannot {doing}: {error.strerror or error}: "
            f"set CROSSMOUNT_STATE_DIR to a folder of yours on a local disk, or use --index"
        ) from error


class FileLock:
    """A lock on a file (flock). It ends when the last process with its descriptor has closed it."""

    def __init__(self, path: Path) -> None:
        with os_errors(f"open {path}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fileno = os.open(path, flags, 0o600)
        self._path = path

    def try_acquire(self) -> bool:
        """Acquire the lock if it is free."""
        with os_errors(f"lock {self._path}"):
            try:
                fcntl.flock(self.fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def release(self) -> None:
        """Release the lock, also for processes that inherited the descriptor."""
        fcntl.flock(self.fileno, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor; a process that inherited it keeps the lock."""
        os.close(self.fileno)


def last_lines(path: Path, *, lines: int = 3) -> str:
    """Return the last lines of a log in one line, for an error message."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[-4096:]
    except OSError:
        return "no log"
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(found[-lines:]) or "the log is empty"


def _make_private(folder: Path, uid: int) -> None:
    """Create `folder` if it is missing, and check that it is a folder of `uid` that others cannot write to.

    The check uses the open descriptor, and no symbolic link is followed, so nobody can replace the folder
    meanwhile.
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


def _link(folder: Path, paths: EmbeddedPaths) -> Path:
    """Return a short path of the socket, through a link in `folder` whose name is a hash of its target."""
    name = hashlib.sha256(os.fsencode(paths.folder)).hexdigest()[:16]
    link = folder / name
    if len(os.fsencode(link / "socket")) > SOCKET_BYTES_MAX:
        raise IndexUnavailableError(f"{folder} is too long as well")
    _make_private(folder, paths.uid)
    with os_errors(f"link {link} to {paths.folder}"):
        if not link.is_symlink() or link.readlink() != paths.folder:
            fresh = folder / f"{name}.{os.getpid()}.{os.urandom(4).hex()}"
            fresh.symlink_to(paths.folder)
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
    """Return a host's name as a safe file name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in host)[:64] or "host"
