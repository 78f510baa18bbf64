"""The registries that a blob is fetched from, the nearest first."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Literal

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount.errors import (
    AccessDeniedError,
    BlobUnavailableError,
    CrossmountError,
    InvalidAnswerError,
    RegistryError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.index.aliases import registry_names_of
from crossmount.index.protocol import LayerKnowledge, MountIndex
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.registry import RegistryClient
from crossmount.transfer.fetch import SLOWEST_RATE
from crossmount.transfer.registries import FAR_AWAY, Registries

REGISTRIES_MAX = 4
"""How many registries besides the source are tried for one blob: the index only hints."""

REPOSITORIES_MAX = 2
"""How many repositories of each of them are tried."""

SLOW_SECONDS = 10.0
"""How long one of them may be slower than `SLOWEST_RATE`."""

GATHER_BYTES = 256 * 1024
"""Bytes that are handed on together if they arrive within `GATHER_SECONDS`."""

GATHER_SECONDS = 0.05


def rank(
    holders: Iterable[Repository],
    *,
    source: Repository | None,
    prefer: Sequence[str] = (),
    distance: Mapping[str, float],
) -> list[Repository]:
    """Order the repositories that may have a blob: preferred registries first, then the nearest.

    Distances are compared by powers of two: smaller differences do not count. Among equals the copy's source is
    first, which is known to have the blob; the name is the last key.

    Args:
        holders: repositories that the index names.
        source: the copy's source, which is always included; None if there is none.
        prefer: registries, the best first.
        distance: seconds by registry; infinite for one that did not answer, which is left out unless it is the
            source.
    """
    order = {registry: place for place, registry in enumerate(prefer)}

    def far(repository: Repository) -> float:
        seconds = distance.get(repository.registry, 0.0)
        return seconds if seconds in {0.0, FAR_AWAY} else float(round(math.log2(seconds)) + 64)

    others = holders if source is None else (one for one in holders if one.registry != source.registry)
    ordered = sorted(
        {*others} if source is None else {source, *others},
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


async def gathered(parts: AsyncIterator[bytes], *, clock: Callable[[], float]) -> AsyncIterator[bytes]:
    """Yield parts joined into larger ones, since each costs a dozen calls on its way into an upload.

    A socket is read before much has come, some 20 KiB at a time. Bytes wait only for parts that follow quickly,
    and are yielded before an error is raised.
    """
    waiting, size, since = list[bytes](), 0, 0.0
    try:
        async for part in parts:
            since = since if waiting else clock()
            waiting.append(part)
            size += len(part)
            if size >= GATHER_BYTES or clock() - since > GATHER_SECONDS:
                yield b"".join(waiting)
                waiting, size = [], 0
    except Exception:
        if waiting:
            yield b"".join(waiting)
        raise
    if waiting:
        yield b"".join(waiting)


@dataclass(frozen=True, slots=True, eq=False)
class RegistryOrigin:
    """A repository as the origin of blobs."""

    repository: Repository
    client: RegistryClient
    origins: "Origins"

    def __str__(self) -> str:
        return str(self.repository)

    async def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` to the end; a registry that only the index names must not be slow."""
        reading = self.client.stream_blob(self.repository, descriptor.digest, offset=offset, verify=False)
        async with reading as stream:
            if stream.size not in {None, descriptor.size}:
                raise InvalidAnswerError(
                    f"{self.repository}: blob {descriptor.digest} has {stream.size} bytes there, "
                    f"the manifest says {descriptor.size}"
                )
            parts = aiter(stream)
            if not self.origins.registries.is_named(self.repository):
                parts = self._fast_enough(parts, descriptor)
            async for part in gathered(parts, clock=self.origins.registries.clock):
                yield part

    async def _fast_enough(self, parts: AsyncIterator[bytes], descriptor: Descriptor) -> AsyncIterator[bytes]:
        """Yield the parts while they arrive fast enough; the time that the consumer takes does not count."""
        clock, waited, came = self.origins.registries.clock, 0.0, 0
        asked = clock()
        async for part in parts:
            waited, came = waited + clock() - asked, came + len(part)
            if waited > SLOW_SECONDS and came < (waited - SLOW_SECONDS) * SLOWEST_RATE:
                raise RegistryUnreachableError(
                    f"{self.repository}: blob {descriptor.digest} arrives too slowly"
                ).knowing(registry=self.repository.registry, repository=self.repository, digest=descriptor.digest)
            yield part
            asked = clock()

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """Note a failed read: the index forgets a source that is gone, this copy one that it may not read."""
        await self.origins.failed(self, descriptor.digest, error)

    async def sent_wrong_bytes(self, descriptor: Descriptor) -> bool:
        """Note wrong bytes; return False, since the repository is not asked for this blob again."""
        self.origins.sent_wrong_bytes(self.repository, descriptor.digest)
        return False


@dataclass(slots=True, kw_only=True)
class Origins:
    """Finds origins for the blobs of one copy, and remembers which ones failed.

    Attributes:
        registries: the clients.
        index: names the repositories that have a blob.
        prefer: registries to fetch from, the best first, however far away.
        allowed: the only registries to fetch from besides the source's; None allows all that the index names.
        loopback_http: whether to ask registries on this machine's loopback over http if http is allowed.
        observer: receives a `SourceDropped` for each origin that failed.
    """

    registries: Registries
    index: MountIndex
    prefer: Sequence[str] = ()
    allowed: Collection[str] | None = None
    loopback_http: bool = False
    observer: events.Observer = events.ignore
    _wrong: set[tuple[Repository, Digest]] = field(default_factory=set, init=False)
    _denied: set[Repository] = field(default_factory=set, init=False)
    _silent: set[str] = field(default_factory=set, init=False)
    _avoided: set[str] = field(default_factory=set, init=False)

    async def of(
        self, descriptor: Descriptor, *, source: Repository | None, dest: Repository
    ) -> list[RegistryOrigin]:
        """Return the origins of a blob that `dest` lacks, the best first; none if no repository may have it.

        Raises:
            BlobUnavailableError: every origin sent wrong bytes before.
        """
        located, names = await self.index.locations(descriptor.digest), registry_names_of(self.index)
        known = dict.fromkeys(
            self.registries.by_given_name(holder, names.of(holder.registry)) for holder in located
        )
        holders = [
            holder
            for holder in known
            if holder not in self._denied
            and holder != dest
            and holder.registry not in self._avoided
            and (self.allowed is None or holder.registry in self.allowed)
        ]
        registries = {holder.registry: holder for holder in (*holders, *([source] if source else ()))}
        distance: dict[str, float] = {}
        if len(registries) > 1:
            seconds = await asyncio.gather(
                *(self.registries.distance(at, loopback_http=self.loopback_http) for at in registries.values())
            )
            distance = dict(zip(registries, seconds, strict=True))
        self._report_unreachable(descriptor.digest, holders, distance)
        ranked = rank(holders, source=source, prefer=self.prefer, distance=distance)
        left = [repository for repository in ranked if (repository, descriptor.digest) not in self._wrong]
        if ranked and not left:
            raise BlobUnavailableError(
                f"blob {descriptor.digest} could not be fetched: "
                f"{', '.join(map(str, ranked))} sent bytes that do not have that digest"
            ).knowing(digest=descriptor.digest)
        return [
            RegistryOrigin(repository, self.registries.client(repository, loopback_http=self.loopback_http), self)
            for repository in left
        ]

    def may_be_elsewhere(self, known: LayerKnowledge, source: Repository) -> bool:
        """Return whether the index knows a blob on another registry than its source's, which may be nearer."""
        names = registry_names_of(self.index)
        return bool(known.sources) or any(
            each != names.canonical(source.registry) for each in map(names.canonical, known.elsewhere)
        )

    def source_alone(self, descriptor: Descriptor, source: Repository) -> list[RegistryOrigin]:
        """Return a copy's source as the origin of a blob without asking the index; none if it was wrong."""
        if (source, descriptor.digest) in self._wrong:
            return []
        return [RegistryOrigin(source, self.registries.client(source, loopback_http=self.loopback_http), self)]

    async def failed(self, origin: RegistryOrigin, digest: Digest, error: CrossmountError) -> None:
        """Note that a repository did not send a blob."""
        repository = origin.repository
        reason: Literal["gone", "unreadable", "cut"] = "cut"
        if isinstance(error, AccessDeniedError):
            reason = "unreadable"
            self._denied.add(repository)
        elif isinstance(error, RegistryRefusedError) and error.status == 404:
            reason = "gone" if await _is_readable(origin) else "unreadable"  # the account may not see it
            if reason == "gone":
                await self.index.forget(digest, repository)
        if reason == "cut":
            self._avoid(repository)
        cause = str(error) if reason == "cut" else ""
        self.observer(events.SourceDropped(layer=digest, source=repository, reason=reason, cause=cause))

    def sent_wrong_bytes(self, repository: Repository, digest: Digest) -> None:
        """Note that a repository sent wrong bytes for a blob."""
        self._wrong.add((repository, digest))
        self._avoid(repository)
        self.observer(events.SourceDropped(layer=digest, source=repository, reason="wrong"))

    def _report_unreachable(
        self, digest: Digest, holders: Iterable[Repository], distance: Mapping[str, float]
    ) -> None:
        for holder in holders:
            if distance.get(holder.registry) == FAR_AWAY and holder.registry not in self._silent:
                self._silent.add(holder.registry)
                cause = "" if self.registries.is_named(holder) else "asked over https, as only the index names it"
                self.observer(events.SourceDropped(layer=digest, source=holder, reason="unreachable", cause=cause))

    def _avoid(self, repository: Repository) -> None:
        """Stop asking a registry that only the index names: a wrong hint must not cost time for each blob."""
        if not self.registries.is_named(repository):
            self._avoided.add(repository.registry)


async def _is_readable(origin: RegistryOrigin) -> bool:
    try:
        return await origin.client.is_readable(origin.repository)
    except RegistryError:
        return False
