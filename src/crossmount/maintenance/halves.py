"""Layers of which a full server has evicted one key and kept another: what is left is mended, or removed.

A layer on the home registry alone has one key. Any other layer has flags, which list its registries, and a set of
sources for each of them. Each use touches all of these, so they are mostly evicted together.
"""

from collections.abc import Sequence

from crossmount.index.decode import as_map, registry_field, registry_name
from crossmount.index.protocol import BackingServer
from crossmount.oci import Digest
from crossmount.redis.execute import run_reads, run_scripted
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
