"""Requests on an upload session: GET, PATCH, PUT, DELETE (distribution specification, "Pushing blobs").

The requests of a spooled session are answered here. Its last request names the digest; the proxy then mounts the
blob or uploads it. The requests of other sessions are relayed to the registry (`relay`), and so are those of a
spooled session from the moment that the spool is full.
"""

import contextlib
from collections.abc import Callable
from functools import partial

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import CrossmountError, RegistryRefusedError
from crossmount.oci import Descriptor, Digest
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.errors import OverQuotaError, RequestRefusedError, digest_invalid
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.routes import SessionRoute
from crossmount.proxy.uploads.attempts import MountAttempt
from crossmount.proxy.uploads.core import Core, can_be_read, refuse_must_mount
from crossmount.proxy.uploads.early_upload import EarlyUpload
from crossmount.proxy.uploads.expected import sends_as_named
from crossmount.proxy.uploads.relay import SessionRequest
from crossmount.proxy.uploads.spool_file import SpooledBlob, SpoolFile, SpoolFullError
from crossmount.proxy.uploads.turns import OCTET_STREAM, BlobOutcome
from crossmount.registry.auth.scope import push


async def continue_upload(core: Core, exchange: Exchange, route: SessionRoute, caller: Caller) -> None:
    """Answer a request on an upload session.

    Raises:
        RequestRefusedError: the session is unknown or in use, the request does not fit it, or the caller may not
            push.
        OverQuotaError: the client has sent more than its quota. The session is then gone, here and there.
    """
    exchange.charge = partial(core.permissions.charge, route.name)
    if caller.is_anonymous and not core.sessions.has(route.session, caller.key, route.name):
        await _require_credentials(core, exchange, route)
    async with core.sessions.acquire(route.session, caller.key, route.name) as session:
        try:
            if session.spool is None:
                await SessionRequest(core, exchange, route, caller, session).relay()
                return
            if not caller.may_push(route.name):
                await _require_credentials(core, exchange, route)
                raise RequestRefusedError(403, "DENIED", "this token does not cover a push into this repository")
            await _SpooledRequest(core, exchange, route, caller, session, session.spool).answer()
        except OverQuotaError:
            core.sessions.note_stopped(session)
            await core.drop_session(session)
            raise


async def _require_credentials(core: Core, exchange: Exchange, route: SessionRoute) -> None:
    """Challenge a caller without credentials, or with an expired token, before its session counts as unknown.

    Raises:
        RequestRefusedError: the registry wants credentials.
    """
    target = core.upstream.target(b"/v2/", b"")
    async with core.upstream.request("GET", target, headers=[]) as response:
        if response.status_code == 401:
            raise _challenge(
                core, exchange, response, route.name, "this upload needs the credentials that began it: log in"
            )


def _challenge(
    core: Core, exchange: Exchange, response: httpx.Response, name: str, message: str
) -> RequestRefusedError:
    """Return a 401 with the challenges of the registry's 401, for a token that covers a push into a repository."""
    exchange.scopes = (push(core.repository(name)),)
    answered = core.upstream.answer_headers(exchange, response)
    challenges = [pair for pair in answered if pair[0] == b"www-authenticate"]
    return RequestRefusedError(401, "UNAUTHORIZED", message, headers=challenges)


@dataclass(frozen=True, slots=True)
class _SpooledRequest(SessionRequest):
    """A request on a session whose bytes are spooled.

    Attributes:
        spool: the bytes so far.
    """

    spool: SpoolFile

    async def answer(self) -> None:
        """Answer the request."""
        match self.exchange.method:
            case "GET":
                await self.exchange.answer(204, self.session.headers(self.spool.size))
            case "PATCH":
                await self._patch()
            case "PUT":
                await self._put()
            case "DELETE":
                await self.core.drop_session(self.session)
                await self.exchange.answer(204)
            case _:
                raise RequestRefusedError(405, "UNSUPPORTED", "a session takes GET, PATCH, PUT and DELETE")

    async def _patch(self) -> None:
        self.check_content_range(self.spool.size)
        if await self._append_body():
            await self.exchange.answer(202, self.session.headers(self.spool.size))
        else:
            await self.relay_spooled(self.spool)

    async def _put(self) -> None:
        """Append the last bytes, check the digest, then mount the blob or upload it."""
        digest = self.route.digest
        if digest is None:
            raise digest_invalid("name the digest that completes the upload: ?digest=")
        self.check_content_range(self.spool.size)
        if not await self._append_body():
            self.core.recorder.clear_deletion(self.dest, digest)
            if not await self.mount_flagged(digest):
                await self.relay_spooled(self.spool)
            return
        try:
            if await self._commit_early(digest):
                return
            if not await self.spool.matches(digest):
                await self.core.drop_session(self.session)
                raise digest_invalid(f"the uploaded bytes do not have the digest {digest}")
            await self._mount_or_upload(digest)
        finally:
            turn = self.core.expected.take(self._client, self.dest, digest)
            if turn is not None:
                await turn.give_up()

    async def _append_body(self) -> bool:
        """Append the request's body to the spool; return False if there is no room, with the rest of it unread.

        Bytes that came before a client hung up stay: the client may ask for the offset and go on.
        """
        try:
            try:
                async for data in self.exchange.body():
                    was_short = self.spool.prefix is None
                    await self.spool.append(data)
                    if was_short and self.spool.prefix is not None:
                        self._start_early()
            finally:  # no bytes stay in memory between two requests
                await self.spool.flush()
        except SpoolFullError:
            return False
        except BaseException:
            if self.session.early is not None:
                await self.session.early.abandon()
            raise
        if self.session.early is not None:
            self.session.early.end_request(self.spool.size)
        return True

    def _start_early(self) -> None:
        """Send the bytes to the registry from now on, if the client has asked for the blob before."""
        push, exchange = self.core.expected.of(self._client, self.dest), self.exchange
        if push is None or self.caller.agent is None or not self.caller.is_admitted:
            return
        agent = exchange.header(b"user-agent")
        if self.route.digest or sends_as_named(exchange.content_length, agent) or push.asks_again:
            self.session.early = EarlyUpload(
                push, self.caller, spool=self.spool, session=self.core.upload_session(self.session)
            )
            self.session.early.start(self.core.upstream, self.core.turns.early, named=self.route.digest)

    @property
    def _client(self) -> tuple[str, str]:
        return self.caller.key, self.exchange.peer

    async def _commit_early(self, digest: Digest) -> bool:
        """Complete an upload whose bytes have gone to the registry while they came; return False if they have not.

        The registry checks their digest. Nothing is mounted: this proxy had the leases of all blobs that the
        client was expected to send.
        """
        early = self.session.early
        if early is None or not self.caller.is_admitted or not early.push.expects(digest):
            return False
        session = await early.finish()
        if not session.is_offset_known or session.offset != self.spool.size:
            return False
        attempt = MountAttempt(
            digest=digest, dest=self.dest, knowledge=await self.core.mounter.look_up(self.dest, digest)
        )
        if attempt.refused or attempt.deleted:
            return False
        blob = SpooledBlob(Descriptor(OCTET_STREAM, digest, self.spool.size), self.spool)
        self.core.metrics.count_blob("spooled", self.spool.size)
        outcome = await self._upload(blob, attempt)
        await self.core.drop_session(self.session, cancel=outcome.label != "uploaded")
        await self.core.answer_created(self.exchange, attempt, outcome, self.spool.size)
        return True

    async def _mount_or_upload(self, digest: Digest) -> None:
        """Mount the blob; else wait for another's upload of it, or upload it."""
        blob = SpooledBlob(Descriptor(OCTET_STREAM, digest, self.spool.size), self.spool)
        self.core.metrics.count_blob("spooled", self.spool.size)
        if await self._ask_dest(digest):
            attempt = MountAttempt(digest=digest, dest=self.dest)
            await self.core.drop_session(self.session)
            await self.core.answer_created(self.exchange, attempt, BlobOutcome(existing=True), self.spool.size)
            self.core.recorder.record_blob(self.dest, digest, self.spool.size)
            return
        if not self.caller.is_admitted:  # only the registry can say more
            await self.relay_spooled(self.spool)
            return
        attempt = await self.core.mounter.mount(self.caller, self.dest, digest, sent=True)
        if attempt.refused:
            await self.core.drop_session(self.session)
            refuse_must_mount(attempt)
        outcome = BlobOutcome(mounted=attempt) if attempt.mounted else await self._upload(blob, attempt)
        # an upload ends the registry's session; after a mount it is useless
        await self.core.drop_session(self.session, cancel=outcome.label != "uploaded")
        await self.core.answer_created(self.exchange, attempt, outcome, blob.descriptor.size)

    async def _ask_dest(self, digest: Digest) -> bool:
        """Ask the registry, with the caller's own Authorization, whether dest has the blob already.

        Raises:
            RequestRefusedError: the registry does not let the caller in (401). The session stays.
        """
        upstream, exchange = self.core.upstream, self.exchange
        with contextlib.suppress(CrossmountError):  # without an answer the blob is uploaded, which is retried
            async with upstream.request(
                "HEAD",
                upstream.blob_target(self.dest.name, digest),
                headers=[],
                auth=self.caller.authorization_for(self.dest, "HEAD"),
            ) as response:
                if response.status_code == 401:
                    refused = "the registry does not accept these credentials: log in again"
                    raise _challenge(self.core, exchange, response, self.dest.name, refused)
                found = response.status_code < 400
            return found and await can_be_read(self.core, self.caller, self.dest, digest)
        return False

    async def _upload(self, blob: SpooledBlob, attempt: MountAttempt) -> BlobOutcome:
        core, agent = self.core, self.caller.agent
        if agent is None:
            raise RequestRefusedError(
                401, "UNAUTHORIZED", "the proxy has no credentials for this upload: log in again"
            )

        async def upload(count: Callable[[int], None]) -> None:
            if not await core.mounter.admit(self.caller, self.dest, blob.descriptor.digest):
                raise RequestRefusedError(
                    401, "UNAUTHORIZED", "the registry no longer accepts these credentials: log in again"
                )
            early = self.session.early
            session = core.upload_session(self.session) if early is None else await early.finish()
            count(session.offset)
            await agent.client.upload_blob(session, blob, on_progress=count)

        taken = core.expected.take(self._client, self.dest, blob.descriptor.digest)
        try:
            return await core.turns.mount_or_upload(
                self.caller, blob.descriptor, attempt, upload=upload, taken=taken
            )
        except BaseException as error:
            await core.drop_session(self.session, cancel=False)
            if isinstance(error, RegistryRefusedError):
                code = error.codes[0] if error.codes else "BLOB_UPLOAD_INVALID"
                message = f"the registry refused the blob: {error.status}"
                raise RequestRefusedError(error.status, code, message) from error
            raise
