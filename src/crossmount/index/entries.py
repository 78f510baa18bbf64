"""All entries of an index, layer by layer: for counts, verification and export."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.index.decode import (
    REGISTRIES_MAX,
    as_map,
    is_set,
    live_registries,
    number,
    possible_registries,
    registry_field,
    registry_name,
    repository_names,
    split_size,
    texts,
)
from crossmount.index.keys import Keys
from crossmount.index.look_up import TIME, seconds_of
from crossmount.index.protocol import (
    LIFE_MAX,
    BackingServer,
    LayerEntry,
    RegistrySources,
    backing_server,
    local_entries_of,
)
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.oci import Digest
from crossmount.redis.execute import run_reads, scan_pages
from crossmount.redis.replies import Command

NAMES_MAX = 1024
"""The most repositories of one layer on one registry that are read; the index's own limit is far lower."""

_BATCH = 256
"""The number of keys that are read in one round trip."""


async def entries_of(index: object) -> AsyncGenerator[LayerEntry, None]:
    """Yield all entries of an index; a layer that changes meanwhile may come twice.

    Args:
        index: an index that `open_index` returned, or one over it.

    Raises:
        InvalidInputError: the index cannot be listed.
        IndexFailedError: the server does not answer, or does not allow a scan of all keys.
    """
    here, server = require_listable(index), backing_server(index)
    for entry in here or ():
        yield entry
    if server is None:
        return
    for link in await server.link.servers():
        async with aclosing(scan_pages(link, server.keys.all_layers())) as found:
            async for page in found:
                for entry in await read_entries(server, page.keys):
                    yield entry


def require_listable(index: object) -> Sequence[LayerEntry] | None:
    """Return the entries of an index in this process; None if all its entries are on a server.

    Raises:
        InvalidInputError: the index can list no entries, and has no server.
    """
    here = local_entries_of(index)
    if here is None and backing_server(index) is None:
        raise InvalidInputError("this index cannot be listed: give what open_index returns")
    return here


async def read_entries(server: BackingServer, keys: Sequence[bytes]) -> list[LayerEntry]:
    """Return the entries of some keys of a server, in two round trips for each few hundred keys.

    The flags of a layer list its registries. A layer on the home registry alone has none, and a full server may
    evict them and keep a set of sources: such a set yields an entry of its own. A must-mount flag yields an entry
    if the layer has no flags. Keys of other kinds yield nothing.

    Args:
        server: the server, or the Cluster.
        keys: keys that a scan returned.

    Raises:
        IndexFailedError: the server does not answer.
    """
    found: list[LayerEntry] = []
    for start in range(0, len(keys), _BATCH):
        found += await _read(server, keys[start : start + _BATCH])
    return found


async def read_layer(server: BackingServer, layer: Digest) -> LayerEntry | None:
    """Return the entry of one layer; None if nothing is known of it. A pusher may do this.

    Raises:
        IndexFailedError: the server does not answer.
    """
    (known,) = await run_reads(server.link, [("HRANDFIELD", server.keys.registries(), REGISTRIES_MAX)])
    places = [server.keys.sources(layer, registry) for registry in possible_registries(None, known)]
    keys = [server.keys.flags(layer), server.keys.must_mount(layer), *places]
    found = await read_entries(server, [key.encode() for key in keys])
    if not found:
        return None
    merged = {registry: held for entry in found for registry, held in entry.registries.items()}
    return LayerEntry(
        layer=layer,
        registries=dict(sorted(merged.items())),
        size=next((entry.size for entry in found if entry.size is not None), None),
        must_mount=any(entry.must_mount for entry in found),
    )


@dataclass(slots=True)
class _Pending:
    """A layer whose sets of sources are not read yet.

    Attributes:
        seconds_left: by registry; None if the set's own TTL has to be read.
        is_flag: whether it was found by its must-mount flag: if it has sources, their key yields the entry.
    """

    layer: Digest
    seconds_left: dict[str, int | None]
    size: int | None = None
    must_mount: bool = False
    is_flag: bool = False


async def _read(server: BackingServer, keys: Sequence[bytes]) -> list[LayerEntry]:
    named = [
        each
        for each in map(server.keys.parse, keys)
        if each is not None and each.kind in {"flags", "sources", "must-mount"}
    ]
    if not named:
        return []
    commands: list[Command] = [TIME, ("HGET", server.keys.registries(), "home")]
    for each in named:
        assert each.layer is not None  # noqa: S101 these kinds have a layer
        flags = server.keys.flags(each.layer)
        commands += [
            ("HGET", flags, registry_field(each.registry)) if each.kind == "sources" else ("HGETALL", flags),
            ("HGET", server.keys.must_mount(each.layer), "since"),
        ]
    pending: list[_Pending] = []
    checked: dict[bytes, str | None] = {}
    replies = iter(await run_reads(server.link, commands))
    now, home = seconds_of(next(replies), 0.0), registry_name(next(replies))
    for each, reply, since in zip(named, replies, replies, strict=True):
        assert each.layer is not None  # noqa: S101 see above
        if each.kind == "sources":
            if not isinstance(reply, bytes) or (number(reply) or 0) <= now:
                pending.append(_Pending(each.layer, {each.registry: None}, must_mount=is_set(since)))
        elif each.kind == "must-mount":
            if is_set(since) and not as_map(reply):
                at_home: dict[str, int | None] = {} if home is None else {home: None}
                pending.append(_Pending(each.layer, at_home, must_mount=True, is_flag=True))
        else:
            pending.append(_from_flags(each.layer, as_map(reply), now, checked, must_mount=is_set(since)))
    return await _with_sources(server, pending)


def _from_flags(
    layer: Digest,
    fields: Mapping[bytes, bytes],
    now: float,
    checked: dict[bytes, str | None],
    *,
    must_mount: bool,
) -> _Pending:
    left: dict[str, int | None] = {
        registry: (number(fields[registry_field(registry).encode()]) or 0) - int(now)
        for registry in live_registries(fields, now, checked)
    }
    return _Pending(layer, left, number(fields.get(b"size")), must_mount)


async def _with_sources(server: BackingServer, pending: Sequence[_Pending]) -> list[LayerEntry]:
    commands: list[Command] = []
    for each in pending:
        for registry, left in each.seconds_left.items():
            commands += _sources_of(server.keys, each.layer, registry, with_life=left is None)
    replies = iter(await run_reads(server.link, commands))
    found = []
    for each in pending:
        held, size = {}, each.size
        for registry, known in each.seconds_left.items():
            found_size, members = split_size(texts(next(replies)))
            size = found_size if size is None else size
            names = tuple(repository_names(list(members), registry))
            left = _life(next(replies)) if known is None else known
            if names and left > 0:
                held[registry] = RegistrySources(names, min(left, LIFE_MAX))
        if (held or each.must_mount) and not (held and each.is_flag):
            found.append(
                LayerEntry(
                    layer=each.layer, registries=held, size=size if held else None, must_mount=each.must_mount
                )
            )
    return found


def _sources_of(keys: Keys, layer: Digest, registry: str, *, with_life: bool) -> list[Command]:
    key = keys.sources(layer, registry)
    members: Command = ("SRANDMEMBER", key, NAMES_MAX)
    return [members, ("TTL", key)] if with_life else [members]


def _life(seconds: Any) -> int:
    """Return the seconds that a set lives; a set without an expiry is not ours, and gets the usual one."""
    if not isinstance(seconds, int) or seconds == -2:
        return 0
    return TTL_SECONDS if seconds < 0 else seconds
