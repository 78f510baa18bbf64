"""Requests that are passed on, and what is learnt or mounted on the way: blobs, manifests, everything else."""

import asyncio
from dataclasses import dataclass

from crossmount.errors import InvalidManifestError
from crossmount.oci import Manifest, Repository
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.core import Core, outgoing
from crossmount.proxy.http.errors import unavailable
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, request_headers
from crossmount.proxy.http.routes import BlobRoute, ManifestRoute, Route
from crossmount.proxy.http.upstream import RequestBody
from crossmount.proxy.uploads.turns import BlobOutcome

_SMALL = 256 * 1024
_LARGE_SECONDS = 30.0


async def pass_on(
    core: Core, exchange: Exchange, route: Route, caller: Caller, *, held: RequestBody | None = None
) -> int:
    """Send a request on, with its body or the one `held` back, and its answer as it comes; returns its status."""
    name = getattr(route, "name", None)
    async with core.upstream.request(
        exchange.method,
        core.upstream.target(exchange.raw_path, exchange.query),
        headers=request_headers(exchange.headers),
        authorize=caller.authorization_for(None if name is None else core.repository(name), exchange.method),
        body=held or outgoing(exchange),
    ) as response:
        await core.upstream.forward_answer(exchange, response)
        return response.status_code


@dataclass(frozen=True, slots=True)
class _Head:
    """What the registry says to a HEAD of a blob."""

    status: int
    headers: HeaderPairs
    size: int | None


async def head_blob(core: Core, exchange: Exchange, route: BlobRoute, caller: Caller) -> None:
    """Say whether a repository holds a blob; if it does not and it can be mounted, say so after that.

    The answer is always the registry's own: its first, or after a mount its second. Any doubt is its first.
    """
    dest = core.repository(route.name)
    async with core.heads:
        head = await _ask_head(core, exchange, dest, caller)
        placed = await core.mounting.place(caller, dest, route.digest) if head.status == 404 else None
    if placed is not None:
        brought = BlobOutcome(mounted=placed) if placed.mounted else await core.turns.look(caller, placed)
        if brought is not None:
            core.sessions.note_push(caller.key, route.name)
            exchange.note, exchange.waited = brought.word, brought.waited
            async with core.heads:
                head = await _ask_head(core, exchange, dest, caller)
    if head.status == 200:
        core.metrics.count_blob(exchange.note or "existing", head.size)
        core.recorder.record_blob(dest, route.digest, head.size)
    await exchange.start(head.status, head.headers)
    await exchange.write(b"", more=False)


async def _ask_head(core: Core, exchange: Exchange, dest: Repository, caller: Caller) -> _Head:
    async with core.upstream.request(
        "HEAD",
        core.upstream.target(exchange.raw_path, exchange.query),
        headers=request_headers(exchange.headers),
        authorize=caller.authorization_for(dest, "HEAD"),
    ) as response:
        length = response.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else None
        return _Head(response.status_code, core.upstream.answer_headers(exchange, response), size)


async def put_manifest(core: Core, exchange: Exchange, route: ManifestRoute, caller: Caller) -> None:
    """Send a manifest on, and learn from it if it is accepted.

    It is held in memory, so of those that may be large only some are at a time.
    """
    length = exchange.content_length
    if length is not None and length <= _SMALL:
        await _put_manifest(core, exchange, route, caller)
        return
    try:
        async with asyncio.timeout(_LARGE_SECONDS):
            await core.large_manifests.acquire()
    except TimeoutError:
        raise unavailable("too many large manifests are under way: try again later") from None
    try:
        await _put_manifest(core, exchange, route, caller)
    finally:
        core.large_manifests.release()


async def _put_manifest(core: Core, exchange: Exchange, route: ManifestRoute, caller: Caller) -> None:
    content = await exchange.read(core.manifest_limit)
    status = await pass_on(core, exchange, route, caller, held=RequestBody(content, len(content)))
    if status in {200, 201, 202}:
        kind = (exchange.header(b"content-type") or "").partition(";")[0].strip() or None
        try:
            manifest = Manifest.parse(content, media_type=kind, where=f"{route.name}:{route.target}")
        except InvalidManifestError:
            return  # the registry knows more kinds than we do
        dest = core.repository(route.name)
        core.recorder.record_manifest(caller.agent, dest, manifest)
        await core.turns.accepted(dest, manifest)
        if route.digest is None:  # the tag comes last
            core.sessions.end_push(caller.key, route.name)
