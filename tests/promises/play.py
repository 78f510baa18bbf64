"""A world made real, with one push in it: by our library, by our command, or by a plain client."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import crossmount.asyncio as crossmount
from crossmount.asyncio import ClientOptions, CrossmountError, Digest, Reference, Sighting
from crossmount.events import Observer, ignore
from crossmount.redis import call
from crossmount.testing import ScriptedRegistry
from promises.hosts import Relay, Stranger, listening, relaying
from promises.image import TAG, Content, write_layout
from promises.raw import calling, can_mount, push_plainly
from promises.registry import TRIED, UPLOADS, login_of, registry_of, write_login
from promises.worlds import DEST, SECOND, Family, Layer, World
from support.registry_kit import QUICK
from support.servers import Server
from support.waiting import until

SLOW_READ = 0.5
"""Seconds that an answer is waited for, with `SLOW_COMMIT`."""

PATIENT = 20.0
"""Seconds that the index is waited for where it answers, so that a busy machine makes no silent one of it."""

TIMEOUT = 40.0
"""Seconds in which every push ends."""

INDEX_PASSWORD = "Ind3x/of the:world"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a push ended.

    Attributes:
        error: why it failed, None if it succeeded.
        tag: the digest of the manifest that the tag names.
        manifests: the digests of the manifests in the destination.
        blobs: the digests of the image's blobs in the destination.
        received: how many bytes of blobs arrived at the registry, in all requests.
        refused: how many of the requests with bytes met a fault.
        uploads: how often each blob was uploaded whole.
        stray: exceptions that nobody retrieved.
        requests: how many requests the registry got.
        untrue: what the push wrote to the index and is not so: a layer, and a repository that does not hold it.
    """

    error: str | None
    tag: Digest | None = None
    manifests: frozenset[Digest] = frozenset()
    blobs: frozenset[Digest] = frozenset()
    received: int = 0
    refused: int = 0
    uploads: Mapping[Digest, int] = field(default_factory=dict)
    stray: tuple[str, ...] = ()
    requests: int = 0
    untrue: frozenset[tuple[Digest, str]] = frozenset()


@asynccontextmanager
async def index_of(
    world: World, registry: ScriptedRegistry, content: Content, server: Server
) -> AsyncIterator[Relay]:
    """Fill the index's server with what a world's index says, and put a relay before it."""
    await asyncio.to_thread(server.flush)
    await _fill(world, registry, content, server)
    if Family.INDEX_PASSWORD in world:
        rule = f">{INDEX_PASSWORD}"
        await asyncio.to_thread(server.ask, "ACL", "SETUSER", "world", "reset", "on", "~*", "+@all", rule)
    then: Literal["silent", "gone"] = "silent" if Family.INDEX_SILENT in world else "gone"
    lasts = world.index_lasts if Family.INDEX_SILENT in world or Family.INDEX_GONE in world else None
    async with relaying(server.socket, lasts=lasts, then=then) as relay:
        yield relay


async def _fill(world: World, registry: ScriptedRegistry, content: Content, server: Server) -> None:
    def sightings(layer: Layer, digest: Digest) -> list[Sighting]:
        names = (*layer.known, *((DEST,) if Family.STALE_DEST in world else ()))
        size = 7 if Family.WRONG_SIZES in world else layer.size
        repositories = [Reference.parse(f"{registry.address}/{name}").repository for name in names]
        return [Sighting(digest, repository, size) for repository in repositories]

    async with crossmount.open_index(server.unix_url) as index:
        pairs = list(zip(world.layers, content.layers, strict=True))
        await index.record([seen for layer, (digest, _) in pairs for seen in sightings(layer, digest)])
        for layer, (digest, _) in pairs:
            if layer.must_mount:
                at = Reference.parse(f"{registry.address}/{(*layer.known, 'team/gone-0')[0]}").repository
                await index.add_source(digest, at, must_mount=True)
        if Family.WRONG_TRAITS in world:
            does = world.trait
            traits = crossmount.RegistryTraits(mounts=does, finds=does, after_manifest=not does)
            await index.record_traits(registry.address, traits)
    if Family.STRANGE_MEMBERS in world or Family.STRANGE_TYPES in world:
        await asyncio.to_thread(_make_strange, world, server)


def _make_strange(world: World, server: Server) -> None:
    """Change what the server has, whatever the names of the keys mean."""
    strange = ("", "../x", "UPPER/case", "a" * 300, "other.example/x", "team/app?from=x", "a\r\nb", "team/app")
    with server.client() as client:
        for number, key in enumerate(sorted(client.scan_iter())):
            kind = client.type(key)
            if Family.STRANGE_TYPES in world and number % 2:
                client.delete(key)
                client.rpush(key, "strange")
            elif kind == b"set":
                client.sadd(key, *strange)
            elif kind == b"hash":
                client.hset(key, mapping={"size": "-1e9", "@": "x", "@bad host": "9" * 40, "\xff": "?"})


@dataclass(frozen=True, slots=True)
class Stage:
    """A world that runs, and what a caller needs to push in it.

    Attributes:
        layout: the image's folder.
        dest: the reference to push to.
        options: how to reach the registry.
        index_url: of the index's server; None without an index.
        stranger: the host that no secret is for.
        source: another registry that holds the image, to copy it from; None pushes the layout.
    """

    registry: ScriptedRegistry
    relay: Relay
    stranger: Stranger
    layout: Path
    dest: str
    options: ClientOptions
    index_url: str | None
    source: ScriptedRegistry | None = None


@asynccontextmanager
async def staged(
    world: World, content: Content, server: Server, folder: Path, *, copies: bool = False
) -> AsyncIterator[Stage]:
    """Run a world: its registry, its index and another host; with `copies`, an open registry to copy from too."""
    TRIED["worlds"] += 1
    async with AsyncExitStack() as stack:
        if Family.INDEX_SILENT not in world:
            stack.enter_context(patch.object(call, "CALL_SECONDS", PATIENT))
        stranger = await stack.enter_async_context(listening())
        registry = await stack.enter_async_context(registry_of(world, content, stranger=stranger.url))
        relay = await stack.enter_async_context(index_of(world, registry, content, server))
        options = ClientOptions(
            plain_http=True,
            retry=QUICK,
            authfile=write_login(world, registry, folder),
            read_timeout=SLOW_READ if Family.SLOW_COMMIT in world else 20.0,
        )
        has_password = Family.INDEX_PASSWORD in world or Family.INDEX_WRONG_PASSWORD in world
        url = relay.url(("world", INDEX_PASSWORD) if has_password else None)
        yield Stage(
            registry,
            relay,
            stranger,
            write_layout(world, content, folder / "image"),
            f"{registry.address}/{DEST}:{TAG}",
            options,
            None if Family.INDEX_OFF in world else url,
            await stack.enter_async_context(_holding(content)) if copies else None,
        )


@asynccontextmanager
async def _holding(content: Content) -> AsyncIterator[ScriptedRegistry]:
    """Run an open registry that holds an image."""
    async with ScriptedRegistry() as registry, calling(registry, None) as client:
        assert await push_plainly(client, content.blobs, content.manifests, TAG)
        yield registry


async def push_with_index(
    world: World, content: Content, server: Server, folder: Path, *, copies: bool = False
) -> Ending:
    """Push or copy a world's image by the library, through the world's index."""
    stray: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(str(context)))
    async with staged(world, content, server, folder, copies=copies) as stage:
        error: str | None = None
        before = await _indexed(content, server)
        try:
            await push(stage)
        except CrossmountError as raised:
            error = f"{type(raised).__name__}: {raised}"
        await until(lambda: not stage.registry.underway)  # a request that our push gave up counts too
        learnt = await _indexed(content, server) - before
        holdings = stage.registry.holdings
        untrue = {(digest, name) for digest, name in learnt if digest not in holdings.find(name).blobs}
        return replace(_ending(stage.registry, content, error, stray), untrue=frozenset(untrue))


async def _indexed(content: Content, server: Server) -> set[tuple[Digest, str]]:
    """Return which repositories hold which blobs, as the index says."""
    async with crossmount.open_index(server.unix_url) as index:
        return {(digest, at.name) for digest in content.blobs for at in await index.locations(digest)}


async def push_both(world: World, content: Content, server: Server, folder: Path) -> tuple[Ending, Ending]:
    """Push a world's image into two repositories at once."""
    async with staged(world, content, server, folder) as stage:
        second = replace(stage, dest=f"{stage.registry.address}/{SECOND}:{TAG}")
        await asyncio.gather(push(stage), push(second))
        ends = [_ending(stage.registry, content, None, [], name) for name in (DEST, SECOND)]
        return ends[0], ends[1]


async def push(stage: Stage, observer: Observer = ignore) -> crossmount.PushReport | crossmount.CopyReport:
    """Push by the library, or copy if there is a registry to copy from.

    Raises:
        CrossmountError: as `crossmount.push`.
        TimeoutError: the push does not end.
    """
    async with AsyncExitStack() as stack:
        index = None
        if stage.index_url is not None:
            index = crossmount.open_index(stage.index_url)
            stack.push_async_callback(index.aclose)
        async with asyncio.timeout(TIMEOUT):
            if stage.source is not None:
                source = f"{stage.source.address}/{DEST}:{TAG}"
                return await crossmount.copy(
                    source, stage.dest, index=index, options=stage.options, observer=observer
                )
            return await crossmount.push(
                stage.layout, stage.dest, index=index, options=stage.options, observer=observer
            )


async def push_without(world: World, content: Content) -> Ending:
    """Push a world's image as a plain client does, which knows no index and mounts nothing."""
    async with registry_of(world, content, slow=False) as registry, calling(registry, login_of(world)) as client:
        pairs = list(zip(world.layers, content.layers, strict=True))
        missing = {digest for layer, (digest, _) in pairs if layer.missing}
        blobs = {digest: data for digest, data in content.blobs.items() if digest not in missing}
        is_whole = all(layer.in_dest or not layer.missing for layer in world.layers)
        pushed = is_whole and await push_plainly(client, blobs, content.manifests, TAG)
        return _ending(registry, content, None if pushed else "refused", [])


async def mountable(world: World, content: Content) -> frozenset[Digest]:
    """Return the blobs that the caller can mount, by asking for each from every repository of the index."""
    found = set()
    async with registry_of(world, content) as registry, calling(registry, login_of(world)) as client:
        for layer, (digest, _) in zip(world.layers, content.layers, strict=True):
            for source in (*layer.known, None):
                if await can_mount(client, registry, digest, source):
                    found.add(digest)
                    break
    return frozenset(found)


def _ending(
    registry: ScriptedRegistry, content: Content, error: str | None, stray: list[str], name: str = DEST
) -> Ending:
    dest = registry.holdings.find(name)
    sent = registry.matching(method="PUT|PATCH", path=UPLOADS)
    return Ending(
        error,
        dest.tags.get(TAG),
        frozenset(dest.manifests),
        frozenset(dest.blobs & content.blobs.keys()),
        sum(record.received for record in sent),
        sum(1 for record in sent if record.fault),
        {digest: registry.uploads(digest) for digest in content.blobs},
        tuple(stray),
        len(registry.requests),
    )
