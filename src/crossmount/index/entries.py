"""Everything that an index holds, layer by layer: to be counted, verified, taken elsewhere and brought back."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from crossmount.errors import InvalidInputError
from crossmount.index.backing_server import Server, server_of
from crossmount.index.decode import as_map, live_registries, number, registry_field, repository_names
from crossmount.index.entry import LIFE_MAX, LayerEntry, RegistrySources, local_entries_of
from crossmount.index.keys import Keys
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.oci import Digest
from crossmount.redis.execute import ask
from crossmount.redis.key_scan import pages
from crossmount.redis.replies import Command

NAMES_MAX = 1024
"""How many repositories of one layer on one registry are looked at; the index's own bound is far below."""

_BATCH = 256
"""How many keys are read in one round trip."""


async def entries_of(index: object, *, clock: Callable[[], float] = time.time) -> AsyncGenerator[LayerEntry, None]:
    """Yield all that an index holds; a layer that was changed meanwhile may come twice.

    Args:
        index: made by `open_index`, or laid over such a one.
        clock: epoch seconds.

    Raises:
        InvalidInputError: the index can't be listed.
        IndexFailedError: the index does not serve, or does not allow to look at all keys.
    """
    here, server = require_listable(index), server_of(index)
    for entry in here or ():
        yield entry
    if server is None:
        return
    for part in await server.link.parts():
        async with aclosing(pages(part, server.keys.all_layers())) as found:
            async for page in found:
                for entry in await read_entries(server, page.keys, clock()):
                    yield entry


def require_listable(index: object) -> Sequence[LayerEntry] | None:
    """Return what an index holds in this process; None if it lies on a server alone.

    Raises:
        InvalidInputError: it neither can be listed nor lies on a server.
    """
    here = local_entries_of(index)
    if here is None and server_of(index) is None:
        raise InvalidInputError("this index cannot be listed: give what open_index returns")
    return here


async def read_entries(server: Server, keys: Sequence[bytes], now: float) -> list[LayerEntry]:
    """Read what some keys of a server tell: two round trips for each few hundred.

    A layer's flags tell all about it. A set of sources that the flags do not mention, because they made way
    when the server was full, tells of itself. Keys of other kinds tell nothing.

    Args:
        server: the server, or the Cluster.
        keys: as a walk found them.
        now: epoch seconds.

    Raises:
        IndexFailedError: the server does not serve.
    """
    found: list[LayerEntry] = []
    for start in range(0, len(keys), _BATCH):
        found += await _read(server, keys[start : start + _BATCH], now)
    return found


@dataclass(slots=True)
class _Pending:
    """A layer whose sets of sources are still to be read; `left` by registry, None where its set says it."""

    layer: Digest
    left: dict[str, int | None]
    size: int | None = None
    must_mount: bool = False


async def _read(server: Server, keys: Sequence[bytes], now: float) -> list[LayerEntry]:
    named = [
        each for each in map(server.keys.parse, keys) if each is not None and each.kind in {"flags", "sources"}
    ]
    commands: list[Command] = []
    for each in named:
        assert each.layer is not None  # noqa: S101 these kinds are about layers
        flags = server.keys.flags(each.layer)
        commands.append(
            ("HGETALL", flags) if each.kind == "flags" else ("HGET", flags, registry_field(each.registry))
        )
    pending: list[_Pending] = []
    checked: dict[bytes, str | None] = {}
    for each, reply in zip(named, await ask(server.link, commands), strict=True):
        assert each.layer is not None  # noqa: S101 see above
        if each.kind == "flags":
            pending.append(_told_by_flags(each.layer, as_map(reply), now, checked))
        elif not isinstance(reply, bytes) or (number(reply) or 0) <= now:
            pending.append(_Pending(each.layer, {each.registry: None}))
    return await _with_sources(server, pending)


def _told_by_flags(
    layer: Digest, fields: Mapping[bytes, bytes], now: float, checked: dict[bytes, str | None]
) -> _Pending:
    left: dict[str, int | None] = {
        registry: (number(fields[registry_field(registry).encode()]) or 0) - int(now)
        for registry in live_registries(fields, now, checked)
    }
    return _Pending(layer, left, number(fields.get(b"size")), b"must_mount" in fields)


async def _with_sources(server: Server, pending: Sequence[_Pending]) -> list[LayerEntry]:
    commands: list[Command] = []
    for each in pending:
        for registry, left in each.left.items():
            commands += _sources_of(server.keys, each.layer, registry, with_life=left is None)
    replies = iter(await ask(server.link, commands))
    found = []
    for each in pending:
        held = {}
        for registry, told in each.left.items():
            names = tuple(repository_names(next(replies), registry))
            left = _life(next(replies)) if told is None else told
            if names and left > 0:
                held[registry] = RegistrySources(names, min(left, LIFE_MAX))
        if held or each.must_mount:
            found.append(LayerEntry(layer=each.layer, registries=held, size=each.size, must_mount=each.must_mount))
    return found


def _sources_of(keys: Keys, layer: Digest, registry: str, *, with_life: bool) -> list[Command]:
    key = keys.sources(layer, registry)
    members: Command = ("SRANDMEMBER", key, NAMES_MAX)
    return [members, ("PTTL", key)] if with_life else [members]


def _life(milliseconds: Any) -> int:
    """Read how many seconds a set lives; one that would live for ever is not of our making."""
    if not isinstance(milliseconds, int) or milliseconds == -2:
        return 0
    return TTL_SECONDS if milliseconds < 0 else milliseconds // 1000
