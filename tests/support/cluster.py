"""A Cluster of three masters and three replicas that tests can kill, pause, fail over and repair."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis.crc import key_slot

import redis
from crossmount.index import Keys
from crossmount.oci import Digest
from crossmount.redis.slots import slot_of
from support.servers import Server, free_port, starting
from support.several import Several, role_of, until

MASTERS = 3
SLOTS = 16384
QUICK_MS, PATIENT_MS = 2000, 5000
"""After how long a silent node counts as failed: where a failover is wanted, and on a busy machine otherwise."""


@dataclass(slots=True, eq=False)
class Cluster(Several):
    """A running Cluster; `nodes` lists the original masters first."""

    nodes: list[Server]

    def _url(self, login: str) -> str:
        """Return the URL with every second server."""
        return f"redis+cluster://{login}{','.join(f'127.0.0.1:{node.port}' for node in self.nodes[::2])}"

    @contextmanager
    def client(self) -> Iterator["redis.RedisCluster"]:
        """Yield a redis-py client with all rights that knows the current masters."""
        pools: list[redis.ConnectionPool] = []

        class Remembered(redis.ConnectionPool):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                pools.append(self)

        try:
            with redis.RedisCluster.from_url(self.masters()[0].url, connection_pool_class=Remembered) as client:
                yield client
        finally:
            for pool in pools:  # redis-py does not close those of servers whose role has changed
                pool.disconnect()

    def flush(self) -> None:
        """Repair it, and delete all keys and scripts."""
        self.heal()
        for node in self.masters():
            node.flush()

    def heal(self) -> None:
        """Restart or resume every node, forbid failovers, and wait until every master has its replica again."""
        for node in self.nodes:
            node.revive()
        self._configure(timeout=PATIENT_MS, failovers=False)
        until(self.whole, "the Cluster does not become whole")

    def allow_failovers(self) -> None:
        """Let replicas take the place of a master that fails, until `heal`: else only `fail_over` does that."""
        self._configure(timeout=QUICK_MS, failovers=True)

    def _configure(self, *, timeout: int, failovers: bool) -> None:
        for node in self.nodes:
            with node.client() as client:
                client.config_set("cluster-node-timeout", timeout)
                client.config_set("cluster-replica-no-failover", "no" if failovers else "yes")

    def whole(self) -> bool:
        """Return whether every node sees all slots covered, and each master with a replica in sync."""
        masters = {node.port for node in self.masters()}
        return len(masters) == MASTERS and all(_content(node, masters) for node in self.nodes)

    def masters(self) -> list[Server]:
        """Return the servers that report themselves as masters."""
        return [node for node in self.nodes if node.running and role_of(node) == "master"]

    def master_of(self, key: str) -> Server:
        """Return the master of a key's slot."""
        return self.owner_of(key_slot(key.encode()))

    def replica_of(self, master: Server) -> Server:
        """Return the replica of a master."""
        return next(node for node in self.nodes if node.running and _follows(node) == master.port)

    def fail_over(self, master: Server) -> Server:
        """Replace a master by its replica, without loss, and return the replica once it is the master."""
        replica = self.replica_of(master)
        replica.ask("CLUSTER FAILOVER")
        until(lambda: role_of(replica) == "master" and role_of(master) == "slave", "the failover does not end")
        return replica

    def move_slot(self, slot: int, target: Server) -> None:
        """Move a slot and its keys to another master, as resharding does."""
        with self.moving(slot, target):
            pass

    @contextmanager
    def moving(self, slot: int, target: Server) -> Iterator[None]:
        """Move a slot to another master; in the block, half of its keys have moved and the slot has not."""
        source = self.owner_of(slot)
        ids = {server: _id(server) for server in (source, target)}
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
        try:
            keys = sorted(source.ask("CLUSTER GETKEYSINSLOT", slot, 1_000_000))
            _migrate(source, target, keys[: len(keys) // 2])
            yield
        finally:
            _migrate(source, target, source.ask("CLUSTER GETKEYSINSLOT", slot, 1_000_000))
            for server in (target, source):
                server.ask("CLUSTER SETSLOT", slot, "NODE", ids[target])

    def owner_of(self, slot: int) -> Server:
        """Return the master of a slot."""
        shards = self.masters()[0].ask("CLUSTER SLOTS")
        port = next(master[1] for first, last, master, *_ in shards if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)


@contextmanager
def run_cluster(binary: Path, *options: str, login: str = "", operator: str = "") -> Iterator[Cluster]:
    """Run a Cluster; `options` are each server's."""
    with starting() as start_one:
        nodes = [start_one(binary, *_settings(), *options) for _ in range(2 * MASTERS)]
        _join(nodes)
        yield Cluster(nodes, login=login, operator=operator)


def _settings() -> tuple[str, ...]:
    return (
        *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
        *("--cluster-node-timeout", str(QUICK_MS), "--cluster-replica-validity-factor", "0"),
        *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
    )


def _join(nodes: list[Server]) -> None:
    """Assign slots and replicas, and wait until every node sees them."""
    masters, replicas = nodes[:MASTERS], nodes[MASTERS:]
    ids = {node: _id(node) for node in nodes}
    for number, node in enumerate(nodes):
        node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
    for number, node in enumerate(masters):
        first, last = number * SLOTS // MASTERS, (number + 1) * SLOTS // MASTERS - 1
        node.ask("CLUSTER ADDSLOTSRANGE", first, last)
    for other in nodes[1:]:
        nodes[0].ask("CLUSTER MEET", "127.0.0.1", other.port, _bus(other))
    for master, replica in zip(masters, replicas, strict=True):
        until(partial(_knows, replica, ids[master]), "the nodes do not meet")
        replica.ask("CLUSTER REPLICATE", ids[master])
    ports = {node.port for node in masters}
    until(lambda: all(_content(node, ports) for node in nodes), "the Cluster does not come up")


def _migrate(source: Server, target: Server, keys: list[bytes]) -> None:
    if keys:
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)


def _id(node: Server) -> str:
    return str(node.ask("CLUSTER MYID").decode())


def _bus(node: Server) -> int:
    return int(node.ask("CONFIG GET", "cluster-port")["cluster-port"])


def _knows(node: Server, other: str) -> bool:
    return other in str(node.ask("CLUSTER NODES"))


def _follows(node: Server) -> int | None:
    found = node.ask("INFO", "replication")
    return int(found["master_port"]) if found["role"] == "slave" else None


def _content(node: Server, masters: Collection[int]) -> bool:
    """Return whether a node sees all slots covered by these masters, and is in sync with its own master."""
    state = node.ask("CLUSTER INFO")["cluster_state"]
    shards = node.ask("CLUSTER SLOTS")
    mine = node.ask("INFO", "replication")
    return (
        state == "ok"
        and {master[1] for _, _, master, *_ in shards} == masters
        and all(replicas for _, _, _, *replicas in shards)
        and (mine["role"] == "master" or mine["master_link_status"] == "up")
    )


KEYS = Keys()


def slot(digest: Digest) -> int:
    """Return the slot of a layer."""
    found = slot_of(("HGETALL", KEYS.flags(digest)))
    assert found is not None
    return found


def another(cluster: Cluster, server: Server) -> Server:
    """Return another master."""
    return next(master for master in cluster.masters() if master is not server)


def in_step(master: Server) -> None:
    """Wait until a master's replica is in sync."""
    with master.client() as client:
        client.wait(1, 0)
