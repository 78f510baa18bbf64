"""A blob that is fetched while it is uploaded, from one origin after the other.

Its last bytes are yielded only when the whole has the right digest, so wrong bytes can fill an upload session but
never complete it.
"""

from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import field
from typing import Protocol

from crossmount._dataclass import dataclass
from crossmount.errors import BlobUnavailableError, CrossmountError, InvalidAnswerError
from crossmount.oci import Descriptor, Repository
from crossmount.oci.descriptor import Hasher

BUFFER_BYTES = 4 * 1024 * 1024
"""How many of the yielded bytes are stored, so that a resumed upload gets the same bytes again."""

RESTARTS_MAX = 3
"""How often a blob is read again from its start because an upload resumes before the stored bytes."""

SLOWEST_RATE = 64 * 1024
"""Bytes per second below which another origin is used."""

_CAUSES_SHOWN = 4


class StartOverError(CrossmountError):
    """The bytes yielded so far are wrong: discard them, and read the blob again. Internal to `transfer`."""


class BlobOrigin(Protocol):
    """A place to fetch a blob from: a repository, or the cache."""

    @property
    def repository(self) -> Repository | None:
        """The repository; None if it is not one."""
        ...

    def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` to the end; a failure raises a `CrossmountError`."""
        ...

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """Note that a read failed."""
        ...

    async def sent_wrong_bytes(self, descriptor: Descriptor) -> bool:
        """Note that its bytes were wrong; return whether another read may give the right ones."""
        ...


FindOrigins = Callable[[Descriptor], Awaitable[Sequence[BlobOrigin]]]
"""Returns a blob's origins, the best first."""


@dataclass(slots=True, eq=False)
class FetchedBlob:
    """A blob of a registry, as the source of an upload.

    Bytes that were yielded once are never fetched again for the same upload: another origin might send other
    bytes, and the hash would be of those.

    Attributes:
        find_origins: functions that return origins; one is called when all origins of the previous one failed.
        taken: bytes that each repository sent.
        through: the same blob without the cache, if this one reads the cache.
        note: the end of the error if every origin failed.
    """

    descriptor: Descriptor
    find_origins: Sequence[FindOrigins]
    taken: dict[Repository, int] = field(default_factory=dict)
    through: "FetchedBlob | None" = None
    note: str = ""
    _origins: list[BlobOrigin] = field(default_factory=list, init=False)
    _asked: int = field(default=0, init=False)
    _causes: list[str] = field(default_factory=list, init=False)
    _alone: bool = field(default=False, init=False)
    _restarts: int = field(default=0, init=False)
    _at: int = field(default=0, init=False)
    _hasher: Hasher = field(init=False)
    _senders: set[BlobOrigin] = field(default_factory=set, init=False)
    _buffer: deque[bytes] = field(default_factory=deque, init=False)
    _buffer_from: int = field(default=0, init=False)
    _is_right: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Start at the first byte."""
        self._hasher = self.descriptor.digest.hasher()

    @property
    def fetched(self) -> dict[Repository, int]:
        """Bytes that were fetched for this blob, by repository."""
        total = Counter[Repository]() if self.through is None else Counter(self.through.taken)
        total.update(self.taken)
        return dict(total)

    async def stream(self, offset: int = 0) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` to the end.

        Raises:
            BlobUnavailableError: every origin failed.
            StartOverError: the yielded bytes are wrong, and another origin is left.
        """
        self._rewind(offset)
        pending, at = b"", self._buffer_from
        for part in list(self._buffer):
            if pending:
                yield pending
            pending, at = part[max(offset - at, 0) :], at + len(part)
        if not self._is_right:
            async with aclosing(self._read()) as parts:
                async for part in parts:
                    if pending:
                        yield pending
                    pending = part
            if self._at != self.descriptor.size or not self.descriptor.digest.matches(self._hasher):
                await self._start_over()
            self._is_right = True
        if pending:
            yield pending

    def release(self) -> None:
        """Free the stored bytes: the upload has ended."""
        self._reset()

    def _rewind(self, offset: int) -> None:
        """Prepare to yield the bytes from `offset` on.

        Raises:
            StartOverError: they are not stored any more, and the upload must start again.
        """
        if self._buffer_from <= offset <= self._at:
            return
        self._reset()
        if offset:
            self._restarts += 1
            if self._restarts > RESTARTS_MAX:
                raise BlobUnavailableError(
                    f"blob {self.descriptor.digest}: the destination lost what was sent, again and again"
                ).knowing(digest=self.descriptor.digest)
            raise StartOverError(f"{self.descriptor.digest}: its bytes before {offset} are gone")

    def _reset(self) -> None:
        self._at = self._buffer_from = 0
        self._hasher = self.descriptor.digest.hasher()
        self._senders.clear()
        self._buffer.clear()
        self._is_right = False

    def _take(self, origin: BlobOrigin, part: bytes) -> None:
        """Hash, count and store the next bytes."""
        self._senders.add(origin)
        if origin.repository is not None:
            self.taken[origin.repository] = self.taken.get(origin.repository, 0) + len(part)
        self._hasher.update(part)
        self._at += len(part)
        self._buffer.append(part)
        while self._at - self._buffer_from - len(self._buffer[0]) >= BUFFER_BYTES:
            self._buffer_from += len(self._buffer.popleft())

    async def _read(self) -> AsyncGenerator[bytes]:
        """Yield the next bytes, from the next origin after a failure; never more than the blob has."""
        size = self.descriptor.size
        while self._at < size:
            origin = await self._best()
            if self._alone and self._senders - {origin}:
                self._reset()
                raise StartOverError(f"{self.descriptor.digest}: each origin is read alone")
            try:
                async with aclosing(origin.read(self.descriptor, self._at)) as parts:
                    async for part in parts:
                        self._take(origin, part)
                        if self._at > size:
                            return  # more bytes than the blob has: they are wrong
                        yield part
                if self._at < size:
                    raise InvalidAnswerError(
                        f"{origin}: blob {self.descriptor.digest} ends {size - self._at} bytes early"
                    )
            except BlobUnavailableError:  # the cache has tried every other origin already
                raise
            except StartOverError:
                self._reset()
                raise
            except CrossmountError as error:
                await origin.failed(self.descriptor, error)
                self._drop(origin, str(error))

    async def _best(self) -> BlobOrigin:
        """Return the first origin that has not failed.

        Raises:
            BlobUnavailableError: every origin failed.
        """
        while not self._origins and self._asked < len(self.find_origins):
            find = self.find_origins[self._asked]
            self._asked += 1
            self._origins.extend(await find(self.descriptor))
        if not self._origins:
            raise self._unavailable()
        return self._origins[0]

    async def _start_over(self) -> None:
        """Drop the origin that sent wrong bytes, or read each origin alone to find it, then start over."""
        senders = list(self._senders)
        self._reset()
        if len(senders) == 1:
            if not await senders[0].sent_wrong_bytes(self.descriptor):
                self._drop(
                    senders[0], f"{senders[0]} sent bytes that do not have the digest {self.descriptor.digest}"
                )
        else:
            self._alone = True
        await self._best()
        raise StartOverError(f"{self.descriptor.digest}: wrong bytes")

    def _drop(self, origin: BlobOrigin, cause: str) -> None:
        if origin in self._origins:  # otherwise it failed after its last byte, and was dropped then
            self._origins.remove(origin)
        self._causes.append(cause)

    def _unavailable(self) -> BlobUnavailableError:
        digest = self.descriptor.digest
        causes = "; ".join(self._causes[:_CAUSES_SHOWN]) or "no registry that holds it is left"
        return BlobUnavailableError(f"blob {digest} could not be fetched: {causes}{self.note}").knowing(
            digest=digest
        )
