"""Requests on an upload session: PATCH, PUT, GET, DELETE (distribution specification, "Pushing blobs").

A spooled session is answered here, and decided when its digest is named. Any other goes straight to the registry
(`relay`); so does a spooled one from the moment that there is no room for it.
"""

from crossmount.errors import RegistryRefusedError
from crossmount.oci import Descriptor, Digest
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.core import Core
from crossmount.proxy.http import ranges
from crossmount.proxy.http.answers import answer_brought, refuse_required
from crossmount.proxy.http.errors import RequestRefusedError, digest_invalid, upload_invalid
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.proxy.http.routes import SessionRoute
from crossmount.proxy.uploads.mounting import Placed
from crossmount.proxy.uploads.relay import relay, relay_spooled, settle_must_mount
from crossmount.proxy.uploads.sessions import ClientSession
from crossmount.proxy.uploads.spool import SpooledBlob, SpoolFile, SpoolFullError
from crossmount.proxy.uploads.turns import OCTETS, BlobOutcome
from crossmount.registry.auth.scope import push


async def continue_upload(core: Core, exchange: Exchange, route: SessionRoute, caller: Caller) -> None:
    """Answer a request on a session."""
    if caller.nameless and not core.sessions.has(route.session, caller.key, route.name):
        await _ask_who(core, exchange, route)
    async with core.sessions.acquire(route.session, caller.key, route.name) as session:
        if session.spool is None:
            await relay(core, exchange, route, caller, session)
            return
        if not caller.may_push(route.name):
            await _ask_who(core, exchange, route)
            raise RequestRefusedError(403, "DENIED", "an upload goes on with the right to push")
        match exchange.method:
            case "GET":
                await exchange.answer(204, _progress(session, session.spool.size))
            case "PATCH":
                await _append(core, exchange, route, caller, session, session.spool)
            case "PUT":
                await _complete(core, exchange, route, caller, session, session.spool)
            case "DELETE":
                await core.drop_session(session)
                await exchange.answer(204)
            case _:
                raise RequestRefusedError(405, "UNSUPPORTED", "a session takes GET, PATCH, PUT and DELETE")


async def _ask_who(core: Core, exchange: Exchange, route: SessionRoute) -> None:
    """Let a caller without a name, or whose token has ended, say who it is before the session is unknown.

    Raises:
        RefusedError: the registry wants callers to have a name.
    """
    target = core.upstream.target(b"/v2/", b"")
    async with core.upstream.request("GET", target, headers=[]) as response:
        if response.status_code != 401:
            return
        exchange.scopes = (push(core.repository(route.name)),)
        returned = core.upstream.answer_headers(exchange, response)
    challenges = [pair for pair in returned if pair[0] == b"www-authenticate"]
    raise RequestRefusedError(
        401, "UNAUTHORIZED", "this upload is somebody's: say who you are", headers=challenges
    )


def _progress(session: ClientSession, size: int) -> HeaderPairs:
    return [
        (b"location", session.path.encode()),
        (b"docker-upload-uuid", session.key.encode()),
        (b"range", f"0-{max(0, size - 1)}".encode()),
    ]


async def _append(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession, spool: SpoolFile
) -> None:
    _check_place(exchange, session, spool)
    if await _fill(exchange, spool):
        await exchange.answer(202, _progress(session, spool.size))
    else:
        await relay_spooled(core, exchange, route, caller, session, spool)


def _check_place(exchange: Exchange, session: ClientSession, spool: SpoolFile) -> None:
    """Refuse bytes that do not follow those that are here."""
    given = exchange.header(b"content-range")
    if given is None:
        return
    try:
        ranges.check(given, offset=spool.size, length=exchange.content_length)
    except ValueError as error:
        raise upload_invalid(416, str(error), _progress(session, spool.size)) from None


async def _fill(exchange: Exchange, spool: SpoolFile) -> bool:
    """Append the request's body; False if there is no room, and the rest of it is still to come.

    What came before a client hung up is kept: it may ask for the offset and go on.
    """
    try:
        try:
            async for data in exchange.body():
                await spool.append(data)
        finally:  # between two requests nothing of an upload stays in memory
            await spool.flush()
    except SpoolFullError:
        return False
    return True


async def _complete(
    core: Core, exchange: Exchange, route: SessionRoute, caller: Caller, session: ClientSession, spool: SpoolFile
) -> None:
    """Take the last bytes, check the digest, and decide: mount, or upload."""
    digest = route.digest
    if digest is None:
        raise digest_invalid("name the digest that completes the upload: ?digest=")
    _check_place(exchange, session, spool)
    if not await _fill(exchange, spool):
        if not await settle_must_mount(core, exchange, caller, session, digest):
            await relay_spooled(core, exchange, route, caller, session, spool)
        return
    if not await spool.matches(digest):
        await core.drop_session(session)
        raise digest_invalid(f"the uploaded bytes do not have the digest {digest}")
    await _decide(core, exchange, caller, session, spool, digest)


async def _decide(
    core: Core, exchange: Exchange, caller: Caller, session: ClientSession, spool: SpoolFile, digest: Digest
) -> None:
    """Mount the blob if it can be, else take its turn: wait for another's upload of it, or upload it."""
    dest = core.repository(session.name)
    blob = SpooledBlob(Descriptor(OCTETS, digest, spool.size), spool)
    core.metrics.count_blob("spooled", spool.size)
    placed = await core.mounting.place(caller, dest, digest)
    if placed.refused:
        await core.drop_session(session)
        refuse_required(placed)
    if placed.mounted:
        brought = BlobOutcome(mounted=placed)
    else:
        brought = await _bring(core, caller, session, blob, placed)
    # the registry's own session ended with the upload, or it is of no use
    await core.drop_session(session, cancel=brought.word != "uploaded")
    await answer_brought(core, exchange, placed, brought, blob.descriptor.size)


async def _bring(
    core: Core, caller: Caller, session: ClientSession, blob: SpooledBlob, placed: Placed
) -> BlobOutcome:
    agent = caller.agent
    if agent is None:
        raise RequestRefusedError(401, "UNAUTHORIZED", "the rights under which this upload began are gone")

    async def upload() -> None:
        await agent.client.upload_blob(core.upload_session(session), blob)

    try:
        return await core.turns.bring(caller, blob.descriptor, placed, upload=upload)
    except BaseException as error:
        await core.drop_session(session, cancel=False)
        if isinstance(error, RegistryRefusedError):
            code = error.codes[0] if error.codes else "BLOB_UPLOAD_INVALID"
            raise RequestRefusedError(
                error.status, code, f"the registry refused the blob: {error.status}"
            ) from error
        raise
