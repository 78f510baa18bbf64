"""Uploads without a spool: each request is relayed to the registry's session, and its answer streamed back.

A blob that can be mounted, or may only be mounted, is noticed where the digest comes before the bytes.
"""

from collections.abc import AsyncIterator

import httpx

from crossmount.oci import Digest
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, blob_request_headers
from crossmount.proxy.http.routes import SessionRoute
from crossmount.proxy.http.upstream import RequestBody, UpstreamTarget
from crossmount.proxy.uploads.core import Core, body_to_forward, refuse_must_mount
from crossmount.proxy.uploads.mounting import MountAttempt
from crossmount.proxy.uploads.sessions import ClientSession
from crossmount.proxy.uploads.spool import SpoolFile
from crossmount.proxy.uploads.turns import BlobNotAcceptedError, BlobOutcome
from crossmount.registry.http.location import resolve, with_query

_SESSION_HEADERS = frozenset({b"location", b"docker-upload-uuid"})


async def relay(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession
) -> None:
    """Relay a request, unless it names a blob that can be mounted, or may only be mounted.

    Raises:
        RequestRefusedError: the blob is flagged must-mount, and no mount succeeded.
    """
    digest = route.digest if exchange.method == "PUT" else None
    if digest is None:
        await _relay_request(core, exchange, route, caller, session, body_to_forward(exchange))
    elif session.relayed:  # the registry already has its bytes
        if not await settle_must_mount(core, exchange, caller, session, digest):
            await _relay_request(core, exchange, route, caller, session, body_to_forward(exchange))
    else:
        await _relay_whole(core, exchange, route, caller, session, digest)


async def _relay_whole(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession, digest: Digest
) -> None:
    """Mount a blob whose bytes all come with this request, or upload it; no byte is read before the mount.

    Raises:
        RequestRefusedError: the blob is flagged must-mount, and no mount succeeded.
    """
    attempt = await core.mounter.mount(caller, core.repository(session.name), digest)
    if attempt.refused:
        await core.drop_session(session)
        refuse_must_mount(attempt)
    await upload_whole(core, exchange, route, caller, session, attempt)


async def upload_whole(
    core: Core,
    exchange: Exchange,
    route: SessionRoute,
    caller: Caller,
    session: ClientSession,
    attempt: MountAttempt,
) -> None:
    """Upload a blob whose bytes all come with this request, when it is its turn, unless it is mounted.

    The registry has opened the session for this caller, so it may upload; only then may others wait for it.

    Args:
        core: the proxy's parts.
        exchange: the request.
        route: the session's route, with the digest.
        caller: the caller.
        session: the session.
        attempt: the attempt to mount the blob.
    """

    async def upload() -> None:
        if (
            await _relay_request(core, exchange, route, caller, session, body_to_forward(exchange), method="PUT")
            != 201
        ):
            raise BlobNotAcceptedError

    outcome: BlobOutcome | None = BlobOutcome(mounted=attempt)
    if not attempt.mounted:
        outcome = await core.turns.mount_or_relay(caller, attempt, exchange.content_length, upload=upload)
    if outcome is not None and not exchange.status:  # otherwise the registry's answer was relayed
        await core.drop_session(session)
        await core.answer_created(exchange, attempt, outcome)


async def settle_must_mount(
    core: Core, exchange: Exchange, caller: Caller, session: ClientSession, digest: Digest
) -> bool:
    """Mount a blob that is flagged must-mount, at the last request of its upload.

    Returns:
        Whether the request is answered. If not, the blob is not flagged, and the upload goes on.

    Raises:
        RequestRefusedError: the blob is flagged must-mount, and no mount succeeded.
    """
    if not await core.index.must_mount(digest):
        return False
    attempt = await core.mounter.mount(caller, core.repository(session.name), digest)
    if attempt.mounted or attempt.refused:
        await core.drop_session(session)
    refuse_must_mount(attempt)
    if attempt.mounted:
        await core.answer_created(exchange, attempt, BlobOutcome(mounted=attempt))
    return attempt.mounted


async def relay_spooled(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession, spool: SpoolFile
) -> None:
    """Send the spooled bytes, and the rest of the request's body, to the registry's session."""
    session.spool = None
    session.relayed = spool.size - exchange.received
    exchange.note = "relayed"
    announced = exchange.content_length
    size = None if announced is None else spool.size + announced - exchange.received

    async def all_bytes() -> AsyncIterator[bytes]:
        async for data in spool.read():
            yield data
        async for data in exchange.body():
            yield data

    try:
        await _relay_request(core, exchange, route, caller, session, RequestBody(all_bytes(), size), whole=True)
    finally:
        await spool.aclose()


async def _relay_request(
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
    """Relay a request to the registry's session, stream back the answer, and store the session's next Location.

    Args:
        core: the proxy's parts.
        exchange: the request.
        route: the session's route.
        caller: the caller.
        session: the session.
        body: the request's body.
        method: the method, if it is not the client's.
        whole: the body is the whole blob, whatever range the client named.

    Returns:
        The status of the registry's answer.
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
            session.location = str(resolve(location, request=url))  # ECR sends none: the old Location stays valid
        returned = [
            pair for pair in core.upstream.answer_headers(exchange, response) if pair[0] not in _SESSION_HEADERS
        ]
        await core.upstream.forward_answer(
            exchange, response, headers=returned + _own_headers(route, session, done=done)
        )
        return response.status_code


def _own_headers(route: SessionRoute, session: ClientSession, *, done: bool) -> HeaderPairs:
    """Return the Location for the client: the blob's after the upload, the session's before."""
    if not done:
        return [(b"location", session.path.encode()), (b"docker-upload-uuid", session.key.encode())]
    return [] if route.digest is None else [(b"location", f"/v2/{route.name}/blobs/{route.digest}".encode())]
