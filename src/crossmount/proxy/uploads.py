"""Requests on an upload session: PATCH, PUT, GET, DELETE (distribution specification, "Pushing blobs").

A spooled session is answered here, and decided when its digest is named. Any other is passed on to the registry's
own session; so is a spooled one from the moment that there is no room for it.
"""

from collections.abc import AsyncIterator

import httpx

from crossmount.errors import RegistryRefusedError
from crossmount.oci import Descriptor, Digest
from crossmount.proxy import ranges
from crossmount.proxy.begin import answer_created, answer_mounted, refuse_required
from crossmount.proxy.callers import Caller
from crossmount.proxy.core import Core, outgoing
from crossmount.proxy.exchange import Exchange
from crossmount.proxy.headers import Pairs, sent_with_bytes
from crossmount.proxy.mounting import Placed
from crossmount.proxy.refused import RefusedError, digest_invalid, upload_invalid
from crossmount.proxy.routes import SessionAt
from crossmount.proxy.sessions import Session
from crossmount.proxy.spool import Spool, SpooledBlob, SpoolFullError
from crossmount.proxy.turns import Brought
from crossmount.proxy.upstream import Outgoing, Target
from crossmount.registry import UploadSession
from crossmount.registry.location import resolve, with_query
from crossmount.registry.scope import push

_OCTETS = "application/octet-stream"
_OWN = frozenset({b"location", b"docker-upload-uuid"})


async def go_on(core: Core, exchange: Exchange, route: SessionAt, caller: Caller) -> None:
    """Answer a request on a session."""
    if caller.nameless and not core.sessions.knows(route.session, caller.key, route.name):
        await _ask_who(core, exchange, route)
    async with core.sessions.use(route.session, caller.key, route.name) as session:
        if session.spool is None:
            if not await _is_settled(core, exchange, route, caller, session):
                await _pass_on(core, exchange, route, caller, session, outgoing(exchange))
            return
        if not caller.may_push(route.name):
            await _ask_who(core, exchange, route)
            raise RefusedError(403, "DENIED", "an upload goes on with the right to push")
        match exchange.method:
            case "GET":
                await exchange.answer(204, _progress(session, session.spool.size))
            case "PATCH":
                await _append(core, exchange, route, caller, session, session.spool)
            case "PUT":
                await _complete(core, exchange, route, caller, session, session.spool)
            case "DELETE":
                await forget(core, session)
                await exchange.answer(204)
            case _:
                raise RefusedError(405, "UNSUPPORTED", "a session takes GET, PATCH, PUT and DELETE")


async def _ask_who(core: Core, exchange: Exchange, route: SessionAt) -> None:
    """Let a caller without a name, or whose token has ended, say who it is before the session is unknown.

    Raises:
        RefusedError: the registry wants callers to have a name.
    """
    target = core.upstream.target(b"/v2/", b"")
    async with core.upstream.ask("GET", target, headers=[]) as response:
        if response.status_code != 401:
            return
        exchange.scopes = (push(core.repository(route.name)),)
        returned = core.upstream.returned(exchange, response)
    challenges = [pair for pair in returned if pair[0] == b"www-authenticate"]
    raise RefusedError(401, "UNAUTHORIZED", "this upload is somebody's: say who you are", headers=challenges)


async def _is_settled(core: Core, exchange: Exchange, route: SessionAt, caller: Caller, session: Session) -> bool:
    """Settle the last request of an upload that may not be completed: mount what may only be mounted.

    Returns:
        Whether it is answered.

    Raises:
        RefusedError: it is flagged must-mount, and was not mounted.
    """
    if exchange.method != "PUT" or route.digest is None or not await core.index.must_mount(route.digest):
        return False
    placed = await core.mounting.place(caller, core.repository(route.name), route.digest)
    if placed.mounted or placed.refused:
        await forget(core, session)
    refuse_required(placed)
    if placed.mounted:
        async for _ in exchange.body():
            pass
        await answer_mounted(core, exchange, placed)
    return placed.mounted


async def forget(core: Core, session: Session, *, cancel: bool = True) -> None:
    """Let a session go; with `cancel` the registry's too (best effort)."""
    core.sessions.remove(session)
    if session.spool is not None:
        await session.spool.aclose()
    if cancel and session.agent is not None:
        await session.agent.client.cancel_upload(_registrys(core, session))


def _registrys(core: Core, session: Session) -> UploadSession:
    return UploadSession(repository=core.repository(session.name), location=session.location)


def _progress(session: Session, size: int) -> Pairs:
    return [
        (b"location", session.path.encode()),
        (b"docker-upload-uuid", session.key.encode()),
        (b"range", f"0-{max(0, size - 1)}".encode()),
    ]


async def _append(
    core: Core, exchange: Exchange, route: SessionAt, caller: Caller, session: Session, spool: Spool
) -> None:
    _check_place(exchange, session, spool)
    if await _fill(exchange, spool):
        await exchange.answer(202, _progress(session, spool.size))
    else:
        await _unspool(core, exchange, route, caller, session, spool)


def _check_place(exchange: Exchange, session: Session, spool: Spool) -> None:
    """Refuse bytes that do not follow those that are here."""
    given = exchange.header(b"content-range")
    if given is None:
        return
    try:
        ranges.check(given, offset=spool.size, length=exchange.content_length)
    except ValueError as error:
        raise upload_invalid(416, str(error), _progress(session, spool.size)) from None


async def _fill(exchange: Exchange, spool: Spool) -> bool:
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
    core: Core, exchange: Exchange, route: SessionAt, caller: Caller, session: Session, spool: Spool
) -> None:
    """Take the last bytes, check the digest, and decide: mount, or upload."""
    digest = route.digest
    if digest is None:
        raise digest_invalid("name the digest that completes the upload: ?digest=")
    _check_place(exchange, session, spool)
    if not await _fill(exchange, spool):
        if not await _is_settled(core, exchange, route, caller, session):
            await _unspool(core, exchange, route, caller, session, spool)
        return
    if not await spool.matches(digest):
        await forget(core, session)
        raise digest_invalid(f"the uploaded bytes do not have the digest {digest}")
    await _decide(core, exchange, caller, session, spool, digest)


async def _decide(
    core: Core, exchange: Exchange, caller: Caller, session: Session, spool: Spool, digest: Digest
) -> None:
    """Mount the blob if it can be, else take its turn: wait for another's upload of it, or upload it."""
    dest = core.repository(session.name)
    blob = SpooledBlob(Descriptor(_OCTETS, digest, spool.size), spool)
    core.metrics.blob("spooled", spool.size)
    placed = await core.mounting.place(caller, dest, digest)
    if placed.refused:
        await forget(core, session)
        refuse_required(placed)
    if placed.mounted:
        brought = Brought(mounted=placed)
    else:
        brought = await _bring(core, caller, session, blob, placed)
    # the registry's own session ended with the upload, or it is of no use
    await forget(core, session, cancel=brought.word != "uploaded")
    exchange.note, exchange.waited = brought.word, brought.waited
    core.metrics.blob(brought.word, blob.descriptor.size)
    await answer_created(exchange, session.name, digest)


async def _bring(core: Core, caller: Caller, session: Session, blob: SpooledBlob, placed: Placed) -> Brought:
    agent = caller.agent
    if agent is None:
        raise RefusedError(401, "UNAUTHORIZED", "the rights under which this upload began are gone")

    async def upload() -> None:
        await agent.client.upload_blob(_registrys(core, session), blob)

    try:
        return await core.turns.bring(caller, agent, blob.descriptor, placed, upload=upload)
    except BaseException as error:
        await forget(core, session, cancel=False)
        if isinstance(error, RegistryRefusedError):
            code = error.codes[0] if error.codes else "BLOB_UPLOAD_INVALID"
            raise RefusedError(error.status, code, f"the registry refused the blob: {error.status}") from error
        raise


async def _unspool(
    core: Core, exchange: Exchange, route: SessionAt, caller: Caller, session: Session, spool: Spool
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
        await _pass_on(core, exchange, route, caller, session, Outgoing(all_of_it(), size), whole=True)
    finally:
        await spool.aclose()


async def _pass_on(
    core: Core,
    exchange: Exchange,
    route: SessionAt,
    caller: Caller,
    session: Session,
    body: Outgoing | None,
    *,
    whole: bool = False,
) -> None:
    """Send a request on to the registry's session, and keep where that goes on.

    With `whole` the body is everything from the first byte on, whatever range the client named.
    """
    url = httpx.URL(session.location)
    if route.digest is not None:
        url = with_query(url, f"digest={route.digest}")
    headers = [pair for pair in sent_with_bytes(exchange.headers) if not whole or pair[0] != b"content-range"]
    async with core.upstream.ask(
        exchange.method,
        Target(url),
        headers=headers,
        authorize=caller.authorizes(core.repository(session.name), "PUT"),
        body=body,
    ) as response:
        done = exchange.method in {"PUT", "DELETE"} and response.is_success
        if done or response.status_code == 404:
            core.sessions.remove(session)
        if response.is_success:
            session.relayed += exchange.received
        _learn(core, exchange, route, session, response)
        location = response.headers.get("location")
        if location and not done and response.status_code != 404:
            session.location = str(resolve(location, request=url))  # without one the last holds (ECR)
        returned = [pair for pair in core.upstream.returned(exchange, response) if pair[0] not in _OWN]
        await core.upstream.give_back(exchange, response, headers=returned + _own(route, session, done=done))


def _learn(core: Core, exchange: Exchange, route: SessionAt, session: Session, response: httpx.Response) -> None:
    if exchange.method == "PUT" and response.status_code == 201 and route.digest is not None:
        core.learner.arrived(core.repository(route.name), route.digest, session.relayed)
        core.metrics.blob("uploaded", session.relayed)
        exchange.note = "uploaded"


def _own(route: SessionAt, session: Session, *, done: bool) -> Pairs:
    """Return our Location: of the blob when it is there, of the session before."""
    if not done:
        return [(b"location", session.path.encode()), (b"docker-upload-uuid", session.key.encode())]
    return [] if route.digest is None else [(b"location", f"/v2/{route.name}/blobs/{route.digest}".encode())]
