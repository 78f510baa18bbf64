"""Helpers for tests of the guard: every call of an index, and a link that fails."""

from collections.abc import Callable, Sequence
from typing import Any

from crossmount.index import Knowledge, MountIndex, RegistryTraits, Sighting
from crossmount.redis.link import Link
from crossmount.redis.replies import Command
from support.index_kit import layer, repo

A, DEST = repo("team/a"), repo("team/dest")
ONE = layer(1)

CALLS: dict[str, tuple[Callable[[MountIndex], Any], object]] = {
    "add_source": (lambda index: index.add_source(ONE, A), None),
    "is_mountable": (lambda index: index.is_mountable(ONE, DEST), False),
    "must_mount": (lambda index: index.must_mount(ONE), False),
    "sources": (lambda index: index.sources(ONE, DEST), ()),
    "look_up": (lambda index: index.look_up([ONE], DEST), Knowledge()),
    "record": (lambda index: index.record([Sighting(ONE, A)]), None),
    "forget": (lambda index: index.forget(ONE, A), None),
    "clear_must_mount": (lambda index: index.clear_must_mount(ONE), None),
    "locations": (lambda index: index.locations(ONE), ()),
    "record_traits": (lambda index: index.record_traits("r.example", RegistryTraits(mounts=True)), None),
    "aclose": (lambda index: index.aclose(), None),
}


class FailingLink:
    """A link that raises a chosen error, and otherwise returns None for each command."""

    where = "failing"

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.runs = 0

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Raise the error, or return None for each command."""
        self.runs += 1
        if self.error is not None:
            raise self.error
        return [None] * len(commands)

    async def servers(self) -> Sequence[Link]:
        """Return itself as the only server."""
        return [self]

    async def aclose(self) -> None:
        """Raise the error on closing too."""
        if self.error is not None:
            raise self.error
