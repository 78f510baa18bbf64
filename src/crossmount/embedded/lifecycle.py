"""Start and stop of the embedded index, and a client that starts it on first use.

The functions block; from an event loop call them with `asyncio.to_thread`.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmount.embedded.files import EmbeddedPaths, FileLock, default_paths, os_errors, prepare_folder
from crossmount.embedded.process import (
    ServerState,
    find_binary,
    launch,
    not_ready,
    other_clients,
    probe,
    shut_down,
    start_failed,
)
from crossmount.errors import IndexUnavailableError
from crossmount.redis.call import Call
from crossmount.redis.client import Client
from crossmount.redis.listener import MessagePlace, SendsMessages
from crossmount.redis.replies import Command

MEMORY = "256mb"
"""The memory limit in the server's notation: about half a million layers."""

START_SECONDS = 10.0
STOP_SECONDS = 10.0
_PAUSE_SECONDS = 0.01


def ensure_running(
    paths: EmbeddedPaths | None = None,
    *,
    env: Mapping[str, str] | None = None,
    memory: str = MEMORY,
    timeout: float = START_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Return the socket of the embedded index; start the server if it does not run.

    A running server costs one connection. Of concurrent processes one starts the server, and the others wait.

    Args:
        paths: the files; by default those of this user on this host.
        env: the environment; by default that of this process.
        memory: the memory limit of a server that is started now.
        timeout: seconds until the server must answer.
        clock: monotonic seconds.
        pause: sleeps between two probes.

    Raises:
        IndexUnavailableError: the server cannot be started, or does not answer in time.
        MissingExtraError: no server binary is installed.
    """
    env = os.environ if env is None else env
    paths = default_paths(env) if paths is None else paths
    path = prepare_folder(paths)
    if probe(path).state is ServerState.READY:
        return path
    deadline = clock() + timeout
    lock = FileLock(paths.start_lock)
    try:
        while (state := probe(path).state) is not ServerState.READY:
            if state is ServerState.SILENT or clock() >= deadline:
                raise not_ready(state, paths, timeout)
            if state is ServerState.ABSENT and lock.try_acquire():
                try:
                    _start(paths, path, env, memory=memory, until=lambda: clock() >= deadline, pause=pause)
                finally:
                    lock.release()
            pause(_PAUSE_SECONDS)
    finally:
        lock.close()
    return path


def stop(
    paths: EmbeddedPaths | None = None,
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = STOP_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Save and stop the embedded index, and wait until its process has ended.

    A server that does not stop on request is killed. Nothing is lost: every write is in the append-only file.

    Returns:
        Whether a server was running.

    Raises:
        IndexUnavailableError: the server cannot be reached, or does not end in time.
    """
    paths = default_paths(env) if paths is None else paths
    if not paths.folder.exists():
        return False
    path = prepare_folder(paths)
    deadline = clock() + timeout
    lock = FileLock(paths.start_lock)
    try:
        while not lock.try_acquire():  # another process starts or stops the server now
            _in_time(clock() < deadline, paths, timeout)
            pause(_PAUSE_SECONDS)
        try:
            while probe(path).state is ServerState.ABSENT:
                if _has_ended(paths):
                    return False
                _in_time(clock() < deadline, paths, timeout)
                pause(_PAUSE_SECONDS)
            pid = shut_down(path, seconds=max(deadline - clock(), 0.1))
            if pid is not None:
                _kill(pid, paths)
                deadline = clock() + timeout
            while not _has_ended(paths):
                _in_time(clock() < deadline, paths, timeout)
                pause(_PAUSE_SECONDS)
        finally:
            lock.release()
    finally:
        lock.close()
    return True


def stop_unused(paths: EmbeddedPaths | None = None, *, env: Mapping[str, str] | None = None) -> bool:
    """Stop the embedded index if no other client is connected to it. The next one starts it again.

    A client that connects in between finds its connection closed, and starts the server once more itself.

    Returns:
        Whether it was stopped.

    Raises:
        IndexUnavailableError: the server cannot be reached, or does not end in time.
    """
    paths = default_paths(env) if paths is None else paths
    if not paths.folder.exists():
        return False
    path = prepare_folder(paths)
    if probe(path).state is not ServerState.READY or other_clients(path):
        return False
    return stop(paths, env=env)


def _start(
    paths: EmbeddedPaths,
    path: Path,
    env: Mapping[str, str],
    *,
    memory: str,
    until: Callable[[], bool],
    pause: Callable[[float], None],
) -> None:
    """Start the server unless it runs, and wait until it listens or `until` is true; the caller holds the lock."""
    if probe(path).state is not ServerState.ABSENT:
        return
    alive = FileLock(paths.alive_lock)
    try:
        if not alive.try_acquire():  # a server is about to listen, is about to end, or lost its socket
            return
        launch(find_binary(env), paths, alive, env, memory=memory)
    finally:
        alive.close()
    while probe(path).state is ServerState.ABSENT and not until():
        if _has_ended(paths):
            raise start_failed(paths)
        pause(_PAUSE_SECONDS)


def _has_ended(paths: EmbeddedPaths) -> bool:
    """Return whether no server process exists: the kernel releases its lock when it ends for any reason."""
    alive = FileLock(paths.alive_lock)
    try:
        return alive.try_acquire()
    finally:
        alive.close()


def _kill(pid: int, paths: EmbeddedPaths) -> None:
    """Kill the process that owned the socket, according to the kernel, while we were connected to it."""
    if not pid:
        raise IndexUnavailableError(
            f"embedded index: the server in {paths.folder} does not end, and its process is not known here: "
            f"end the one named in {paths.pid} on its host"
        )
    with os_errors(f"end the server, process {pid}, in {paths.folder}"):
        os.kill(pid, signal.SIGKILL)


def _in_time(still: bool, paths: EmbeddedPaths, seconds: float) -> None:
    if not still:
        raise IndexUnavailableError(
            f"embedded index: the server in {paths.folder} did not end in {seconds:g} s: try again, or end the "
            f"process named in {paths.pid}"
        )


class OnDemandClient:
    """A client of a server that is started when it is first needed, and again after it stopped.

    Args:
        start: makes sure that the server runs, and returns its unix socket.
        connect: makes a client of that socket. No I/O.
    """

    where = "the embedded index"

    def __init__(self, start: Callable[[], Path], connect: Callable[[Path], Client]) -> None:
        self._start = start
        self._connect = connect
        self._clients: dict[Path, Client] = {}

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Run commands on the server; if it does not answer, start it and run them once more."""
        for client in list(self._clients.values()):
            try:
                return client.run(commands, call)
            except IndexUnavailableError:
                break  # it was stopped since: start it once more, below; the same client finds it again
        path = self._start()
        # setdefault, since threads that come here at once must share one client
        client = self._clients.setdefault(path, self._connect(path))
        if call is not None:
            call.renew()
        return client.run(commands, call)

    def servers(self) -> Sequence[Client]:
        """Return this client: one server, which is started when it is first asked."""
        return [self]

    def message_places(self, channels: Sequence[str]) -> Sequence[MessagePlace]:
        """Return the server, if it was started already."""
        for client in list(self._clients.values()):
            if isinstance(client, SendsMessages):
                return client.message_places(channels)
        return []

    def close(self) -> None:
        """Close the connections; the server continues to run."""
        for client in list(self._clients.values()):
            client.close()
