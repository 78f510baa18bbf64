"""A spooled upload goes on to the registry while it arrives, before its digest is named.

That is right only for a blob that could not be mounted in the end: the client was told that it is not there, and
this proxy has the leases of all blobs that the client may be sending (`expected`). The client's requests are
answered by the spool as always. They take a little longer than without, and the last one less: that reveals only
that nobody uploads these blobs to where the client may read. If the registry fails, the spool still has all bytes,
and the upload is resumed with them when the digest is named.
"""

import asyncio
from collections.abc import AsyncIterator

import httpx

from crossmount._tasks import collect
from crossmount.errors import CrossmountError
from crossmount.oci import Digest
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.headers import blob_request_headers
from crossmount.proxy.http.upstream import RequestBody, Upstream, UpstreamTarget
from crossmount.proxy.uploads.expected import Push, leave
from crossmount.proxy.uploads.leases import EarlyLeases
from crossmount.proxy.uploads.spool_file import SpoolFile
from crossmount.registry import UploadSession
from crossmount.registry.http.location import resolve


class EarlyUpload:
    """The bytes of one session on their way to the registry.

    Args:
        push: what its client is expected to upload.
        caller: the client.
        spool: the bytes that have arrived.
        session: the registry's session, without any byte.

    Attributes:
        push: what its client is expected to upload.
        session: the registry's session after the last request.
    """

    def __init__(self, push: Push, caller: Caller, *, spool: SpoolFile, session: UploadSession) -> None:
        self.push = push
        self.session = session
        self._caller = caller
        self._spool = spool
        self._end: int | None = None
        self._is_sending = False
        self._task: asyncio.Task[None] | None = None

    def start(self, upstream: Upstream, leases: EarlyLeases, *, named: Digest | None) -> None:
        """Begin to send bytes, if the leases can be taken.

        Args:
            upstream: the registry.
            leases: takes the leases.
            named: the digest, if the client has named it already.
        """
        self._task = asyncio.create_task(self._run(upstream, leases, named))
        self._task.add_done_callback(collect)

    def end_request(self, size: int) -> None:
        """Note that the client's request has ended, after `size` bytes of the session."""
        if self._end is None:
            self._end = size
            self._spool.wake()

    def count(self, sent: int) -> None:
        """Note that bytes went on to the registry."""
        if self._spool.prefix is not None:
            self.push.count(self._spool.prefix, sent)

    async def finish(self) -> UploadSession:
        """Wait until all bytes so far are sent, and return the registry's session, with its offset."""
        self.end_request(self._spool.size)
        if self._task is not None:
            if not self._is_sending and not self._task.done():  # it takes leases
                self._task.cancel()
            await asyncio.wait([self._task])
        return self.session

    async def aclose(self) -> None:
        """Stop sending, and release the leases that no other upload of the client needs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._leave()

    async def abandon(self) -> None:
        """Release the leases after the client has hung up; it may come back, and needs none to go on."""
        self.end_request(self._spool.size)
        await self._leave()

    async def _leave(self) -> None:
        prefix = self._spool.prefix
        if self._is_sending and prefix is not None:
            self._is_sending = False
            await leave(self.push, prefix)

    async def _run(self, upstream: Upstream, leases: EarlyLeases, named: Digest | None) -> None:
        if not await self._may_send(leases, named):
            return
        self._spool.hashes = False  # the registry checks the digest
        dest, location = self.session.repository, self.session.location
        self.session = UploadSession(repository=dest, location=location, is_offset_known=False)
        target = UpstreamTarget(httpx.URL(location))
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            async for data in self._spool.follow(self._ends_at):
                yield data
                sent += len(data)
                self.count(len(data))

        try:
            async with upstream.request(
                "PATCH",
                target,
                headers=blob_request_headers([]),
                auth=self._caller.authorization_for(dest, "PUT"),
                body=RequestBody(body(), None),
            ) as response:
                if response.is_success:
                    if following := response.headers.get("location"):
                        location = str(resolve(following, request=target.url))
                    self.session = UploadSession(repository=dest, location=location, offset=sent)
        except CrossmountError:
            return  # the upload is resumed when its digest is named
        finally:
            self._spool.unfollow()

    def _ends_at(self) -> int | None:
        """Return where to stop: at the end of the client's request, or here if the blob was mounted meanwhile."""
        return self._end if self.push.is_wanted else 0

    async def _may_send(self, leases: EarlyLeases, named: Digest | None) -> bool:
        """Take the leases of all blobs that these bytes may belong to; return whether that worked."""
        push, prefix = self.push, self._spool.prefix
        async with push.lock:
            wanted = push.outstanding()
            if prefix is None or prefix in push.streams or len(push.streams) >= len(wanted):
                return False
            if named is not None:
                wanted = {digest: attempt for digest, attempt in wanted.items() if digest == named}
                if not wanted:
                    return False
            missing = {digest: attempt for digest, attempt in wanted.items() if digest not in push.leased}
            if missing:
                taken = await leases.take(self._caller, self.session.repository, missing)
                if taken is None:
                    return False
                push.leased |= taken
            push.streams[prefix] = named
            self._is_sending = True
            return True
