"""Blobs: HEAD, and GET with resume and verification (distribution specification, "Pulling blobs")."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Self

import httpx

from crossmount._parsing import decimal
from crossmount._tasks import Closing
from crossmount.errors import InvalidAnswerError, RegistryUnreachableError, knowing
from crossmount.oci import Digest, Located, Repository, as_digest, as_repository
from crossmount.registry.auth import scope
from crossmount.registry.auth.scope import Wanted
from crossmount.registry.endpoints import SIZE_UNKNOWN, RegistryMethods
from crossmount.registry.http.errors import refusal, translated
from crossmount.registry.http.location import Origin, shown
from crossmount.registry.http.requester import RegistryRequest
from crossmount.registry.http.retry import RetryBudget
from crossmount.registry.http.transport import Answer, raw_bytes

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)


_NOT_SERVED = frozenset({405, 501})
_RANGE_REFUSED = frozenset({400, 405, 416, 501})

DRIP_BYTES = 64 * 1024
"""The least bytes of a blob that come in the time of one request with all its retries; less is a failure."""

OpenBlob = Callable[[int], Awaitable[tuple[Answer, int]]]
"""Requests a blob from an offset on; returns the answer, and how many of its first bytes to skip."""


class _Flow:
    """Fails if the bytes of a blob arrive too slowly. Time that the reader takes between two parts does not count.

    Args:
        clock: seconds, from any start.
        seconds: within them `DRIP_BYTES` have to come.
    """

    def __init__(self, *, clock: Callable[[], float], seconds: float) -> None:
        self.has_stalled = False
        self._clock = clock
        self._seconds = seconds

    async def watched(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield parts as they come.

        Raises:
            httpx.ReadTimeout: too few bytes came.
        """
        waited, size, since = 0.0, 0, self._clock()
        async for part in parts:
            waited += self._clock() - since
            size += len(part)
            if size >= DRIP_BYTES:
                waited, size = 0.0, 0
            elif waited > self._seconds:
                self.has_stalled = True
                raise httpx.ReadTimeout("the bytes only drip")
            yield part
            since = self._clock()


class BlobStream(Closing):
    """A blob's bytes, read once, from an offset to the end; a cut connection is opened again where it was.

    The bytes are verified if they are read from the first to the last. Wrong bytes raise an InvalidAnswerError
    after they were yielded, so a caller that stores them must not use them before the end.
    """

    def __init__(
        self,
        digest: Digest,
        *,
        offset: int,
        verify: bool,
        opening: OpenBlob,
        budget: RetryBudget,
        repository: Repository,
    ) -> None:
        self._about = {"registry": repository.registry, "repository": repository, "digest": digest}
        self._digest = digest
        self._hasher = digest.hasher() if verify and offset == 0 else None
        self._at = offset
        self._opening = opening
        self._budget = budget
        self._answer: Answer | None = None
        self._skip = 0
        self._parts = self._read()

    @property
    def size(self) -> int | None:
        """The whole blob's size in bytes, or None if the registry does not say."""
        return None if self._answer is None else _whole_size(self._answer)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def _open(self) -> None:
        """Request the bytes from the stream's offset on."""
        await self._close_answer()
        self._answer, self._skip = await self._opening(self._at)

    async def aclose(self) -> None:
        """Close the answer, read or not."""
        await self._parts.aclose()
        await self._close_answer()

    async def _close_answer(self) -> None:
        if self._answer is not None:
            await _close(self._answer)

    async def _read(self) -> AsyncGenerator[bytes]:
        with knowing(**self._about):
            async for part in self._verified():
                yield part

    async def _verified(self) -> AsyncGenerator[bytes]:
        answer = self._answer
        while answer is not None:
            flow = _Flow(clock=self._budget.retrier.clock, seconds=self._budget.retrier.policy.timeout)
            try:
                with translated("GET", answer.url):
                    async for part in flow.watched(_raw(answer, self._skip)):
                        if self._hasher is not None:
                            self._hasher.update(part)
                        self._at += len(part)
                        yield part
                break
            except RegistryUnreachableError as error:
                if not flow.has_stalled:
                    self._budget.note_progress(self._at)
                await self._budget.spend(error)
                await self._open()
                answer = self._answer
        if self._hasher is not None and not self._digest.matches(self._hasher):
            raise InvalidAnswerError(f"blob {self._digest}: {self._at} bytes came, and they have another digest")


async def _raw(answer: Answer, skip: int) -> AsyncIterator[bytes]:
    """Yield an open answer's bytes undecoded, without the first `skip`."""
    if answer.stream is None:
        return
    async for part in raw_bytes(answer.stream):
        if skip >= len(part):
            skip -= len(part)
        else:
            yield part[skip:]
            skip = 0


class Blobs(RegistryMethods):
    """`RegistryClient`'s methods for blobs."""

    _is_head_refused = False

    async def head_blob(self, repository: str | Located, digest: str) -> int | None:
        """Ask whether a repository has a blob.

        Args:
            repository: the repository.
            digest: the blob's digest.

        Returns:
            The blob's size in bytes; `SIZE_UNKNOWN` (-1) if it exists and the registry does not send its size;
            None if it does not exist.
        """
        repository, digest = as_repository(repository), as_digest(digest)
        if self._is_head_refused:
            return await self._peek(repository, digest)
        answer = await self._requester.send(self._blob_call("HEAD", repository, digest))
        if answer.status == 404:
            return None
        if answer.status == 200:
            return _length(answer)
        if answer.status in _NOT_SERVED and Origin.of(answer.url) == self._requester.origin:
            self._is_head_refused = True
            return await self._peek(repository, digest)
        if Origin.of(answer.url) != self._requester.origin:
            return SIZE_UNKNOWN  # the registry has it, and its storage accepts signed GETs only
        raise refusal(answer, "HEAD")

    async def _peek(self, repository: Repository, digest: Digest) -> int | None:
        """Ask for one byte of a blob, where the registry refuses HEAD."""
        headers = {"Range": "bytes=0-0"}
        answer = await self._requester.send(
            self._blob_call("GET", repository, digest, headers=headers, streamed=True)
        )
        if answer.stream is not None:
            await answer.stream.aclose()
        if answer.status in {200, 206}:
            size = _whole_size(answer)
            return SIZE_UNKNOWN if size is None else size
        if answer.status == 416:
            return SIZE_UNKNOWN  # an empty blob has no first byte, and some registries serve no ranges
        if answer.status == 404:
            return None
        raise refusal(answer, "GET")

    def stream_blob(
        self, repository: str | Located, digest: str, *, offset: int = 0, verify: bool = True
    ) -> BlobStream:
        """Read a blob: `async with client.stream_blob(…) as stream`, then `async for part in stream`.

        A cut connection is opened again at the byte where it ended.

        Args:
            repository: the repository.
            digest: the blob's digest.
            offset: the first byte to read.
            verify: hash the bytes if they are read from the first to the last.

        Raises:
            RegistryRefusedError: on entering; with status 404 if the repository does not have the blob.
            InvalidAnswerError: at the end: the bytes have another digest.
        """
        repository, digest = as_repository(repository), as_digest(digest)
        return BlobStream(
            digest,
            repository=repository,
            offset=offset,
            verify=verify,
            opening=partial(self._open_blob, repository, digest),
            budget=RetryBudget(self._requester.retrier, method="GET", host=self._requester.origin.authority),
        )

    async def _open_blob(self, repository: Repository, digest: Digest, offset: int) -> tuple[Answer, int]:
        answer = await self._request_from(repository, digest, offset)
        if offset and _is_range_refused(answer, offset):
            await _close(answer)
            answer = await self._request_from(repository, digest, 0)
        elif answer.status == 206 and offset:
            return answer, 0
        if answer.status == 200:
            return answer, offset
        if answer.stream is not None:
            await _close(answer)
            raise InvalidAnswerError(f"GET {shown(answer.url)}: {answer.status} with bytes not asked for")
        raise refusal(answer, "GET")

    async def _request_from(self, repository: Repository, digest: Digest, offset: int) -> Answer:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return await self._requester.send(
            self._blob_call("GET", repository, digest, headers=headers, streamed=True)
        )

    def _blob_call(
        self,
        method: str,
        repository: Repository,
        digest: Digest,
        *,
        headers: dict[str, str] | None = None,
        streamed: bool = False,
    ) -> RegistryRequest:
        return RegistryRequest(
            method=method,
            url=self._endpoints.blob(repository, digest),
            name=repository.name,
            wanted=Wanted((scope.pull(repository),)),
            headers=headers or {},
            streamed=streamed,
            about={"digest": digest},
        )


def _is_range_refused(answer: Answer, offset: int) -> bool:
    """Return whether a registry that has the blob may not send it from an offset on, but may send it whole."""
    if answer.status == 206:
        content_range = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        return content_range is None or int(content_range[1]) != offset
    return answer.status in _RANGE_REFUSED or (answer.is_good and answer.status != 200)


async def _close(answer: Answer) -> None:
    if answer.stream is not None:
        await answer.stream.aclose()


def _length(answer: Answer) -> int:
    size = decimal(answer.headers.get("content-length", ""))
    return SIZE_UNKNOWN if size is None else size


def _whole_size(answer: Answer) -> int | None:
    content_range = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if answer.status == 206:
        return int(content_range[2]) if content_range is not None and content_range[2] != "*" else None
    size = _length(answer)
    return None if size == SIZE_UNKNOWN else size
