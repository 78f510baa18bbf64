"""The slots of a Cluster: which one a command's keys are in, and which servers have it. No I/O."""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Self

from redis.crc import key_slot

from crossmount._dataclass import dataclass
from crossmount.errors import IndexRefusedError
from crossmount.redis.address import Node

_SLOTS = 16384
_PORT_MAX = 65535

_KEYLESS = frozenset({"PING", "ECHO", "INFO", "SCRIPT", "SCAN", "DBSIZE", "TIME", "CLIENT", "CLUSTER"})
_KEY_AT = {"EVALSHA": 3, "EVAL": 3, "MEMORY": 2, "OBJECT": 2}
"""The place of the first key in commands that do not have it right after their name."""


def slot_of(command: tuple[str | bytes | int, ...]) -> int | None:
    """Return the slot of a command's keys, which all share one; None for a command without keys."""
    name = str(command[0])
    if name in _KEYLESS:
        return None
    key = command[_KEY_AT.get(name, 1)]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def has_keyless(commands: Iterable[tuple[str | bytes | int, ...]]) -> bool:
    """Return whether one of the commands has no key."""
    return not _KEYLESS.isdisjoint([command[0] for command in commands])


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of slots and its servers."""

    first: int
    last: int
    master: Node
    replicas: tuple[Node, ...] = ()


class SlotMap:
    """The servers of all slots.

    Args:
        shards: ranges of slots, in any order; some slots may have no server.
    """

    def __init__(self, shards: Iterable[Shard]) -> None:
        self.shards = sorted(shards, key=lambda shard: shard.first)
        self._firsts = [shard.first for shard in self.shards]
        self.masters = tuple(dict.fromkeys(shard.master for shard in self.shards))
        replicas = dict.fromkeys(replica for shard in self.shards for replica in shard.replicas)
        self.nodes = tuple(dict.fromkeys((*self.masters, *replicas)))

    @classmethod
    def from_reply(cls, reply: Any, asked: Node) -> Self:
        """Read a reply to CLUSTER SLOTS of the server `asked`, whose own host name may be missing in it.

        Raises:
            IndexRefusedError: the reply has another shape, or lists no slot.
        """
        try:
            shards = [
                Shard(
                    _number(first, _SLOTS - 1),
                    _number(last, _SLOTS - 1),
                    _node(master, asked),
                    tuple(_node(replica, asked) for replica in replicas),
                )
                for first, last, master, *replicas in reply
            ]
        except (TypeError, ValueError, IndexError):
            raise IndexRefusedError("index's Cluster answers CLUSTER SLOTS with something else") from None
        if not shards:
            raise IndexRefusedError("index's Cluster serves no slot: is it set up?")
        return cls(shards)

    def shard_of(self, slot: int) -> Shard | None:
        """Return the servers of a slot; None if it has none."""
        at = bisect_right(self._firsts, slot) - 1
        return self.shards[at] if at >= 0 and slot <= self.shards[at].last else None


def _node(entry: Any, asked: Node) -> Node:
    host, port = entry[0], entry[1]
    name = host.decode() if isinstance(host, bytes) else host
    if not isinstance(name, str | None):
        raise TypeError("no host")
    return (asked[0] if name in {None, "", "?"} else str(name)), _number(port, _PORT_MAX)


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("no number, or out of range")
    return value
