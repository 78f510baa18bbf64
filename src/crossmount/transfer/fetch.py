"""A blob that is fetched while it is sent on: from one origin after the other, and never wrong to its end.

The last bytes are given on only when the whole has the right digest. So wrong bytes can fill a session at the
destination, never complete it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from crossmount.errors import BlobUnavailableError, CrossmountError, InvalidAnswerError
from crossmount.oci import Descriptor, Repository
from crossmount.oci.digest import Hasher

MARK_BYTES = 4 * 1024 * 1024
"""So often the hash so far is kept: from there on a blob is fetched again when its upload is resumed."""

_CAUSES_SHOWN = 4


class StartOverError(CrossmountError):
    """What was given on of a blob so far is wrong: let it go, and read the blob anew. Never leaves the room."""


class Origin(Protocol):
    """Where a blob's bytes may be had from."""

    @property
    def repository(self) -> Repository | None:
        """The repository that it is, None if it is none."""
        ...

    def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` on; a CrossmountError ends it early."""
        ...

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """Take note that it ended early."""
        ...

    async def gave_wrong(self, descriptor: Descriptor) -> bool:
        """Take note that its bytes are wrong; tell whether they may be right when it is asked again."""
        ...


Find = Callable[[Descriptor], Awaitable[Sequence[Origin]]]
"""Names a blob's origins, the best first."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place in the blob: what was hashed up to it, and by whom it was given."""

    at: int
    hasher: Hasher
    givers: frozenset[Origin]


@dataclass(slots=True, eq=False)
class FetchedBlob:
    """A blob of a registry, as a source for an upload.

    Every reading begins where the hash is known, so whatever is read again is verified as a whole too.

    Attributes:
        finds: name the origins, each when those of the one before are no help any more.
        taken: bytes that each repository gave.
        through: the blob as it comes past the cache, where this one reads the cache.
    """

    descriptor: Descriptor
    finds: Sequence[Find]
    taken: dict[Repository, int] = field(default_factory=dict)
    through: "FetchedBlob | None" = None
    _origins: list[Origin] = field(default_factory=list, init=False)
    _asked: int = field(default=0, init=False)
    _causes: list[str] = field(default_factory=list, init=False)
    _marks: list[_Mark] = field(default_factory=list, init=False)
    _alone: bool = field(default=False, init=False)

    @property
    def fetched(self) -> dict[Repository, int]:
        """Bytes that were fetched for this blob, by repository."""
        return self.taken if self.through is None else {**self.through.taken, **self.taken}

    async def stream(self, offset: int = 0) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` to the end.

        Raises:
            BlobUnavailableError: no origin is left.
            StartOverError: what was yielded is wrong, and there is another origin to try.
        """
        size = self.descriptor.size
        mark = self._mark_before(offset)
        at, hasher, givers = mark.at, mark.hasher.copy(), set(mark.givers)
        last = b""
        async with aclosing(self._read(at, givers)) as parts:
            async for part in parts:
                if last:
                    yield last
                hasher.update(part)
                last = part[max(offset - at, 0) :]
                at += len(part)
                if at - self._marks[-1].at >= MARK_BYTES:
                    self._marks.append(_Mark(at, hasher.copy(), frozenset(givers)))
        if at != size or not self.descriptor.digest.matches(hasher):
            await self._start_over(givers)
        if last:
            yield last

    def _mark_before(self, offset: int) -> _Mark:
        """Return the last place at or before `offset` where the hash is known, and forget what is after it."""
        if not self._marks:
            self._marks = [_Mark(0, self.descriptor.digest.hasher(), frozenset())]
        while self._marks[-1].at > offset:
            self._marks.pop()
        return self._marks[-1]

    async def _read(self, at: int, givers: set[Origin]) -> AsyncGenerator[bytes]:
        """Yield the bytes from `at` on, from the next origin where one fails; never more than there should be."""
        size = self.descriptor.size
        while at < size:
            origin = await self._best()
            if self._alone and givers - {origin}:
                self._forget_all()
                raise StartOverError(f"{self.descriptor.digest}: each origin is read alone")
            try:
                async with aclosing(origin.read(self.descriptor, at)) as parts:
                    async for part in parts:
                        givers.add(origin)
                        if origin.repository is not None:
                            self.taken[origin.repository] = self.taken.get(origin.repository, 0) + len(part)
                        at += len(part)
                        if at > size:
                            return  # more than the blob has: wrong, and the end is not waited for
                        yield part
                if at < size:
                    raise InvalidAnswerError(
                        f"{origin}: blob {self.descriptor.digest} ends {size - at} bytes early"
                    )
            except BlobUnavailableError:  # the cache has asked all the others
                raise
            except StartOverError:
                self._forget_all()
                raise
            except CrossmountError as error:
                await origin.failed(self.descriptor, error)
                self._drop(origin, str(error))

    async def _best(self) -> Origin:
        """Return the first origin that is left.

        Raises:
            BlobUnavailableError: none is.
        """
        while not self._origins and self._asked < len(self.finds):
            find = self.finds[self._asked]
            self._asked += 1
            self._origins.extend(await find(self.descriptor))
        if not self._origins:
            raise self._unavailable()
        return self._origins[0]

    async def _start_over(self, givers: set[Origin]) -> None:
        """Find out who gave the wrong bytes, as far as that can be told, and say how it goes on."""
        self._forget_all()
        if len(givers) == 1:
            (giver,) = givers
            if not await giver.gave_wrong(self.descriptor):
                self._drop(giver, f"{giver} gave bytes that do not have the digest {self.descriptor.digest}")
        else:
            self._alone = True
        await self._best()
        raise StartOverError(f"{self.descriptor.digest}: wrong bytes")

    def _drop(self, origin: Origin, cause: str) -> None:
        self._origins.remove(origin)
        self._causes.append(cause)

    def _forget_all(self) -> None:
        self._marks = []

    def _unavailable(self) -> BlobUnavailableError:
        digest = self.descriptor.digest
        causes = "; ".join(self._causes[:_CAUSES_SHOWN]) or "no registry that holds it is left"
        return BlobUnavailableError(f"blob {digest} could not be fetched: {causes}")
