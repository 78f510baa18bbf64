"""Uploads without a spool: each request is relayed to the registry's session, and its answer streamed back.

A blob that can be mounted, or may only be mounted, is noticed where the digest comes before the bytes.
"""

from collections.abc import AsyncIterator, Callable

import httpx

from crossmount._dataclass import dataclass
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.errors import upload_invalid
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, blob_request_headers
from crossmount.proxy.http.routes import SessionRoute
from crossmount.proxy.http.upstream import RequestBody, UpstreamTarget
from crossmount.proxy.uploads.attempts import MountAttempt
from crossmount.proxy.uploads.core import Core, body_to_forward, dest_has_it, refuse_must_mount
from crossmount.proxy.uploads.early_upload import EarlyUpload
from crossmount.proxy.uploads.sessions import ClientSession, check_content_range
from crossmount.proxy.uploads.spool_file import SpoolFile
from crossmount.proxy.uploads.turns import BlobNotAcceptedError, BlobOutcome
from crossmount.registry.http.location import resolve, with_query
from crossmount.registry.resume import read_range

_SESSION_HEADERS = frozenset({b"location", b"docker-upload-uuid"})


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A request on an upload session, and the answers to it that need no spool.

    Attributes:
        core: the proxy's parts.
        exchange: the request.
        route: its route.
        caller: its caller, which owns the session.
        session: the session.
    """

    core: Core
    exchange: Exchange
    route: SessionRoute
    caller: Caller
    session: ClientSession

    @property
    def dest(self) -> Repository:
        """The repository of the session."""
        return self.core.repository(self.session.name)

    async def relay(self) -> None:
        """Relay the request, unless it names a blob that can be mounted, or may only be mounted.

        Raises:
            RequestRefusedError: the chunk does not follow the bytes that the registry has, or the blob is flagged
                must-mount, and no mount succeeded.
        """
        if self.exchange.method in {"PATCH", "PUT"} and self.exchange.header(b"content-range") is not None:
            if not self.session.is_offset_known:
                await self._ask_offset()
            self.check_content_range(self.session.relayed)
        digest = self.route.digest if self.exchange.method == "PUT" else None
        if digest is None:
            await self._send(body_to_forward(self.exchange))
        elif self.session.relayed:  # the registry already has its bytes
            self.core.recorder.clear_deletion(self.dest, digest)
            if not await self.mount_flagged(digest):
                await self._send(body_to_forward(self.exchange))
        else:  # all its bytes come with this request: none is read before the mount
            attempt = await self.core.mounter.mount(self.caller, self.dest, digest)
            if attempt.refused:
                await self.core.drop_session(self.session)
                refuse_must_mount(attempt)
            await self.upload_whole(attempt)

    async def upload_whole(self, attempt: MountAttempt) -> None:
        """Upload a blob whose bytes all come with this request, when it is its turn, unless it is mounted.

        The registry has opened the session for this caller, so it may upload; only then may others wait for it.

        Args:
            attempt: the attempt to mount the blob.
        """

        async def upload(count: Callable[[int], None]) -> None:
            async def counted() -> AsyncIterator[bytes]:
                async for data in self.exchange.body():
                    count(self.exchange.received)
                    yield data

            body = RequestBody(counted(), self.exchange.content_length)
            if await self._send(body, method="PUT") != 201:
                raise BlobNotAcceptedError

        outcome: BlobOutcome | None = BlobOutcome(mounted=attempt)
        if await dest_has_it(self.core, self.caller, attempt):
            outcome = BlobOutcome(existing=True)
        elif not attempt.mounted:
            size = self.exchange.content_length
            outcome = await self.core.turns.mount_or_relay(self.caller, attempt, size, upload=upload)
        if outcome is not None and not self.exchange.status:  # otherwise the registry's answer was relayed
            await self.core.drop_session(self.session)
            await self.core.answer_created(self.exchange, attempt, outcome)

    async def mount_flagged(self, digest: Digest) -> bool:
        """Mount the blob at the last request of its upload, if it is flagged must-mount.

        Returns:
            Whether the request is answered. If not, the blob is not flagged, and the upload goes on.

        Raises:
            RequestRefusedError: the blob is flagged must-mount, and no mount succeeded.
        """
        if not await self.core.index.must_mount(digest):
            return False
        attempt = await self.core.mounter.mount(self.caller, self.dest, digest)
        if attempt.mounted or attempt.refused:
            await self.core.drop_session(self.session)
        refuse_must_mount(attempt)
        if attempt.mounted:
            await self.core.answer_created(self.exchange, attempt, BlobOutcome(mounted=attempt))
        return attempt.mounted

    def check_content_range(self, offset: int) -> None:
        """Refuse a chunk that does not follow the `offset` bytes that are there, such as a repeated one.

        Raises:
            RequestRefusedError: the specification's 416, with the range that is there.
        """
        given = self.exchange.header(b"content-range")
        if given is None:
            return
        try:
            check_content_range(given, offset=offset, length=self.exchange.content_length)
        except ValueError as error:
            raise upload_invalid(416, str(error), self.session.headers(offset)) from None

    async def _ask_offset(self) -> None:
        """Ask the registry how many bytes its session has, after a chunk that may have arrived in part."""
        core, session = self.core, self.session
        async with core.upstream.request(
            "GET",
            UpstreamTarget(httpx.URL(session.location)),
            headers=blob_request_headers([]),
            auth=self.caller.authorization_for(self.dest, "PUT"),
        ) as response:
            size = read_range(response.headers.get("range"))
            if response.is_success and size is not None:
                # 0-0 stands for one byte and for none
                session.relayed, session.is_offset_known = size or int(session.relayed == 1), True
                self._follow(response)

    async def relay_spooled(self, spool: SpoolFile) -> None:
        """Send the spooled bytes, and the rest of the request's body, to the registry's session."""
        exchange, early = self.exchange, self.session.early
        offset = 0 if early is None else await self._finish_early(early)
        self.session.spool = None
        self.session.relayed = spool.size - exchange.received
        exchange.note = "relayed"
        announced = exchange.content_length
        size = None if announced is None else spool.size + announced - exchange.received - offset

        async def all_bytes() -> AsyncIterator[bytes]:
            async for data in spool.read(offset):
                yield data
            async for data in exchange.body():
                yield data
                if early is not None:
                    early.count(len(data))

        try:
            await self._send(RequestBody(all_bytes(), size), whole=True)
        finally:
            await spool.aclose()
            if early is not None:
                self.session.early = None
                await early.aclose()

    async def _finish_early(self, early: EarlyUpload) -> int:
        """Let an early upload end, and return the offset at which the rest follows; after a failure that is 0."""
        upload, agent = await early.finish(), self.caller.agent
        if not upload.is_offset_known and agent is not None:
            await agent.client.cancel_upload(upload)
            upload = await agent.client.start_upload(self.dest)
        self.session.location = upload.location
        return upload.offset

    async def _send(self, body: RequestBody | None, *, method: str | None = None, whole: bool = False) -> int:
        """Send a request to the registry's session, stream back the answer, and store the session's next Location.

        Args:
            body: the request's body.
            method: the method, if it is not the client's.
            whole: the body is the whole blob, whatever range the client named.

        Returns:
            The status of the registry's answer.
        """
        core, exchange, session, digest = self.core, self.exchange, self.session, self.route.digest
        method = method or exchange.method
        url = httpx.URL(session.location)
        if digest is not None:
            url = with_query(url, f"digest={digest}")
        headers = blob_request_headers(exchange.headers)
        was_known = session.is_offset_known
        if body is not None:  # it may arrive in part
            session.is_offset_known = False
        async with core.upstream.request(
            method,
            UpstreamTarget(url),
            headers=[pair for pair in headers if not whole or pair[0] != b"content-range"],
            auth=self.caller.authorization_for(self.dest, "PUT"),
            body=body,
        ) as response:
            done = method in {"PUT", "DELETE"} and response.is_success
            if done or response.status_code == 404:
                core.sessions.remove(session)
            if response.is_success:
                session.relayed += exchange.received
                session.is_offset_known = was_known
            if method == "PUT" and response.status_code == 201 and digest is not None:
                core.recorder.record_blob(self.dest, digest, session.relayed)
                core.metrics.count_blob("uploaded", session.relayed)
                core.recorder.ledger.note_outcome(self.dest, digest, "uploaded")
                exchange.note = "uploaded"
            if not done and response.status_code != 404:
                self._follow(response)
            answer = core.upstream.answer_headers(exchange, response)
            answer = [pair for pair in answer if pair[0] not in _SESSION_HEADERS]
            await core.upstream.forward_answer(exchange, response, headers=answer + self._own_headers(done=done))
            return response.status_code

    def _follow(self, response: httpx.Response) -> None:
        """Store the session's next Location; ECR sends none, and the old one stays valid."""
        if location := response.headers.get("location"):
            self.session.location = str(resolve(location, request=response.request.url))

    def _own_headers(self, *, done: bool) -> HeaderPairs:
        """Return the Location for the client: the blob's after the upload, the session's before."""
        if not done:
            return self.session.headers()
        if self.route.digest is None:
            return []
        return [(b"location", f"/v2/{self.route.name}/blobs/{self.route.digest}".encode())]
