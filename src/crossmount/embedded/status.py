"""The state of the embedded index: process, content, memory, and the last write to disk."""

from pathlib import Path
from typing import Any, cast

from redis.backoff import NoBackoff
from redis.retry import Retry

import redis
from crossmount._dataclass import dataclass
from crossmount.embedded.files import EmbeddedPaths, default_paths, os_errors, prepare_folder
from crossmount.embedded.process import ServerState, not_ready, probe
from crossmount.errors import IndexUnavailableError

ANSWER_SECONDS = 10.0
"""How long the server may take for each answer."""

_LAYER_KEYS = "crossmount:*}:[fs][lo]*"
"""The flags and the sets of sources of layers; each layer has at least one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedStatus:
    """The state of the embedded index; numbers are 0 and texts empty if no server runs.

    Attributes:
        running: whether a server listens.
        folder: its private folder.
        socket: the path that clients connect to; None before the first start.
        pid: its process; None if unknown.
        server: its name and version, `valkey 9.1.0`.
        uptime: seconds since it started.
        layers: the number of layers, in all namespaces.
        keys: the number of keys.
        memory: bytes in use.
        memory_bound: the memory limit in bytes; at the limit the least recently used layers are evicted.
        saved_at: the last write to disk in Unix time; None if there was none.
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


def status(paths: EmbeddedPaths | None = None) -> EmbeddedStatus:
    """Return the state of the embedded index, without starting it or creating its folder.

    Raises:
        IndexUnavailableError: the folder has another owner, or the server does not answer.
    """
    paths = default_paths() if paths is None else paths
    if not paths.folder.exists():
        return EmbeddedStatus(running=False, folder=paths.folder)
    path = prepare_folder(paths)
    peer = probe(path)
    if peer.state is ServerState.ABSENT:
        return EmbeddedStatus(running=False, folder=paths.folder, socket=path, saved_at=_saved_at(paths))
    if peer.state is ServerState.SILENT:
        raise not_ready(peer.state, paths, 0)
    info, layers = _ask(path)
    return EmbeddedStatus(
        running=True,
        folder=paths.folder,
        socket=path,
        pid=peer.pid,
        server=f"{info.get('server_name', 'redis')} {info.get('valkey_version', info.get('redis_version'))}",
        uptime=int(info["uptime_in_seconds"]),
        layers=layers,
        keys=int(info.get("db0", {}).get("keys", 0)),
        memory=int(info["used_memory"]),
        memory_bound=int(info["maxmemory"]),
        saved_at=_saved_at(paths),
        saving=info["aof_last_write_status"] == "ok",
    )


def _ask(path: Path) -> tuple[dict[str, Any], int]:
    """Return the server's INFO, and the number of its layers."""
    once = Retry(NoBackoff(), 0)
    try:
        with redis.Redis(unix_socket_path=str(path), socket_timeout=ANSWER_SECONDS, retry=once) as client:
            info = cast("dict[str, Any]", client.info())
            layers = (
                0
                if info["loading"]
                else len({key.partition(b"}")[0] for key in client.scan_iter(_LAYER_KEYS, count=10_000)})
            )
    except redis.RedisError as error:
        raise IndexUnavailableError(f"embedded index: the server at {path} does not answer: {error}") from error
    return info, layers


def _saved_at(paths: EmbeddedPaths) -> float | None:
    with os_errors(f"look into {paths.data}"):
        if not paths.data.is_dir():
            return None
        return max((file.stat().st_mtime for file in paths.data.iterdir()), default=None)
