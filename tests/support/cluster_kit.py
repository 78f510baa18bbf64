"""Helpers for tests of an index on a Cluster: the slot of a layer, another master, a replica in sync."""

from crossmount.index import Keys
from crossmount.oci import Digest
from crossmount.redis.slots import slot_of
from support.cluster import Cluster
from support.servers import Server

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
        client.wait(1, 5000)
