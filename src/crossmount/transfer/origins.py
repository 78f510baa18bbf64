"""Which registries a blob is fetched from, the nearest first."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from crossmount import events
from crossmount.errors import (
    AccessDeniedError,
    BlobUnavailableError,
    CrossmountError,
    InvalidAnswerError,
    RegistryError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.index.protocol import MountIndex
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.registry import RegistryClient
from crossmount.transfer.fetch import SLOWEST
from crossmount.transfer.registries import FAR_AWAY, Registries

REGISTRIES_MAX = 4
"""Other registries that are tried for one blob besides its source: they are but hints."""

REPOSITORIES_MAX = 2
"""Repositories of one of them."""

SLOW_SECONDS = 10.0
"""How long one of those may be slower than `SLOWEST`."""


def rank(
    holders: Iterable[Repository],
    *,
    source: Repository,
    prefer: Sequence[str] = (),
    distance: Mapping[str, float],
) -> list[Repository]:
    """Order the repositories that are said to hold a blob: preferred registries first, then the nearest.

    Distances count by powers of two: what differs by less is as near. Among equals the copy's source is first,
    which is known to hold it; the name is the last key.

    Args:
        holders: repositories that the index names.
        source: the copy's source; it is always among them.
        prefer: registries, the best first.
        distance: seconds by registry; without an answer it is infinite, and only the source is tried all the same.
    """
    order = {registry: place for place, registry in enumerate(prefer)}

    def far(repository: Repository) -> float:
        seconds = distance.get(repository.registry, 0.0)
        return seconds if seconds in {0.0, FAR_AWAY} else float(round(math.log2(seconds)) + 64)

    ordered = sorted(
        {source, *(holder for holder in holders if holder.registry != source.registry)},
        key=lambda at: (order.get(at.registry, len(order)), far(at), at != source, at.registry, at.name),
    )
    ranked, tried = [], Counter[str]()
    for holder in ordered:
        registry = holder.registry
        if holder != source:
            is_new_past_the_bound = registry not in tried and len(tried) >= REGISTRIES_MAX
            if is_new_past_the_bound or tried[registry] >= REPOSITORIES_MAX or distance.get(registry) == FAR_AWAY:
                continue
            tried[registry] += 1
        ranked.append(holder)
    return ranked


@dataclass(frozen=True, slots=True, eq=False)
class RegistryOrigin:
    """A repository that a blob may be fetched from."""

    repository: Repository
    client: RegistryClient
    origins: "Origins"

    def __str__(self) -> str:
        return str(self.repository)

    async def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """See `Origin`."""
        reading = self.client.stream_blob(self.repository, descriptor.digest, offset=offset, verify=False)
        async with reading as stream:
            if stream.size not in {None, descriptor.size}:
                raise InvalidAnswerError(
                    f"{self.repository}: blob {descriptor.digest} has {stream.size} bytes there, "
                    f"the manifest says {descriptor.size}"
                )
            parts = aiter(stream)
            if not self.origins.registries.is_named(self.repository):
                parts = self._brisk(parts, descriptor)
            async for part in parts:
                yield part

    async def _brisk(self, parts: AsyncIterator[bytes], descriptor: Descriptor) -> AsyncIterator[bytes]:
        """Yield what comes, as long as it comes fast enough; the time that our reader takes does not count."""
        clock, waited, came = self.origins.registries.clock, 0.0, 0
        asked = clock()
        async for part in parts:
            waited, came = waited + clock() - asked, came + len(part)
            if waited > SLOW_SECONDS and came < (waited - SLOW_SECONDS) * SLOWEST:
                raise RegistryUnreachableError(f"{self.repository}: blob {descriptor.digest} comes too slowly")
            yield part
            asked = clock()

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """See `Origin`; what it surely lacks is forgotten for everybody, what we may not read for this copy."""
        await self.origins.failed(self, descriptor.digest, error)

    async def gave_wrong(self, descriptor: Descriptor) -> bool:
        """See `Origin`; it is not asked for this blob again."""
        self.origins.gave_wrong(self.repository, descriptor.digest)
        return False


@dataclass(slots=True, kw_only=True)
class Origins:
    """Knows, for one copy of many images, where blobs can be fetched from, and who was no help.

    Attributes:
        prefer: registries to fetch from, the best first, however far away.
    """

    registries: Registries
    index: MountIndex
    prefer: Sequence[str] = ()
    observer: events.Observer = events.ignore
    _wrong: set[tuple[Repository, Digest]] = field(default_factory=set, init=False)
    _denied: set[Repository] = field(default_factory=set, init=False)
    _silent: set[str] = field(default_factory=set, init=False)
    _no_help: set[str] = field(default_factory=set, init=False)

    async def of(self, descriptor: Descriptor, *, source: Repository, dest: Repository) -> list[RegistryOrigin]:
        """Return where a blob that `dest` lacks may be fetched from, the best first.

        Raises:
            BlobUnavailableError: all gave wrong bytes before.
        """
        known = await self.index.locations(descriptor.digest)
        holders = [
            holder
            for holder in known
            if holder not in self._denied and holder != dest and holder.registry not in self._no_help
        ]
        registries = {holder.registry: holder for holder in (*holders, source)}
        distance: dict[str, float] = {}
        if len(registries) > 1:
            seconds = await asyncio.gather(*(self.registries.distance(at) for at in registries.values()))
            distance = dict(zip(registries, seconds, strict=True))
        self._say_what_does_not_answer(descriptor.digest, holders, distance)
        ranked = rank(holders, source=source, prefer=self.prefer, distance=distance)
        left = [repository for repository in ranked if (repository, descriptor.digest) not in self._wrong]
        if not left:
            raise BlobUnavailableError(
                f"blob {descriptor.digest} could not be fetched: "
                f"{', '.join(map(str, ranked))} gave bytes that do not have that digest"
            )
        return [RegistryOrigin(repository, self.registries.client(repository), self) for repository in left]

    async def failed(self, origin: RegistryOrigin, digest: Digest, error: CrossmountError) -> None:
        """Take note that a repository did not give a blob."""
        repository = origin.repository
        reason: Literal["gone", "unreadable", "cut"] = "cut"
        if isinstance(error, AccessDeniedError):
            reason = "unreadable"
            self._denied.add(repository)
        elif isinstance(error, RegistryRefusedError) and error.status == 404:
            reason = "gone" if await _is_readable(origin) else "unreadable"  # it may only be hidden from us
            if reason == "gone":
                await self.index.forget(digest, repository)
        if reason == "cut":
            self._leave_alone(repository)
        cause = str(error) if reason == "cut" else ""
        self.observer(events.SourceDropped(layer=digest, source=repository, reason=reason, cause=cause))

    def gave_wrong(self, repository: Repository, digest: Digest) -> None:
        """Take note that a repository gave wrong bytes for a blob."""
        self._wrong.add((repository, digest))
        self._leave_alone(repository)
        self.observer(events.SourceDropped(layer=digest, source=repository, reason="wrong"))

    def _say_what_does_not_answer(
        self, digest: Digest, holders: Iterable[Repository], distance: Mapping[str, float]
    ) -> None:
        for holder in holders:
            if distance.get(holder.registry) == FAR_AWAY and holder.registry not in self._silent:
                self._silent.add(holder.registry)
                cause = "" if self.registries.is_named(holder) else "asked over https, as only the index names it"
                self.observer(events.SourceDropped(layer=digest, source=holder, reason="unreachable", cause=cause))

    def _leave_alone(self, repository: Repository) -> None:
        """Ask a registry for nothing more that only the index names: a hint must not cost each blob anew."""
        if not self.registries.is_named(repository):
            self._no_help.add(repository.registry)


async def _is_readable(origin: RegistryOrigin) -> bool:
    try:
        return await origin.client.is_readable(origin.repository)
    except RegistryError:
        return False
