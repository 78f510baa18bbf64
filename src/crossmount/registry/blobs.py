"""Blobs over HTTP: asked for, and read with resume and check (distribution specification, "Pulling blobs")."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial

from crossmount._parsing import decimal
from crossmount.errors import InvalidAnswerError, RegistryUnreachableError
from crossmount.oci import Digest, Repository
from crossmount.registry.auth import scope
from crossmount.registry.auth.scope import Wanted
from crossmount.registry.endpoints import Endpoints
from crossmount.registry.http import transport as http
from crossmount.registry.http.location import Origin
from crossmount.registry.http.refusal import refusal
from crossmount.registry.http.requester import Call, Requester
from crossmount.registry.http.retry_budget import RetryBudget
from crossmount.registry.http.transport import Answer
from crossmount.registry.values import SIZE_UNKNOWN

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)


Open = Callable[[int], Awaitable[tuple[Answer, int]]]
"""Asks for a blob from an offset on; also tells how many of the bytes that come are to be passed over."""


class BlobStream:
    """A blob's bytes, read once, from an offset to the end; after a cut it goes on where it was.

    Read from its beginning to its end it is verified: wrong bytes end in an InvalidAnswerError, after they were
    yielded, so whoever keeps them keeps them aside until the end.
    """

    def __init__(self, digest: Digest, *, offset: int, verify: bool, opening: Open, patience: RetryBudget) -> None:
        self._digest = digest
        self._hasher = digest.hasher() if verify and offset == 0 else None
        self._at = offset
        self._opening = opening
        self._patience = patience
        self._answer: Answer | None = None
        self._skip = 0
        self._parts = self._read()

    @property
    def size(self) -> int | None:
        """The whole blob's size in bytes, or None if the registry does not say."""
        return None if self._answer is None else _whole_size(self._answer)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def open(self) -> None:
        """Ask for the bytes from where the stream is."""
        await self._close_answer()
        self._answer, self._skip = await self._opening(self._at)

    async def aclose(self) -> None:
        """Let go of the answer, read or not."""
        await self._parts.aclose()
        await self._close_answer()

    async def _close_answer(self) -> None:
        if self._answer is not None and self._answer.stream is not None:
            await self._answer.stream.aclose()

    async def _read(self) -> AsyncGenerator[bytes]:
        answer = self._answer
        while answer is not None:
            try:
                with http.translated("GET", answer.url):
                    async for part in _raw(answer, self._skip):
                        if self._hasher is not None:
                            self._hasher.update(part)
                        self._at += len(part)
                        yield part
                break
            except RegistryUnreachableError as error:
                self._patience.note_progress(self._at)
                await self._patience.bear(error)
                await self.open()
                answer = self._answer
        if self._hasher is not None and not self._digest.matches(self._hasher):
            raise InvalidAnswerError(f"blob {self._digest}: {self._at} bytes came, and they have another digest")


async def _raw(answer: Answer, skip: int) -> AsyncIterator[bytes]:
    """Yield an open answer's bytes as they travelled, the first `skip` left out."""
    if answer.stream is None:
        return
    async for part in http.travelled(answer.stream):
        if skip >= len(part):
            skip -= len(part)
        else:
            yield part[skip:]
            skip = 0


class Blobs:
    """The blobs of one registry."""

    def __init__(self, endpoints: Endpoints, requester: Requester) -> None:
        self._endpoints = endpoints
        self._requester = requester

    async def head(self, repository: Repository, digest: Digest) -> int | None:
        """See `RegistryClient.head_blob`."""
        answer = await self._requester.send(self._call("HEAD", repository, digest))
        if answer.status == 404:
            return None
        if answer.status == 200:
            return _length(answer)
        if Origin.of(answer.url) != self._requester.origin:
            return SIZE_UNKNOWN  # the registry has it, and its storage signs GETs only
        raise refusal(answer, "HEAD")

    @asynccontextmanager
    async def stream(
        self, repository: Repository, digest: Digest, *, offset: int, verify: bool
    ) -> AsyncGenerator[BlobStream]:
        """See `RegistryClient.stream_blob`."""
        stream = BlobStream(
            digest,
            offset=offset,
            verify=verify,
            opening=partial(self._open, repository, digest),
            patience=RetryBudget(self._requester.retrier, method="GET", host=self._requester.origin.host),
        )
        await stream.open()
        async with aclosing(stream):
            yield stream

    async def _open(self, repository: Repository, digest: Digest, offset: int) -> tuple[Answer, int]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = await self._requester.send(self._call("GET", repository, digest, headers=headers, streamed=True))
        if answer.status == 200:
            return answer, offset
        if answer.status == 206 and offset:
            told = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            if told is not None and int(told[1]) == offset:
                return answer, 0
        if answer.stream is not None:
            await answer.stream.aclose()
            raise InvalidAnswerError(f"GET {http.shown(answer.url)}: {answer.status} with bytes not asked for")
        raise refusal(answer, "GET")

    def _call(
        self,
        method: str,
        repository: Repository,
        digest: Digest,
        *,
        headers: dict[str, str] | None = None,
        streamed: bool = False,
    ) -> Call:
        return Call(
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
    told = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if answer.status == 206:
        return int(told[2]) if told is not None and told[2] != "*" else None
    size = _length(answer)
    return None if size == SIZE_UNKNOWN else size
