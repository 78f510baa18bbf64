"""`POST …/blobs/uploads/`: mounts the blob if it can, else opens an upload session at the registry."""

import contextlib
from functools import partial

from crossmount._dataclass import dataclass
from crossmount.errors import AccessDeniedError, CredentialsError, CrossmountError
from crossmount.mount.findings import needs_proof
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, blob_request_headers
from crossmount.proxy.http.routes import SessionRoute, UploadsRoute
from crossmount.proxy.http.upstream import RequestBody, read_bounded
from crossmount.proxy.uploads.attempts import MountAttempt
from crossmount.proxy.uploads.core import Core, body_to_forward, dest_has_it, refuse_must_mount
from crossmount.proxy.uploads.mounting import ask_for_blob
from crossmount.proxy.uploads.relay import SessionRequest
from crossmount.proxy.uploads.spool_file import SpoolFile, SpoolFullError
from crossmount.proxy.uploads.turns import BlobOutcome
from crossmount.registry import UploadSession
from crossmount.registry.auth.challenge import Bearer, choose
from crossmount.registry.http.location import resolve

_IGNORED_MAX = 64 * 1024
_SESSION_HEADERS = frozenset({b"location", b"docker-upload-uuid", b"range", b"content-length"})


async def start_upload(core: Core, exchange: Exchange, route: UploadsRoute, caller: Caller) -> None:
    """Answer the request that starts an upload or asks for a mount.

    Raises:
        RequestRefusedError: too many uploads are under way, or the blob may only be mounted and was not.
    """
    request = _StartRequest(core, exchange, route, caller)
    if route.mount is None:  # a mount needs no room, unless it becomes an upload
        request.check_room()
    core.sessions.note_push(caller.key, route.name)
    exchange.charge = partial(core.permissions.charge, route.name)
    if route.mount is not None:
        await request.mount(route.mount)
    elif route.digest is not None:
        await request.upload_whole(route.digest)
    else:
        await request.open_session()


@dataclass(frozen=True, slots=True)
class _RegistryAnswer:
    """An answer of the registry that is not sent before every other way to the blob has failed."""

    status: int
    headers: HeaderPairs
    body: bytes
    location: str | None


@dataclass(frozen=True, slots=True)
class _StartRequest:
    """A request that starts an upload or asks for a mount."""

    core: Core
    exchange: Exchange
    route: UploadsRoute
    caller: Caller

    @property
    def dest(self) -> Repository:
        """The repository that the blob is for."""
        return self.core.repository(self.route.name)

    def check_room(self) -> None:
        """Check that another upload may start.

        Raises:
            RequestRefusedError: too many are in progress, or the bytes of the day are used up.
        """
        self.core.sessions.check_capacity(self.caller.key)
        self.core.permissions.check_uploads(self.route, self.core.sessions.uploads())

    async def open_session(self) -> None:
        """Open a session at the registry, and answer with one of the proxy's."""
        await self.exchange.read(_IGNORED_MAX)  # some clients send `{}`, which has no meaning here
        await self._answer_with(await self._ask(self.route.query()))

    async def mount(self, digest: Digest) -> None:
        """Try the client's source, then the index's, then an upload in progress, then a mount without a source."""
        await self.exchange.read(0)
        core, route = self.core, self.route
        answer: _RegistryAnswer | None = None
        if route.source is not None and core.mounter.allows(route.source, self.dest, self.caller):
            answer = await self._ask_for(digest, core.repository(route.source))
            if answer is not None and answer.status not in {202, 400, 401, 403, 404, 405}:
                await self._send(answer)
                return
        tried = () if route.source is None else (route.source,)
        attempt = await core.mounter.mount(self.caller, self.dest, digest, without=tried)
        if answer is None:  # the registry itself answers a client's own mount
            await core.wider_tokens.ask_once(self.exchange, self.caller, attempt)
        outcome = await core.turns.wait_and_mount(self.caller, attempt)
        if outcome is not None or attempt.refused:
            await self._cancel(answer)
        refuse_must_mount(attempt)
        if outcome is not None:
            await core.answer_created(self.exchange, attempt, outcome)
            return
        if answer is not None and answer.status == 401 and await self._can_answer(answer, digest):
            await self._send(answer)
            return
        core.expected.note_missing((self.caller.key, self.exchange.peer), attempt)
        if answer is None or answer.status != 202:
            # Without `from` the registry may find a source by itself, which is fine if every source is allowed.
            unlimited = core.permissions.allows_any_source(dest=route.name, caller=self.caller.name)
            finds = answer is None and route.source is None and unlimited
            answer = await self._ask(route.query() if finds else route.rest)
            if finds and answer.status == 201 and not await self._is_mounted(digest):
                answer = await self._ask(route.rest)
        await self._answer_with(answer)

    async def _ask_for(self, digest: Digest, source: Repository) -> _RegistryAnswer | None:
        """Send the client's own mount; return the answer, None for none or for a 201 that is not true."""
        with contextlib.suppress(CredentialsError):  # the proxy's own credentials do not cover the source
            answer = await self._ask(self.route.query())
            if answer.status != 201:
                return answer
            if await self._is_mounted(digest):
                self.core.recorder.record_client_mount(self.caller.agent, digest, self.dest, source)
                self.exchange.note = "mounted"
                return answer
        return None

    async def _can_answer(self, refused: _RegistryAnswer, digest: Digest) -> bool:
        """Return whether the client can retry with better credentials after the 401 to its own mount.

        It can ask for a token that covers the source, if its account may read the blob there. Otherwise an upload
        session is more use to it than the 401.
        """
        offered = [value.decode("latin-1") for name, value in refused.headers if name == b"www-authenticate"]
        challenge, caller = choose(offered), self.caller
        if not isinstance(challenge, Bearer) or caller.is_anonymous:
            return challenge is not None and caller.is_anonymous
        if caller.scopes is None or caller.agent is None or self.route.source is None:
            return True
        if not await self.core.mounter.admit(caller, self.dest, digest):
            return True
        try:
            return await caller.agent.client.head_blob(self.core.repository(self.route.source), digest) is not None
        except AccessDeniedError:
            return False
        except CrossmountError:
            return True

    async def upload_whole(self, digest: Digest) -> None:
        """Mount the blob whose bytes come with this request, or upload it, a large one when it is its turn.

        No byte of the body is read before that is decided.
        """
        core, exchange = self.core, self.exchange
        attempt = await core.mounter.mount(self.caller, self.dest, digest)
        refuse_must_mount(attempt)
        if attempt.mounted:
            await core.answer_created(exchange, attempt, BlobOutcome(mounted=attempt))
            return
        if await dest_has_it(core, self.caller, attempt):
            await core.answer_created(exchange, attempt, BlobOutcome(existing=True))
            return
        if core.turns.waits_for(self.caller, exchange.content_length):
            await self._upload_in_turn(attempt)
            return
        await core.mounter.privacy.wait_until(attempt.answer_at)
        self.check_room()
        with core.sessions.counted(attempt.dest.name):
            answer = await self._ask(self.route.query(), body_to_forward(exchange))
        if answer.status == 201:
            core.recorder.record_blob(attempt.dest, digest, exchange.received)
            core.metrics.count_blob("uploaded", exchange.received)
            core.recorder.ledger.note_outcome(attempt.dest, digest, "uploaded")
            exchange.note = "uploaded"
        await self._answer_with(answer)

    async def _upload_in_turn(self, attempt: MountAttempt) -> None:
        """Upload the blob when it is its turn.

        The registry opens a session first, so that others wait only for a caller that may upload.
        """
        core, caller, name = self.core, self.caller, self.route.name
        answer = await self._ask("")
        if answer.location is None:
            await self._send(answer)
            return
        await self._check_room_again(answer)
        session = core.sessions.add(caller.key, name, answer.location, agent=caller.agent)
        try:
            route = SessionRoute(name, session.key, attempt.digest)
            await SessionRequest(core, self.exchange, route, caller, session).upload_whole(attempt)
        finally:
            if core.sessions.has(session.key, caller.key, name):
                await core.drop_session(session)  # no client knows its name

    async def _is_mounted(self, digest: Digest) -> bool:
        """Return whether the registry's 201 to a mount is true; if it needs proof, ask for the blob."""
        recorder = self.core.recorder
        if not needs_proof(digest, recorder.traits):
            return True
        status = await ask_for_blob(self.core.upstream, self.caller, self.dest, digest)
        if status == 404:
            await recorder.record_mount_proof(self.dest.registry, truthful=False)
        return status < 400  # a redirect leads to the bytes

    async def _ask(self, query: str, body: RequestBody | None = None) -> _RegistryAnswer:
        """Send the request to the registry with the caller's rights, and return the answer.

        Args:
            query: the query for the registry.
            body: the body; None sends an empty one.
        """
        upstream, exchange = self.core.upstream, self.exchange
        target = upstream.target(f"/v2/{self.route.name}/blobs/uploads/".encode(), query.encode("ascii"))
        async with upstream.request(
            "POST",
            target,
            headers=blob_request_headers(exchange.headers),
            auth=self.caller.authorization_for(self.dest, "POST"),
            body=body or RequestBody(exchange.body(), 0),
        ) as response:
            content, location = await read_bounded(response), None
            if response.status_code == 202:
                location = str(resolve(response.headers.get("location"), request=target.url))
            headers = [
                pair for pair in upstream.answer_headers(exchange, response) if pair[0] != b"content-length"
            ]
            return _RegistryAnswer(response.status_code, headers, content, location)

    async def _send(self, answer: _RegistryAnswer) -> None:
        await self.exchange.answer(answer.status, answer.headers, answer.body)

    async def _answer_with(self, answer: _RegistryAnswer) -> None:
        """Send the registry's answer; a session that the registry opened becomes one of the proxy's."""
        core, route, caller = self.core, self.route, self.caller
        if answer.status == 201 and route.mount is not None:
            core.recorder.record_client_mount(caller.agent, route.mount, self.dest)
            self.exchange.note = "mounted"
        if answer.location is None:
            await self._send(answer)
            return
        await self._check_room_again(answer)
        spool = None if route.digest is not None else self._open_spool()
        session = core.sessions.add(caller.key, route.name, answer.location, agent=caller.agent, spool=spool)
        headers = [pair for pair in answer.headers if pair[0] not in _SESSION_HEADERS]
        self.exchange.note = "relayed" if spool is None else "spooled"
        await self.exchange.answer(202, [*headers, *session.headers(0)])

    def _open_spool(self) -> SpoolFile | None:
        """Return a spool file for the upload; None if the proxy cannot act for the caller, or there is no room."""
        if self.core.spool is None or self.caller.agent is None:
            return None
        try:
            return self.core.spool.open(self.caller.key)
        except SpoolFullError:
            return None

    async def _check_room_again(self, answer: _RegistryAnswer) -> None:
        """Check that the session that the registry opened may be used: others may have started meanwhile."""
        try:
            self.check_room()
        except RequestRefusedError:
            await self._cancel(answer)
            raise

    async def _cancel(self, answer: _RegistryAnswer | None) -> None:
        """Cancel the session that the registry opened instead of a mount, if there is one."""
        if answer is not None and answer.location is not None and self.caller.agent is not None:
            session = UploadSession(repository=self.dest, location=answer.location)
            await self.caller.agent.client.cancel_upload(session)
