"""Blobs: HEAD, and GET with resume and verification (distribution specification, "Pulling blobs")."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Self

from crossmount._closing import Closing
from crossmount._parsing import decimal
from crossmount.errors import InvalidAnswerError, RegistryUnreachableError
from crossmount.oci import Digest, Repository
from crossmount.registry.auth import scope
from crossmount.registry.auth.scope import Wanted
from crossmount.registry.endpoints import RegistryMethods
from crossmount.registry.http.errors import refusal, translated
from crossmount.registry.http.location import Origin, shown
from crossmount.registry.http.requester import RegistryRequest
from crossmount.registry.http.retry import RetryBudget
from crossmount.registry.http.transport import Answer, raw_bytes
from crossmount.registry.values import SIZE_UNKNOWN

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)


OpenBlob = Callable[[int], Awaitable[tuple[Answer, int]]]
"""Requests a blob from an offset on; returns the answer, and how many of its first bytes to skip."""


class BlobStream(Closing):
    """A blob's bytes, read once, from an offset to the end; a cut connection is opened again where it was.

    The bytes are verified if they are read from the first to the last. Wrong bytes raise an InvalidAnswerError
    after they were yielded, so a caller that stores them must not use them before the end.
    """

    def __init__(
        self, digest: Digest, *, offset: int, verify: bool, opening: OpenBlob, budget: RetryBudget
    ) -> None:
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
        if self._answer is not None and self._answer.stream is not None:
            await self._answer.stream.aclose()

    async def _read(self) -> AsyncGenerator[bytes]:
        answer = self._answer
        while answer is not None:
            try:
                with translated("GET", answer.url):
                    async for part in _raw(answer, self._skip):
                        if self._hasher is not None:
                            self._hasher.update(part)
                        self._at += len(part)
                        yield part
                break
            except RegistryUnreachableError as error:
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

    async def head_blob(self, repository: Repository, digest: Digest) -> int | None:
        """Ask whether a repository has a blob.

        Args:
            repository: the repository.
            digest: the blob's digest.

        Returns:
            The blob's size in bytes; `SIZE_UNKNOWN` (-1) if it exists and the registry does not send its size;
            None if it does not exist.
        """
        answer = await self._requester.send(self._blob_call("HEAD", repository, digest))
        if answer.status == 404:
            return None
        if answer.status == 200:
            return _length(answer)
        if Origin.of(answer.url) != self._requester.origin:
            return SIZE_UNKNOWN  # the registry has it, and its storage accepts signed GETs only
        raise refusal(answer, "HEAD")

    def stream_blob(
        self, repository: Repository, digest: Digest, *, offset: int = 0, verify: bool = True
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
        return BlobStream(
            digest,
            offset=offset,
            verify=verify,
            opening=partial(self._open_blob, repository, digest),
            budget=RetryBudget(self._requester.retrier, method="GET", host=self._requester.origin.host),
        )

    async def _open_blob(self, repository: Repository, digest: Digest, offset: int) -> tuple[Answer, int]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = await self._requester.send(
            self._blob_call("GET", repository, digest, headers=headers, streamed=True)
        )
        if answer.status == 200:
            return answer, offset
        if answer.status == 206 and offset:
            content_range = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            if content_range is not None and int(content_range[1]) == offset:
                return answer, 0
        if answer.stream is not None:
            await answer.stream.aclose()
            raise InvalidAnswerError(f"GET {shown(answer.url)}: {answer.status} with bytes not asked for")
        raise refusal(answer, "GET")

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
        )


def _length(answer: Answer) -> int:
    size = decimal(answer.headers.get("content-length", ""))
    return SIZE_UNKNOWN if size is None else size


def _whole_size(answer: Answer) -> int | None:
    content_range = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if answer.status == 206:
        return int(content_range[2]) if content_range is not None and content_range[2] != "*" else None
    size = _length(answer)
    return None if size == SIZE_UNKNOWN else size
