"""Helpers for tests of an index: layers, repositories, a clock, a link that records."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis
from crossmount.index import MemoryMountIndex, MountIndex
from crossmount.index.protocol import LayerEntry
from crossmount.oci import Digest, Repository
from crossmount.redis.link import Link
from crossmount.redis.replies import Command

TTL = 1000
"""The life of a layer in the tests, in seconds."""


def layer(number: int = 0) -> Digest:
    """Return the digest with a number."""
    return Digest.of(b"layer %d" % number)


def repo(text: str) -> Repository:
    """Return a repository, on r.example where no other registry is named."""
    return Repository.parse(text if "." in text.split("/", maxsplit=1)[0] else f"r.example/{text}")


class Clock:
    """A clock that moves only when a test sets `now`."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        """Return `now`, in epoch seconds."""
        return self.now


@dataclass(slots=True)
class Store:
    """One kind of index, with the asynchronous interface.

    Attributes:
        age: makes the index behave as if some seconds had passed.
    """

    index: MountIndex
    age: Callable[[float], None]


class FourMethods:
    """An index with only the four methods of `MountableLayers`, as a user may write one."""

    def __init__(self) -> None:
        below = MemoryMountIndex()
        self.add_source = below.add_source
        self.is_mountable = below.is_mountable
        self.must_mount = below.must_mount
        self.sources = below.sources


def about(entries: Sequence[LayerEntry]) -> list[LayerEntry]:
    """Return entries in order of layer, with lives rounded to ten seconds: the server's clock runs meanwhile."""
    return sorted(
        (
            replace(
                entry,
                registries={
                    name: replace(held, seconds_left=round(held.seconds_left, -1))
                    for name, held in entry.registries.items()
                },
            )
            for entry in entries
        ),
        key=lambda entry: entry.layer,
    )


class CountingLink:
    """A link that records commands; each entry of `runs` is one round trip."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.where = link.where
        self.runs: list[list[Command]] = []

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run the commands and record them."""
        self.runs.append(list(commands))
        return await self.link.run(commands)

    async def servers(self) -> Sequence[Link]:
        """Return links to the servers; their runs are not counted."""
        return await self.link.servers()

    async def aclose(self) -> None:
        """Close the link."""
        await self.link.aclose()


def age_keys(client: "redis.Redis", seconds: float, pattern: str = "crossmount:*") -> None:
    """Reduce the remaining life of keys, as if some seconds had passed."""
    for key in list(client.scan_iter(pattern)):
        left = client.pttl(key)
        assert isinstance(left, int)
        if 0 <= left <= seconds * 1000:
            client.delete(key)
        elif left > 0:
            client.pexpire(key, int(left - seconds * 1000))
        if key.endswith((b":flags", b":registries")) and client.type(key) == b"hash":
            _age_fields(client, key, seconds)


def _age_fields(client: "redis.Redis", key: bytes, seconds: float) -> None:
    """Move the ends of sources that a hash has towards now."""
    fields: dict[bytes, bytes] = dict(client.hgetall(key))  # type: ignore[arg-type]  # redis-py says str
    for name, value in fields.items():
        if (name.startswith(b"@") or name == b"home_ends") and value.isdigit() and len(value) <= 11:
            client.hset(key, name, max(0, int(value) - int(seconds)))


def keys_that_stay(client: "redis.Redis") -> list[bytes]:
    """Return the keys of crossmount that should expire and have no life."""
    return [
        key
        for key in client.scan_iter("crossmount:*")
        if client.ttl(key) == -1 and not key.endswith(b":must-mount")
    ]
