"""What mounts show of sources and of the registry: why one failed, and whether a 201 or a 404 can be trusted."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Literal

from crossmount import events
from crossmount._expiring import ExpiringSet
from crossmount.errors import AccessDeniedError, CrossmountError
from crossmount.index.exclusions import RemembersDenials
from crossmount.index.protocol import Knowledge, MountIndex, RegistryTraits
from crossmount.mount.decision import FalseMount, MountAnswer, MountResult, MountStatus
from crossmount.oci import Digest, Repository
from crossmount.registry import Mounted, RegistryClient
from crossmount.registry.http.requester import housekeeping

UNREADABLE_SECONDS = 3600.0
"""How long a source is not tried again after the registry denied us access to it, or hid the layer."""


class Presence(Enum):
    """Whether a repository has a layer.

    Attributes:
        PRESENT: it has the layer.
        GONE: it does not have the layer.
        HIDDEN: the registry answers 404 to us. Some registries do so for repositories that an account must not
            read, so other accounts may see the layer.
    """

    PRESENT = "present"
    GONE = "gone"
    HIDDEN = "hidden"


async def check_presence(
    client: RegistryClient,
    layer: Digest,
    source: Repository,
    *,
    is_readable: Callable[[Repository], Awaitable[bool]] | None = None,
) -> Presence:
    """Ask a registry whether `source` has `layer`.

    Args:
        client: the client of the registry.
        layer: the layer.
        source: the repository.
        is_readable: returns whether a 404 from a repository can be trusted; the client's method by default.

    Raises:
        AccessDeniedError: we must not read `source`.
        RegistryError: the registry did not answer, or not clearly.
    """
    if await client.head_blob(source, layer) is not None:
        return Presence.PRESENT
    certain = await (is_readable or client.is_readable)(source)
    return Presence.GONE if certain else Presence.HIDDEN


def needs_proof(layer: Digest, traits: RegistryTraits) -> bool:
    """Return whether a registry's 201 to the mount of `layer` counts only after it was asked for the blob.

    distribution answers 201 to the mount of a sha512 digest, and does not have the blob under it.
    """
    return layer.algorithm != "sha256" or traits.truthful is False


class Truths:
    """Whether the 201s of registries to mounts were true, as far as it was seen.

    Attributes:
        seen: by registry; what is not here was not seen yet.
        proving: held while the first 201 of a registry is proved, so that others learn from that.
    """

    def __init__(self) -> None:
        self.seen: dict[str, bool] = {}
        self.proving: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)


class MountFindings:
    """Finds out why mounts failed, remembers what mounts have shown, and records it in the index.

    Args:
        client: the client of the registry.
        index: the index.
        observer: receives a `SourceDropped` for each source that is not tried again.
        clock: monotonic seconds.
        proves_first: whether the first 201 to a mount is proved by a HEAD, if the index does not know whether this
            registry's 201s are true.
        truths: what has been seen of the truth of 201s, which others may share; nothing by default.

    Attributes:
        has_mounted: whether the registry has mounted from a source before.
    """

    def __init__(
        self,
        client: RegistryClient,
        index: MountIndex,
        *,
        observer: events.Observer,
        clock: Callable[[], float],
        proves_first: bool = False,
        truths: Truths | None = None,
    ) -> None:
        self.has_mounted = False
        self._proves_next = proves_first
        self._truths = Truths() if truths is None else truths
        self._client = client
        self._index = index
        self._observer = events.never_raising(observer)
        self._unreadable: ExpiringSet[Repository] = ExpiringSet(UNREADABLE_SECONDS, clock=clock)
        self._hidden: ExpiringSet[tuple[Digest, Repository]] = ExpiringSet(UNREADABLE_SECONDS, clock=clock)
        self._checking: defaultdict[Repository, asyncio.Lock] = defaultdict(asyncio.Lock)

    def unreadable(self) -> frozenset[Repository]:
        """Return the sources that this account cannot read."""
        return frozenset(self._unreadable)

    def without_unusable(self, layer: Digest, sources: Iterable[Repository]) -> list[Repository]:
        """Return `sources` without those that this account cannot read, or from which `layer` is hidden."""
        unreadable, hidden = self.unreadable(), frozenset(self._hidden)
        if not unreadable and not hidden:  # as in most pushes
            return list(sources)
        return [source for source in sources if source not in unreadable and (layer, source) not in hidden]

    async def check(
        self, layer: Digest, source: Repository, answer: MountAnswer, traits: RegistryTraits, *, fresh: bool
    ) -> None:
        """Find out why a mount failed; a failure of the check itself changes nothing.

        Args:
            layer: the layer.
            source: the repository that it was not mounted from.
            answer: the registry's answer to the mount request.
            traits: the known traits of the registry.
            fresh: whether the source was published just now, maybe before any manifest there references the layer.
        """
        async with self._checking[source]:  # what one check finds out the others need not ask
            if source in self._unreadable:
                self.drop(layer, source, "unreadable")
            else:
                await self._check(layer, source, answer, traits, fresh=fresh)

    async def _check(
        self, layer: Digest, source: Repository, answer: MountAnswer, traits: RegistryTraits, *, fresh: bool
    ) -> None:
        try:
            with housekeeping():
                presence = await check_presence(self._client, layer, source)
        except AccessDeniedError:
            self._unreadable.add(source)
            self.drop(layer, source, "unreadable")
            return
        except CrossmountError:
            return  # nothing is known: the source remains a candidate
        with contextlib.suppress(CrossmountError):  # an index that fails here only learns nothing
            if presence is Presence.HIDDEN:  # other accounts may see it
                self._hidden.add((layer, source))
                self.drop(layer, source, "unreadable")
            elif presence is Presence.GONE:
                self.drop(layer, source, "gone")
                await self._index.forget(layer, source)
            elif (
                traits.mounts is None
                and not traits.after_manifest
                and not self.has_mounted  # one refusal among successful mounts is not a trait of the registry
                and not isinstance(answer, CrossmountError | FalseMount)
            ):
                self.drop(layer, source, "unmountable")
                # it has the layer and did not mount it: never mounts, or only after a manifest references the
                # layer
                seen = RegistryTraits(after_manifest=True) if fresh else RegistryTraits(mounts=False)
                await self._index.record_traits(self._client.registry, seen)

    def drop(
        self, layer: Digest, source: Repository, reason: Literal["gone", "unreadable", "unmountable"]
    ) -> None:
        """Report that a layer could not be mounted from a source, and why."""
        self._observer(events.SourceDropped(layer=layer, source=source, reason=reason))

    @property
    def is_untruthful(self) -> bool:
        """Whether a 201 to a mount was not true."""
        return self._seen.truthful is False

    @property
    def _seen(self) -> RegistryTraits:
        return RegistryTraits(truthful=self._truths.seen.get(self._client.registry))

    async def prove(self, layer: Digest, dest: Repository, traits: RegistryTraits) -> Mounted | FalseMount:
        """Check a 201 to a mount: a registry whose 201s may be untrue is asked for the blob.

        Raises:
            RegistryError: the registry did not answer, or not clearly.
        """
        is_next, self._proves_next = self._proves_next, False
        if is_next and traits.updated(self._seen).truthful is None:
            async with self._truths.proving[self._client.registry]:
                is_first = traits.updated(self._seen).truthful is None
                return await self._prove(layer, dest, traits, always=is_first)
        return await self._prove(layer, dest, traits)

    async def _prove(
        self, layer: Digest, dest: Repository, traits: RegistryTraits, *, always: bool = False
    ) -> Mounted | FalseMount:
        if not always and not needs_proof(layer, traits.updated(self._seen)):
            return Mounted()
        if await self._client.head_blob(dest, layer) is not None:
            self._truths.seen.setdefault(self._client.registry, True)
            return Mounted()
        with contextlib.suppress(CrossmountError):  # an index that fails here only learns nothing
            await self.record_false_mount()
        return FalseMount()

    async def record_false_mount(self) -> None:
        """Record in the index that a 201 to a mount was not true; mounts there need proof from now on."""
        if self._seen.truthful is not False:
            self._truths.seen[self._client.registry] = False
            await self._index.record_traits(self._client.registry, self._seen)

    async def record_traits(self, traits: RegistryTraits, results: Iterable[MountResult]) -> None:
        """Record in the index what mounts showed about the registry, if it is not known yet."""
        mounted = [result for result in results if result.status is MountStatus.MOUNTED]
        seen = RegistryTraits(
            mounts=True if any(result.source for result in mounted) else None,
            finds=True if any(not result.source for result in mounted) else None,
            truthful=self._seen.truthful,
        )
        if traits.updated(seen) != traits:
            await self._index.record_traits(self._client.registry, seen)

    async def record_denied(self, dest: Repository, knowledge: Knowledge) -> None:
        """Record in the index what this account may not read, for all clients with the same account.

        Call it only after the registry accepted something for `dest`: a refusal may else be about `dest` itself.
        """
        denied = self._client.prepared(dest).denied | self.unreadable()
        if denied := denied - knowledge.denied:
            account = await self._client.account(dest)
            if account is not None and isinstance(self._index, RemembersDenials):
                await self._index.record_denied(self._client.registry, account, denied)
