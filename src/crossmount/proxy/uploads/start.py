"""`POST …/blobs/uploads/`: mounts the blob if it can, else opens an upload session at the registry."""

from dataclasses import dataclass

import httpx

from crossmount.oci import Digest
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, blob_request_headers
from crossmount.proxy.http.routes import SessionRoute, UploadsRoute
from crossmount.proxy.http.upstream import RequestBody, read_bounded
from crossmount.proxy.uploads.core import Core, body_to_forward, refuse_must_mount
from crossmount.proxy.uploads.mounting import MountAttempt
from crossmount.proxy.uploads.relay import upload_whole
from crossmount.proxy.uploads.spool import SpoolFile, SpoolFullError
from crossmount.proxy.uploads.turns import BlobOutcome
from crossmount.registry import UploadSession
from crossmount.registry.http.location import resolve

_IGNORED_MAX = 64 * 1024
_SESSION_HEADERS = frozenset({b"location", b"docker-upload-uuid", b"range", b"content-length"})


@dataclass(frozen=True, slots=True)
class _DeferredAnswer:
    """An answer of the registry that is not sent until every other way to the blob has failed."""

    status: int
    headers: HeaderPairs
    body: bytes
    location: str | None


async def start_upload(core: Core, exchange: Exchange, route: UploadsRoute, caller: Caller) -> None:
    """Answer the request that starts an upload or asks for a mount.

    Raises:
        RequestRefusedError: too many uploads are under way, or the blob may only be mounted and was not.
    """
    core.sessions.check_capacity(caller.key)
    core.sessions.note_push(caller.key, route.name)
    if route.mount is not None:
        await _mount(core, exchange, route, route.mount, caller)
        return
    if route.digest is not None:
        await _whole(core, exchange, route, route.digest, caller)
        return
    await exchange.read(_IGNORED_MAX)  # some clients send `{}`, which has no meaning here
    await _answer_with(core, exchange, route, caller, await _ask(core, exchange, route, caller, route.query()))


async def _whole(core: Core, exchange: Exchange, route: UploadsRoute, digest: Digest, caller: Caller) -> None:
    """Answer a request with a whole blob: mount it, or upload it, a large one when it is its turn.

    No byte of the body is read before that is decided.
    """
    attempt = await core.mounter.mount(caller, core.repository(route.name), digest)
    refuse_must_mount(attempt)
    if attempt.mounted:
        await core.answer_created(exchange, attempt, BlobOutcome(mounted=attempt))
        return
    if core.turns.waits_for(caller, exchange.content_length):
        await _in_turn(core, exchange, route, caller, attempt)
        return
    answer = await _ask(core, exchange, route, caller, route.query(), body_to_forward(exchange))
    if answer.status == 201:
        core.recorder.record_blob(attempt.dest, digest, exchange.received)
        core.metrics.count_blob("uploaded", exchange.received)
        exchange.note = "uploaded"
    await _answer_with(core, exchange, route, caller, answer)


async def _in_turn(
    core: Core, exchange: Exchange, route: UploadsRoute, caller: Caller, attempt: MountAttempt
) -> None:
    """Upload a whole blob when it is its turn.

    The registry opens a session first, so that others wait only for a caller that may upload.
    """
    answer = await _ask(core, exchange, route, caller, "")
    if answer.location is None:
        await _send(exchange, answer)
        return
    session = core.sessions.add(caller.key, route.name, answer.location, agent=caller.agent)
    try:
        at = SessionRoute(route.name, session.key, attempt.digest)
        await upload_whole(core, exchange, at, caller, session, attempt)
    finally:
        if core.sessions.has(session.key, caller.key, route.name):
            await core.drop_session(session)  # no client knows its name


async def _mount(core: Core, exchange: Exchange, route: UploadsRoute, digest: Digest, caller: Caller) -> None:
    """Answer a request for a mount: try the client's source, then the index's, then a mount without a source."""
    await exchange.read(0)
    dest = core.repository(route.name)
    policy = core.mounter.policy
    answer: _DeferredAnswer | None = None
    if route.source is not None and policy.allows(route.source):
        answer = await _ask(core, exchange, route, caller, route.query())
        if answer.status == 201:
            core.recorder.record_client_mount(caller.agent, digest, dest, core.repository(route.source))
            exchange.note = "mounted"
            await _send(exchange, answer)
            return
        if answer.status not in {202, 400, 401, 403, 404, 405}:
            await _send(exchange, answer)
            return
    tried = () if route.source is None else (route.source,)
    attempt = await core.mounter.mount(caller, dest, digest, without=tried)
    outcome = await core.turns.wait_and_mount(caller, attempt)
    if outcome is not None or attempt.refused:
        await _cancel(caller, core, route, answer)
    refuse_must_mount(attempt)
    if outcome is not None:
        await core.answer_created(exchange, attempt, outcome)
        return
    if answer is None or answer.status != 202:
        # Without `from` the registry may find a source by itself, which is fine if every source is allowed.
        finds = answer is None and route.source is None and policy.unlimited
        answer = await _ask(core, exchange, route, caller, route.query() if finds else route.rest)
    await _answer_with(core, exchange, route, caller, answer)


async def _ask(
    core: Core,
    exchange: Exchange,
    route: UploadsRoute,
    caller: Caller,
    query: str,
    body: RequestBody | None = None,
) -> _DeferredAnswer:
    """Send the request to the registry with the caller's rights, and return the answer."""
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
        return _DeferredAnswer(
            response.status_code, _headers_without_length(core, exchange, response), content, location
        )


def _headers_without_length(core: Core, exchange: Exchange, response: httpx.Response) -> HeaderPairs:
    return [pair for pair in core.upstream.answer_headers(exchange, response) if pair[0] != b"content-length"]


async def _send(exchange: Exchange, answer: _DeferredAnswer) -> None:
    await exchange.answer(answer.status, answer.headers, answer.body)


async def _answer_with(
    core: Core, exchange: Exchange, route: UploadsRoute, caller: Caller, answer: _DeferredAnswer
) -> None:
    """Send the registry's answer; a session that the registry opened becomes one of the proxy's."""
    if answer.status == 201 and route.mount is not None:
        core.recorder.record_client_mount(caller.agent, route.mount, core.repository(route.name))
        exchange.note = "mounted"
    if answer.location is None:
        await _send(exchange, answer)
        return
    spool = None if route.digest is not None else _spool(core, caller)
    session = core.sessions.add(caller.key, route.name, answer.location, agent=caller.agent, spool=spool)
    headers = [pair for pair in answer.headers if pair[0] not in _SESSION_HEADERS]
    headers += [
        (b"location", session.path.encode()),
        (b"docker-upload-uuid", session.key.encode()),
        (b"range", b"0-0"),
    ]
    exchange.note = "relayed" if spool is None else "spooled"
    await exchange.answer(202, headers)


def _spool(core: Core, caller: Caller) -> SpoolFile | None:
    """Return a spool file for the upload; None if the proxy cannot act for the caller, or there is no room."""
    if core.spool is None or caller.agent is None:
        return None
    try:
        return core.spool.open()
    except SpoolFullError:
        return None


async def _cancel(caller: Caller, core: Core, route: UploadsRoute, answer: _DeferredAnswer | None) -> None:
    if answer is not None and answer.location is not None and caller.agent is not None:
        session = UploadSession(repository=core.repository(route.name), location=answer.location)
        await caller.agent.client.cancel_upload(session)
