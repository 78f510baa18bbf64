"""Uploads that go straight to the registry: each request on to its own session, its answer back as it comes.

What need not, or may not, be uploaded is noticed where the digest is named before the bytes.
"""

from collections.abc import AsyncIterator

import httpx

from crossmount.oci import Digest
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.core import Core, outgoing
from crossmount.proxy.http.answers import answer_brought, refuse_required
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, blob_request_headers
from crossmount.proxy.http.routes import SessionRoute
from crossmount.proxy.http.upstream import RequestBody, UpstreamTarget
from crossmount.proxy.uploads.mounting import Placed
from crossmount.proxy.uploads.sessions import ClientSession
from crossmount.proxy.uploads.spool import SpoolFile
from crossmount.proxy.uploads.turns import BlobOutcome, NotTakenError
from crossmount.registry.http.location import resolve, with_query

_OWN = frozenset({b"location", b"docker-upload-uuid"})


async def relay(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession
) -> None:
    """Send a request on, unless it names a blob that need not, or may not, be uploaded."""
    digest = route.digest if exchange.method == "PUT" else None
    if digest is None:
        await _pass_on(core, exchange, route, caller, session, outgoing(exchange))
    elif session.relayed:  # its bytes are at the registry already
        if not await settle_must_mount(core, exchange, caller, session, digest):
            await _pass_on(core, exchange, route, caller, session, outgoing(exchange))
    else:
        await _relay_whole(core, exchange, route, caller, session, digest)


async def _relay_whole(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession, digest: Digest
) -> None:
    """Bring a blob that comes whole with its last request: it waits in the client while it can be mounted.

    Raises:
        RefusedError: it is flagged must-mount, and was not mounted.
    """
    placed = await core.mounting.place(caller, core.repository(session.name), digest)
    if placed.refused:
        await core.drop_session(session)
        refuse_required(placed)
    await upload_whole(core, exchange, route, caller, session, placed)


async def upload_whole(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession, placed: Placed
) -> None:
    """Send a blob that comes whole to its session when it is its turn, if the mount that was tried was in vain.

    That the registry opened the session for this caller is what entitles to a turn, for which others wait.
    """

    async def upload() -> None:
        if await _pass_on(core, exchange, route, caller, session, outgoing(exchange), method="PUT") != 201:
            raise NotTakenError

    brought: BlobOutcome | None = BlobOutcome(mounted=placed)
    if not placed.mounted:
        brought = await core.turns.bring_unread(caller, placed, exchange.content_length, upload=upload)
    if brought is not None and not exchange.status:  # else the answer was the registry's own
        await core.drop_session(session)
        await answer_brought(core, exchange, placed, brought)


async def settle_must_mount(
    core: Core, exchange: Exchange, caller: Caller, session: ClientSession, digest: Digest
) -> bool:
    """Settle the last request of an upload that may not be completed: mount what may only be mounted.

    Returns:
        Whether it is answered.

    Raises:
        RefusedError: it is flagged must-mount, and was not mounted.
    """
    if not await core.index.must_mount(digest):
        return False
    placed = await core.mounting.place(caller, core.repository(session.name), digest)
    if placed.mounted or placed.refused:
        await core.drop_session(session)
    refuse_required(placed)
    if placed.mounted:
        await answer_brought(core, exchange, placed, BlobOutcome(mounted=placed))
    return placed.mounted


async def relay_spooled(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession, spool: SpoolFile
) -> None:
    """Send what was spooled, and what is still coming, straight to the registry's session."""
    session.spool = None
    session.relayed = spool.size - exchange.received
    exchange.note = "relayed"
    announced = exchange.content_length
    size = None if announced is None else spool.size + announced - exchange.received

    async def all_of_it() -> AsyncIterator[bytes]:
        async for data in spool.read():
            yield data
        async for data in exchange.body():
            yield data

    try:
        await _pass_on(core, exchange, route, caller, session, RequestBody(all_of_it(), size), whole=True)
    finally:
        await spool.aclose()


async def _pass_on(
    core: Core,
    exchange: Exchange,
    route: SessionRoute,
    caller: Caller,
    session: ClientSession,
    body: RequestBody | None,
    *,
    method: str | None = None,
    whole: bool = False,
) -> int:
    """Send a request on to the registry's session, keep where that goes on, and return the answer's status.

    With `whole` the body is everything from the first byte on, whatever range the client named.
    """
    method = method or exchange.method
    url = httpx.URL(session.location)
    if route.digest is not None:
        url = with_query(url, f"digest={route.digest}")
    headers = [pair for pair in blob_request_headers(exchange.headers) if not whole or pair[0] != b"content-range"]
    async with core.upstream.request(
        method,
        UpstreamTarget(url),
        headers=headers,
        authorize=caller.authorization_for(core.repository(session.name), "PUT"),
        body=body,
    ) as response:
        done = method in {"PUT", "DELETE"} and response.is_success
        if done or response.status_code == 404:
            core.sessions.remove(session)
        if response.is_success:
            session.relayed += exchange.received
        if method == "PUT" and response.status_code == 201 and route.digest is not None:
            core.recorder.record_blob(core.repository(route.name), route.digest, session.relayed)
            core.metrics.count_blob("uploaded", session.relayed)
            exchange.note = "uploaded"
        location = response.headers.get("location")
        if location and not done and response.status_code != 404:
            session.location = str(resolve(location, request=url))  # without one the last holds (ECR)
        returned = [pair for pair in core.upstream.answer_headers(exchange, response) if pair[0] not in _OWN]
        await core.upstream.forward_answer(exchange, response, headers=returned + _own(route, session, done=done))
        return response.status_code


def _own(route: SessionRoute, session: ClientSession, *, done: bool) -> HeaderPairs:
    """Return our Location: of the blob when it is there, of the session before."""
    if not done:
        return [(b"location", session.path.encode()), (b"docker-upload-uuid", session.key.encode())]
    return [] if route.digest is None else [(b"location", f"/v2/{route.name}/blobs/{route.digest}".encode())]
