"""`POST …/blobs/uploads/`: a mount if there is any, otherwise the session that the registry opens."""

from dataclasses import dataclass

import httpx

from crossmount.oci import Digest
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.core import Core, outgoing
from crossmount.proxy.http.answers import answer_brought, refuse_required
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, blob_request_headers
from crossmount.proxy.http.routes import SessionRoute, UploadsRoute
from crossmount.proxy.http.upstream import RequestBody, read_bounded
from crossmount.proxy.uploads.mounting import Placed
from crossmount.proxy.uploads.relay import upload_whole
from crossmount.proxy.uploads.spool import SpoolFile, SpoolFullError
from crossmount.proxy.uploads.turns import BlobOutcome
from crossmount.registry import UploadSession
from crossmount.registry.http.location import resolve

_IGNORED_MAX = 64 * 1024
_OWN_SESSION = frozenset({b"location", b"docker-upload-uuid", b"range", b"content-length"})


@dataclass(frozen=True, slots=True)
class _DeferredAnswer:
    """An answer that is held back until it is known whether a better one can be had."""

    status: int
    headers: HeaderPairs
    body: bytes
    location: str | None


async def start_upload(core: Core, exchange: Exchange, route: UploadsRoute, caller: Caller) -> None:
    """Answer the request that begins an upload or a mount."""
    core.sessions.check_capacity(caller.key)
    core.sessions.note_push(caller.key, route.name)
    if route.mount is not None:
        await _mount(core, exchange, route, route.mount, caller)
        return
    if route.digest is not None:
        await _whole(core, exchange, route, route.digest, caller)
        return
    await exchange.read(_IGNORED_MAX)  # some clients send `{}`, nobody means anything by it
    await _settle(core, exchange, route, caller, await _ask(core, exchange, route, caller, route.query()))


async def _whole(core: Core, exchange: Exchange, route: UploadsRoute, digest: Digest, caller: Caller) -> None:
    """A blob that comes whole with this request: mount it, or send it on, a large one when it is its turn.

    It waits in the client meanwhile: not a byte of it is read before.
    """
    placed = await core.mounting.place(caller, core.repository(route.name), digest)
    refuse_required(placed)
    if placed.mounted:
        await answer_brought(core, exchange, placed, BlobOutcome(mounted=placed))
        return
    if core.turns.takes(caller, exchange.content_length):
        await _in_turn(core, exchange, route, caller, placed)
        return
    kept = await _ask(core, exchange, route, caller, route.query(), outgoing(exchange))
    if kept.status == 201:
        core.recorder.record_blob(placed.dest, digest, exchange.received)
        core.metrics.count_blob("uploaded", exchange.received)
        exchange.note = "uploaded"
    await _settle(core, exchange, route, caller, kept)


async def _in_turn(core: Core, exchange: Exchange, route: UploadsRoute, caller: Caller, placed: Placed) -> None:
    """Let the registry open a session first: others wait only for one who may upload."""
    kept = await _ask(core, exchange, route, caller, "")
    if kept.location is None:
        await _give(exchange, kept)
        return
    session = core.sessions.add(caller.key, route.name, kept.location, agent=caller.agent)
    try:
        at = SessionRoute(route.name, session.key, placed.digest)
        await upload_whole(core, exchange, at, caller, session, placed)
    finally:
        if core.sessions.has(session.key, caller.key, route.name):
            await core.drop_session(session)  # its name was given to nobody


async def _mount(core: Core, exchange: Exchange, route: UploadsRoute, digest: Digest, caller: Caller) -> None:
    """The client's own source first, then ours, then the registry's own way."""
    await exchange.read(0)
    dest = core.repository(route.name)
    policy = core.mounting.policy
    kept: _DeferredAnswer | None = None
    if route.source is not None and policy.allows(route.source):
        kept = await _ask(core, exchange, route, caller, route.query())
        if kept.status == 201:
            core.recorder.record_client_mount(caller.agent, digest, dest, core.repository(route.source))
            exchange.note = "mounted"
            await _give(exchange, kept)
            return
        if kept.status not in {202, 400, 401, 403, 404, 405}:
            await _give(exchange, kept)
            return
    tried = () if route.source is None else (route.source,)
    placed = await core.mounting.place(caller, dest, digest, without=tried)
    brought = BlobOutcome(mounted=placed) if placed.mounted else await core.turns.look(caller, placed)
    if brought is not None or placed.refused:
        await _cancel(caller, core, route, kept)
    refuse_required(placed)
    if brought is not None:
        await answer_brought(core, exchange, placed, brought)
        return
    if kept is None or kept.status != 202:
        # Without `from` the registry may find it by itself, where it may take it from anywhere.
        finds = kept is None and route.source is None and policy.unlimited
        kept = await _ask(core, exchange, route, caller, route.query() if finds else route.rest)
    await _settle(core, exchange, route, caller, kept)


async def _ask(
    core: Core,
    exchange: Exchange,
    route: UploadsRoute,
    caller: Caller,
    query: str,
    body: RequestBody | None = None,
) -> _DeferredAnswer:
    """Ask the registry with the caller's own rights, and hold its answer back."""
    target = core.upstream.target(f"/v2/{route.name}/blobs/uploads/".encode(), query.encode("ascii"))
    if body is None:
        body = RequestBody(exchange.body(), 0)
    async with core.upstream.request(
        "POST",
        target,
        headers=blob_request_headers(exchange.headers),
        authorize=caller.authorization_for(core.repository(route.name), "POST"),
        body=body,
    ) as response:
        content = await read_bounded(response)
        location = None
        if response.status_code == 202:
            location = str(resolve(response.headers.get("location"), request=target.url))
        return _DeferredAnswer(response.status_code, _returned(core, exchange, response), content, location)


def _returned(core: Core, exchange: Exchange, response: httpx.Response) -> HeaderPairs:
    return [pair for pair in core.upstream.answer_headers(exchange, response) if pair[0] != b"content-length"]


async def _give(exchange: Exchange, kept: _DeferredAnswer) -> None:
    await exchange.answer(kept.status, kept.headers, kept.body)


async def _settle(
    core: Core, exchange: Exchange, route: UploadsRoute, caller: Caller, kept: _DeferredAnswer
) -> None:
    """Answer with what the registry said; a session of its becomes one of ours."""
    if kept.status == 201 and route.mount is not None:
        core.recorder.record_client_mount(caller.agent, route.mount, core.repository(route.name))
        exchange.note = "mounted"
    if kept.location is None:
        await _give(exchange, kept)
        return
    spool = None if route.digest is not None else _spool(core, caller)
    session = core.sessions.add(caller.key, route.name, kept.location, agent=caller.agent, spool=spool)
    headers = [pair for pair in kept.headers if pair[0] not in _OWN_SESSION]
    headers += [
        (b"location", session.path.encode()),
        (b"docker-upload-uuid", session.key.encode()),
        (b"range", b"0-0"),
    ]
    exchange.note = "relayed" if spool is None else "spooled"
    await exchange.answer(202, headers)


def _spool(core: Core, caller: Caller) -> SpoolFile | None:
    """Put the decision off if there is anything to decide: somebody to act for, and room."""
    if core.spool is None or caller.agent is None:
        return None
    try:
        return core.spool.open()
    except SpoolFullError:
        return None


async def _cancel(caller: Caller, core: Core, route: UploadsRoute, kept: _DeferredAnswer | None) -> None:
    if kept is not None and kept.location is not None and caller.agent is not None:
        session = UploadSession(repository=core.repository(route.name), location=kept.location)
        await caller.agent.client.cancel_upload(session)
