"""Troubles of the index, made on real servers while a crowd pushes."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from redis.crc import key_slot

from crossmount.index import Keys
from support.cluster import Cluster
from support.crowd import Scene, nothing
from support.link import link
from support.sentinels import Sentinels
from support.servers import Server
from support.several import until
from support.waiting import silent_servers

SILENCE = "does not answer"
PASSWORD = "a secret of the tests"


@contextmanager
def _own_url(place: Any) -> Iterator[str]:
    yield place.url


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One trouble.

    Attributes:
        name: its name in a table.
        kind: the kind of server.
        options: of the server.
        before: prepares the trouble before the pushes; runs in a thread, like `strike`.
        strike: causes the trouble in the middle of the pushes.
        url: the URL for pushers.
        warning: a pattern that each warning matches, "" if no warning is needed.
        silent: whether the server answers not at all, or too late for a push.
        spares: whether still no blob may be uploaded twice.
    """

    name: str
    kind: Literal["server", "cluster", "sentinels"] = "server"
    options: Sequence[str] = ()
    before: Callable[[Scene], None] = nothing
    strike: Callable[[Scene], None] = nothing
    url: Callable[[Any], AbstractContextManager[str]] = _own_url
    warning: str = ""
    silent: bool = False
    spares: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-").replace(",", "")


def again(act: Callable[[Scene], None], *, seconds: float = 0.05) -> Callable[[Scene], None]:
    """Return a strike that repeats an action until all pushes have ended."""

    def keep_on(scene: Scene) -> None:
        while True:
            act(scene)
            if scene.over.wait(seconds):
                return

    return keep_on


def _do(scene: Scene, *commands: tuple[str | int, ...]) -> None:
    with scene.place.client() as client:
        for command in commands:
            client.execute_command(*command)


def _flush_scripts(scene: Scene) -> None:
    _do(scene, ("SCRIPT", "FLUSH"))


def _cut(scene: Scene) -> None:
    _do(scene, ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))


def _follow_nobody(scene: Scene) -> None:
    _do(scene, ("REPLICAOF", "127.0.0.1", 1))


def _fill_up(scene: Scene) -> None:
    _do(scene, ("CONFIG", "SET", "maxmemory", 1))


def _fail_to_save(scene: Scene) -> None:
    """Make the server's saves fail: a folder has the name of its file (root may write everywhere)."""
    place: Server = scene.place
    (place.folder / "full").mkdir()
    _do(
        scene,
        ("CONFIG", "SET", "dbfilename", "full"),
        ("CONFIG", "SET", "save", "3600 1"),
        ("SET", "something", 1),
        ("BGSAVE",),
    )
    with place.client() as client:
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the save does not fail")


_MUCH = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024", "--dbfilename", "rdb")


def _have_much(scene: Scene) -> None:
    _do(scene, ("DEBUG", "POPULATE", 3000), ("SAVE",))


def _load(scene: Scene) -> None:
    """Restart the server, which then needs seconds to load its data."""
    place: Server = scene.place
    place.restart(wait=False)


_STUFFING, _STUFFINGS = "x" * 10_000, 800


def _stuff(scene: Scene, count: int = 5) -> None:
    """Write `count` values that expire, so that a full server evicts as many keys."""
    with scene.place.client() as client:
        for _ in range(count):
            client.set(f"stuffing {client.incr('stuffings')}", _STUFFING, ex=3600)


def _fill_with_stuffing(scene: Scene) -> None:
    """Fill the server up to its bound: from now on it evicts a key for each that is written."""
    with scene.place.client() as client:
        bound = client.info("memory")["used_memory"] + len(_STUFFING) * _STUFFINGS
        client.config_set("maxmemory", bound)
    _stuff(scene, _STUFFINGS)


def _flush(scene: Scene) -> None:
    _do(scene, ("FLUSHALL",))


def _wrong(name: Callable[[Keys, Scene], Sequence[str]], *value: str) -> Callable[[Scene], None]:
    """Return a preparation that writes a value of a wrong type to our keys."""

    def put(scene: Scene) -> None:
        command, *rest = value
        with scene.place.client() as client:
            for key in name(Keys(), scene):
                client.delete(key)
                client.execute_command(command, key, *rest)

    return put


@contextmanager
def _with_wrong_password(place: Server) -> Iterator[str]:
    yield f"redis://:wrong@127.0.0.1:{place.port}/0"


@contextmanager
def _mute(place: Server) -> Iterator[str]:
    """Listen, let the system accept connections, and never answer."""
    del place
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def _far(round_trip: float) -> Callable[[Server], AbstractContextManager[str]]:
    @contextmanager
    def url(place: Server) -> Iterator[str]:
        with link(f"127.0.0.1:{place.port}", round_trip=round_trip) as address:
            yield f"redis://{address}/0"

    return url


ON_A_SERVER = (
    Trouble(name="none", spares=True),
    Trouble(name="server killed", strike=lambda scene: scene.place.stop(), warning=SILENCE, silent=True),
    Trouble(name="server restarted, empty", strike=lambda scene: scene.place.restart(), silent=True),
    Trouble(name="script cache flushed, again and again", strike=again(_flush_scripts), spares=True),
    Trouble(name="READONLY", strike=_follow_nobody, warning="read only|READONLY"),
    Trouble(name="OOM", strike=_fill_up, warning="maxmemory"),
    Trouble(
        name="full, evicts the oldest",
        options=("--maxmemory-policy", "volatile-lru"),
        before=_fill_with_stuffing,
        strike=again(_stuff),
    ),
    Trouble(
        name="full, evicts anything",  # allkeys-lrm of newer Redis 8 and its like evict a part of that
        options=("--maxmemory-policy", "allkeys-random"),
        before=_fill_with_stuffing,
        strike=again(_stuff),
    ),
    Trouble(name="LOADING", options=_MUCH, before=_have_much, strike=_load, silent=True),
    Trouble(
        name="MISCONF",
        options=("--enable-protected-configs", "yes"),
        strike=_fail_to_save,
        warning="MISCONF|RDB snapshots",
    ),
    Trouble(name="connections cut, again and again", strike=again(_cut)),
    Trouble(name="server stops answering", strike=lambda scene: scene.place.pause(), warning=SILENCE, silent=True),
    Trouble(name="a port that accepts and never answers", url=_mute, warning=SILENCE, silent=True),
    Trouble(name="500 ms of latency", url=_far(0.5), warning=SILENCE, silent=True),
    Trouble(name="200 ms of latency", url=_far(0.2), silent=True),
    Trouble(
        name="wrong password", options=("--requirepass", PASSWORD), url=_with_wrong_password, warning="password"
    ),
    Trouble(
        name="wrong type, sources",
        before=_wrong(
            lambda keys, scene: [keys.sources(each, scene.registry) for each in scene.layers], "SET", "x"
        ),
        warning="something else",
    ),
    Trouble(
        name="wrong type, flags",
        before=_wrong(lambda keys, scene: [keys.flags(each) for each in scene.layers], "SET", "x"),
        warning="something else",
    ),
    Trouble(
        name="wrong type, lease",
        before=_wrong(
            lambda keys, scene: [keys.lease(each, scene.registry) for each in scene.layers], "HSET", "x", "y"
        ),
        warning="something else",
    ),
    Trouble(
        name="wrong type, registry", before=_wrong(lambda keys, scene: [keys.traits(scene.registry)], "SET", "x")
    ),
    Trouble(name="FLUSHALL", strike=_flush),
)


def _fail_over(scene: Scene) -> None:
    place: Cluster = scene.place
    place.fail_over(place.master_of(Keys().flags(scene.layers[0])))


def _kill_master(scene: Scene) -> None:
    place: Cluster = scene.place
    place.allow_failovers()
    place.master_of(Keys().flags(scene.layers[0])).stop()


def _move_slots(scene: Scene) -> None:
    """Move the slot of each layer from server to server until all pushes have ended."""
    place: Cluster = scene.place
    while True:
        for layer in scene.layers:
            slot = key_slot(Keys().flags(layer).encode())
            masters = place.masters()
            at = masters.index(place.owner_of(slot))
            with place.moving(slot, masters[(at + 1) % len(masters)]):
                over = scene.over.wait(0.05)
            if over:
                return


def _migrate_slots(scene: Scene) -> None:
    """Move the slot of each layer as Valkey 9 does, all its keys at once, until all pushes have ended."""
    place: Cluster = scene.place
    for node in place.nodes:
        node.ask("ACL", "SETUSER", "replica", "~*", "+@all")
    while True:
        for layer in scene.layers:
            slot = key_slot(Keys().flags(layer).encode())
            masters = place.masters()
            owner = place.owner_of(slot)
            target = masters[(masters.index(owner) + 1) % len(masters)]
            node = target.ask("CLUSTER MYID")
            owner.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", node)
            until(partial(_has_slot, place, target, slot), "the slot does not arrive")
            if scene.over.wait(0.05):
                return


def _has_slot(place: Cluster, server: Server, slot: int) -> bool:
    return place.owner_of(slot) is server


def _silence_replicas(scene: Scene) -> None:
    place: Cluster = scene.place
    for replica in [place.replica_of(master) for master in place.masters()[:2]]:
        replica.pause()


@contextmanager
def _from_replicas(place: Any) -> Iterator[str]:
    yield f"{place.url}?read_from=replica"


@contextmanager
def _after_silent_ones(place: Any) -> Iterator[str]:
    """Name three servers first that accept and never answer."""
    with silent_servers(3) as silent:
        scheme, _, rest = place.url.partition("://")
        login, _, hosts = rest.rpartition("@")
        yield f"{scheme}://{login}{'@' if login else ''}{','.join(silent)},{hosts}"


ON_A_CLUSTER = (
    Trouble(name="Cluster, failover", kind="cluster", strike=_fail_over),
    Trouble(name="Cluster, master killed", kind="cluster", strike=_kill_master, silent=True),
    Trouble(name="Cluster, slots moved", kind="cluster", strike=_move_slots, spares=True),
    Trouble(name="Cluster, slots migrated at once", kind="cluster", strike=_migrate_slots, spares=True),
    Trouble(
        name="Cluster, two of three replicas silent, which are read from",
        kind="cluster",
        url=_from_replicas,
        strike=_silence_replicas,
        silent=True,
    ),
    Trouble(name="Cluster, three silent seeds first", kind="cluster", url=_after_silent_ones, silent=True),
)


def _order_failover(scene: Scene) -> None:
    place: Sentinels = scene.place
    place.fail_over()


def _kill_watched_master(scene: Scene) -> None:
    place: Sentinels = scene.place
    place.allow_failovers()
    place.master().stop()


UNDER_SENTINEL = (
    Trouble(name="Sentinel, failover", kind="sentinels", strike=_order_failover),
    Trouble(name="Sentinel, master killed", kind="sentinels", strike=_kill_watched_master, silent=True),
    Trouble(name="Sentinel, three silent ones first", kind="sentinels", url=_after_silent_ones, silent=True),
)

TROUBLES = (*ON_A_SERVER, *ON_A_CLUSTER, *UNDER_SENTINEL)
