"""The embedded index: one real server a user and host, started on first use, shared by every process.

Everything here blocks; from an event loop call it with `asyncio.to_thread`.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis.backoff import NoBackoff
from redis.retry import Retry

import redis
from crossmount.embedded.files import EmbeddedPaths, FileLock, locate, os_errors, prepare_folder
from crossmount.embedded.process import (
    ServerState,
    find_binary,
    launch,
    probe,
    shut_down,
    start_failed,
)
from crossmount.errors import IndexUnavailableError

MEMORY = "256mb"
"""The memory bound, as the server spells it: about half a million layers."""

START_SECONDS = 10.0
STOP_SECONDS = 10.0
_PAUSE_SECONDS = 0.01
_LAYER_KEYS = "crossmount:*}:flags"
"""One key of this pattern is kept for each layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedStatus:
    """What the embedded index is and holds; numbers are 0 and texts empty where no server runs.

    Attributes:
        running: whether a server listens.
        folder: where it is kept.
        socket: the path that clients connect to; None where there is no folder yet.
        pid: its process; None where that is not known.
        server: its name and version, `valkey 9.1.0`.
        uptime: seconds since it started.
        layers: layers known, in all namespaces.
        keys: keys held.
        memory: bytes in use.
        memory_bound: bytes it may use before layers make way, least recently used first.
        saved_at: when something was last written to disk, in Unix time; None where nothing was.
        saving: whether the last write to disk succeeded.
    """

    running: bool
    folder: Path
    socket: Path | None = None
    pid: int | None = None
    server: str = ""
    uptime: int = 0
    layers: int = 0
    keys: int = 0
    memory: int = 0
    memory_bound: int = 0
    saved_at: float | None = None
    saving: bool = True


def default_paths(env: Mapping[str, str] | None = None) -> EmbeddedPaths:
    """Return where the embedded index of this user on this host lives; nothing is touched.

    Args:
        env: the environment, the process's own by default; see `locate`.

    Raises:
        IndexUnavailableError: the user has no home folder.
    """
    return locate(os.environ if env is None else env, uid=os.geteuid(), host=socket.gethostname())


def ensure_running(
    place: EmbeddedPaths | None = None,
    *,
    env: Mapping[str, str] | None = None,
    memory: str = MEMORY,
    timeout: float = START_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Return the socket of the embedded index, which is started if it does not run: one connect if it does.

    Of many processes that come at once, one starts it and the others wait for that.

    Args:
        place: where it lives; this user's on this host by default.
        env: the environment, the process's own by default.
        memory: the memory bound of a server that is started now.
        timeout: seconds until it must answer.
        clock: seconds that never go back.
        pause: waits between two looks.

    Raises:
        IndexUnavailableError: it cannot be started, or does not answer in time.
        MissingExtraError: there is no server to start.
    """
    env = os.environ if env is None else env
    place = default_paths(env) if place is None else place
    path = prepare_folder(place)
    if probe(path).state is ServerState.READY:
        return path
    deadline = clock() + timeout
    lock = FileLock(place.start_lock)
    try:
        while (state := probe(path).state) is not ServerState.READY:
            if state is ServerState.SILENT or clock() >= deadline:
                raise _not_ready(state, place, timeout)
            if state is ServerState.ABSENT and lock.try_acquire():
                try:
                    _start(place, path, env, memory=memory, until=lambda: clock() >= deadline, pause=pause)
                finally:
                    lock.release()
            pause(_PAUSE_SECONDS)
    finally:
        lock.close()
    return path


def status(place: EmbeddedPaths | None = None) -> EmbeddedStatus:
    """Tell what the embedded index is and holds, without starting it or making its folder.

    Raises:
        IndexUnavailableError: its folder is not ours, or the server does not answer.
    """
    place = default_paths() if place is None else place
    if not place.folder.exists():
        return EmbeddedStatus(running=False, folder=place.folder)
    path = prepare_folder(place)
    peer = probe(path)
    if peer.state is ServerState.ABSENT:
        return EmbeddedStatus(running=False, folder=place.folder, socket=path, saved_at=_saved_at(place))
    if peer.state is ServerState.SILENT:
        raise _not_ready(peer.state, place, 0)
    info, layers = _ask(path)
    return EmbeddedStatus(
        running=True,
        folder=place.folder,
        socket=path,
        pid=peer.pid,
        server=f"{info.get('server_name', 'redis')} {info.get('valkey_version', info.get('redis_version'))}",
        uptime=int(info["uptime_in_seconds"]),
        layers=layers,
        keys=int(info.get("db0", {}).get("keys", 0)),
        memory=int(info["used_memory"]),
        memory_bound=int(info["maxmemory"]),
        saved_at=_saved_at(place),
        saving=info["aof_last_write_status"] == "ok",
    )


def stop(
    place: EmbeddedPaths | None = None,
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = STOP_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """End the embedded index, everything saved, and wait until its process is gone.

    A server that does not end when it is asked is killed; nothing is lost by that, every write is in its file.

    Returns:
        Whether one was running.

    Raises:
        IndexUnavailableError: it cannot be reached, or does not end in time.
    """
    place = default_paths(env) if place is None else place
    if not place.folder.exists():
        return False
    path = prepare_folder(place)
    deadline = clock() + timeout
    lock = FileLock(place.start_lock)
    try:
        while not lock.try_acquire():  # somebody starts it right now, or stops it
            _in_time(clock() < deadline, place, timeout)
            pause(_PAUSE_SECONDS)
        try:
            while probe(path).state is ServerState.ABSENT:
                if _has_ended(place):
                    return False
                _in_time(clock() < deadline, place, timeout)
                pause(_PAUSE_SECONDS)
            pid = shut_down(path, seconds=max(deadline - clock(), 0.1))
            if pid is not None:
                _kill(pid, place)
                deadline = clock() + timeout
            while not _has_ended(place):
                _in_time(clock() < deadline, place, timeout)
                pause(_PAUSE_SECONDS)
        finally:
            lock.release()
    finally:
        lock.close()
    return True


def _start(
    place: EmbeddedPaths,
    path: Path,
    env: Mapping[str, str],
    *,
    memory: str,
    until: Callable[[], bool],
    pause: Callable[[float], None],
) -> None:
    """Start the server unless one lives, and wait until it listens or `until` says enough; the lock is held."""
    if probe(path).state is not ServerState.ABSENT:
        return
    alive = FileLock(place.alive_lock)
    try:
        if not alive.try_acquire():  # one is about to listen, or about to end, or nobody can reach it any more
            return
        launch(find_binary(env), place, alive, env, memory=memory)
    finally:
        alive.close()
    while probe(path).state is ServerState.ABSENT and not until():
        if _has_ended(place):
            raise start_failed(place)
        pause(_PAUSE_SECONDS)


def _has_ended(place: EmbeddedPaths) -> bool:
    """Tell whether no server lives in `place`: the kernel drops its lock when it has ended, however it did."""
    alive = FileLock(place.alive_lock)
    try:
        return alive.try_acquire()
    finally:
        alive.close()


def _kill(pid: int, place: EmbeddedPaths) -> None:
    """Kill the process that the kernel named as the owner of the socket while it was still connected to us."""
    if not pid:
        raise IndexUnavailableError(
            f"embedded index: the server in {place.folder} does not end, and its process is not known here: "
            f"end the one named in {place.pid} on its host"
        )
    with os_errors(f"end the server, process {pid}, in {place.folder}"):
        os.kill(pid, signal.SIGKILL)


def _ask(path: Path) -> tuple[dict[str, Any], int]:
    """Return what the server says of itself, and how many layers it knows."""
    once = Retry(NoBackoff(), 0)
    try:
        with redis.Redis(unix_socket_path=str(path), socket_timeout=STOP_SECONDS, retry=once) as client:
            info = cast("dict[str, Any]", client.info())
            layers = 0 if info["loading"] else sum(1 for _ in client.scan_iter(_LAYER_KEYS, count=10_000))
    except redis.RedisError as error:
        raise IndexUnavailableError(f"embedded index: the server at {path} does not answer: {error}") from error
    return info, layers


def _saved_at(place: EmbeddedPaths) -> float | None:
    with os_errors(f"look into {place.data}"):
        if not place.data.is_dir():
            return None
        return max((file.stat().st_mtime for file in place.data.iterdir()), default=None)


def _in_time(still: bool, place: EmbeddedPaths, seconds: float) -> None:
    if not still:
        raise IndexUnavailableError(
            f"embedded index: the server in {place.folder} did not end in {seconds:g} s: try again, or end the "
            f"process named in {place.pid}"
        )


def _not_ready(state: ServerState, place: EmbeddedPaths, seconds: float) -> IndexUnavailableError:
    match state:
        case ServerState.SILENT:
            what = "listens and does not answer: try `crossmount index stop`"
        case ServerState.LOADING:
            what = f"still reads its data after {seconds:g} s: try again later"
        case _:
            what = f"cannot be reached after {seconds:g} s: if the process named in {place.pid} runs here, end it"
    return IndexUnavailableError(f"embedded index: the server in {place.folder} {what}")
