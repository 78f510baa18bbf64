"""Repairs of an index's data: layers of which a full server evicted a part, and must-mount flags of 0.1.0.

A layer on the home registry alone has one key. Any other layer has flags, which list its registries, and a set of
sources for each of them. Each use touches all of these, so they are mostly evicted together.

All else that 0.1.0 wrote is still read; pushes rewrite it in today's form.
"""

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import Any, Literal

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.index.decode import as_map, registry_field, registry_name
from crossmount.index.entries import read_layer
from crossmount.index.must_mount import OLD_FIELD, clear_old_flag, set_must_mount, this_user
from crossmount.index.protocol import BackingServer, backing_server
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.oci import Digest, Repository
from crossmount.redis.execute import run_reads, run_scripted, scan_pages
from crossmount.redis.replies import Command
from crossmount.redis.scripts import load_script


async def mend_halves(server: BackingServer, keys: Sequence[bytes]) -> int:
    """Mend the layers of some keys: flags forget registries without sources, and name those that have some.

    Args:
        server: the server, or the Cluster.
        keys: keys that a scan returned.

    Returns:
        How many registries of layers were mended.

    Raises:
        IndexFailedError: the server does not answer, or refuses.
    """
    named = [each for each in map(server.keys.parse, keys) if each is not None and each.layer is not None]
    flags = [each.layer for each in named if each.kind == "flags" and each.layer is not None]
    sources = [(each.layer, each.registry) for each in named if each.kind == "sources" and each.layer is not None]
    home, *replies = await run_reads(
        server.link,
        [("HGET", server.keys.registries(), "home"), *(("HGETALL", server.keys.flags(layer)) for layer in flags)],
    )
    listed = [
        (layer, registry)
        for layer, reply in zip(flags, replies, strict=True)
        for field in as_map(reply)
        if field.startswith(b"@") and (registry := registry_name(field[1:])) is not None
    ]
    at_home = registry_name(home)
    mend = [_mend(server, place, at_home) for place in sources if at_home is not None and place[1] != at_home]
    exist = await run_reads(server.link, [("EXISTS", server.keys.sources(*place)) for place in listed])
    gone = [place for place, there in zip(listed, exist, strict=True) if there == 0]
    replies = await run_scripted(server.link, [*mend, *(_forget(server, place) for place in gone)])
    return len(gone) + sum(reply for reply in replies[: len(mend)] if isinstance(reply, int))


def _mend(server: BackingServer, place: tuple[Digest, str], home: str) -> Command:
    layer, registry = place
    keys = (server.keys.flags(layer), server.keys.sources(layer, registry), server.keys.sources(layer, home))
    return load_script("mend", "crossmount.index").call(keys, registry_field(registry), registry_field(home))


def _forget(server: BackingServer, place: tuple[Digest, str]) -> Command:
    layer, registry = place
    keys = (server.keys.sources(layer, registry), server.keys.flags(layer))
    return load_script("forget", "crossmount.index").call(keys, registry_field(registry))


LISTED_MAX = 1000
"""How many flags the report lists."""

WHY = "a flag of 0.1.0, where any pusher could set it: carried over by `crossmount index upgrade`"

Done = Literal["nothing", "carried over", "cleared"]
"""What an upgrade did with the flags that it found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldFlag:
    """A must-mount flag of 0.1.0. Who set it, and when, was not recorded.

    Attributes:
        layer: the flagged layer.
        size: its bytes, if known.
        sources: the repositories that hold it, in order.
    """

    layer: Digest
    size: int | None
    sources: tuple[Repository, ...]

    def to_json(self) -> dict[str, Any]:
        """Return its part of the document."""
        return {"layer": self.layer, "size": self.size, "sources": [str(source) for source in self.sources]}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeReport:
    """What an upgrade did.

    Attributes:
        done: what was done with the flags; nothing in a dry run.
        flags: how many flags of 0.1.0 were found.
        found: the first of them.
        looked_at: how many layers' flags were looked at.
    """

    done: Done
    flags: int
    found: tuple[OldFlag, ...]
    looked_at: int

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount index upgrade --json` prints."""
        return {
            "dry_run": self.done == "nothing",
            "cleared": self.done == "cleared",
            "must_mount_flags": self.flags,
            "layers": [flag.layer for flag in self.found],
            "flags": [flag.to_json() for flag in self.found],
            "layers_looked_at": self.looked_at,
        }


async def upgrade_index(
    index: object, *, only: Collection[Digest] = (), clear: bool = False, dry_run: bool = False
) -> UpgradeReport:
    """Carry the must-mount flags of 0.1.0 over. It scans all keys of the server, so it is for operators.

    Anybody who could push could set an old flag: a dry run lists them first. Each flag is carried over by itself,
    so an upgrade that was interrupted goes on when it is called again.

    Args:
        index: made by `open_index`, or a wrapper of such an index.
        only: the layers whose flags to carry over; the others stay as they are, without effect. Empty for all.
        clear: remove the flags, instead of carrying them over.
        dry_run: change nothing.

    Raises:
        InvalidInputError: the index is not on a server.
        IndexFailedError: the index did not answer, refused, or its user may not do this.
    """
    server = backing_server(index)
    if server is None:
        raise InvalidInputError("this index has nothing to upgrade: it is not on a server")
    done: Done = "nothing" if dry_run else "cleared" if clear else "carried over"
    found: list[OldFlag] = []
    flags = looked_at = 0
    async with aclosing(_layers_of(server, only)) as pages:
        async for layers in pages:
            flagged = await _flagged(server, layers)
            found += [await _shown(server, layer) for layer in flagged[: LISTED_MAX - len(found)]]
            if done == "carried over" and flagged:
                await set_must_mount(server, flagged, who=this_user(), why=WHY)
            if done != "nothing" and flagged:
                await run_scripted(
                    server.link, [clear_old_flag(server, layer, ttl=TTL_SECONDS) for layer in flagged]
                )
            looked_at, flags = looked_at + len(layers), flags + len(flagged)
    shown = tuple(sorted(found, key=lambda flag: flag.layer))
    return UpgradeReport(done=done, flags=flags, found=shown, looked_at=looked_at)


async def _layers_of(server: BackingServer, only: Collection[Digest]) -> AsyncGenerator[list[Digest], None]:
    """Yield the layers to look at, some at a time: those that were named, or all that have flags."""
    if only:
        yield list(dict.fromkeys(only))
        return
    for link in await server.link.servers():
        async with aclosing(scan_pages(link, server.keys.all_flags())) as pages:
            async for page in pages:
                yield [named.layer for key in page.keys if (named := server.keys.parse(key)) and named.layer]


async def _flagged(server: BackingServer, layers: Sequence[Digest]) -> list[Digest]:
    """Return those layers that have a flag of 0.1.0."""
    replies = await run_reads(server.link, [("HEXISTS", server.keys.flags(layer), OLD_FIELD) for layer in layers])
    return [layer for layer, reply in zip(layers, replies, strict=True) if reply == 1]


async def _shown(server: BackingServer, layer: Digest) -> OldFlag:
    entry = await read_layer(server, layer)
    if entry is None:
        return OldFlag(layer=layer, size=None, sources=())
    sources = tuple(
        Repository(registry, name) for registry, held in entry.registries.items() for name in held.names
    )
    return OldFlag(layer=layer, size=entry.size, sources=sources)
