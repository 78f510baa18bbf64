"""The mount of one layer, step by step, against a real registry and a real index."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, assert_never

from crossmount import events
from crossmount.errors import AccessDeniedError, CrossmountError, InvalidInputError, RegistryError
from crossmount.index.protocol import (
    Knowledge,
    LayerKnowledge,
    MountableLayers,
    MountIndex,
    RegistryTraits,
    Sighting,
)
from crossmount.index.widen import widen
from crossmount.mount import decision
from crossmount.mount.ranking import plan
from crossmount.mount.status import MountResult, MountStatus
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import Mounted, RegistryClient

DENIED_SECONDS = 3600.0
"""How long a source that we may not read is left alone."""

_SETTLE_SECONDS = 2.0


class Mounter:
    """Mounts layers on one registry, and keeps the index true while doing so.

    Args:
        client: the registry's client; whoever made it closes it.
        index: where sources are known from, and told to.
        observer: told of sources that did not serve.
        clock: seconds, for how long a denied source is left alone.
    """

    def __init__(
        self,
        client: RegistryClient,
        index: MountableLayers,
        *,
        observer: events.Observer = events.ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._index: MountIndex = widen(index)
        self._observer = observer
        self._clock = clock
        self._denied: dict[Repository, float] = {}
        self._inquiries: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let inquiries about failed sources end; those that take too long are given up."""
        if self._inquiries:
            _, late = await asyncio.wait(self._inquiries, timeout=_SETTLE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def mount(self, layer: Digest, dest: Located) -> MountResult:
        """Mount `layer` into `dest` from wherever the index knows it, and record what was proven.

        Returns:
            The result; unless it is MOUNTED or MOUNT_REQUIRED its session, if any, is the caller's.

        Raises:
            InvalidInputError: `dest` is on another registry than the client.
            IndexFailedError: the index did not serve, and is not guarded.
        """
        repository = self._checked(dest)
        knowledge = await self._index.look_up([layer], repository)
        candidates = self.candidates(knowledge, repository).get(layer, ())
        prepared = await self._client.prepare(repository, candidates)
        candidates = tuple(source for source in candidates if source not in prepared.refused)
        result = await self.attempt(layer, repository, candidates, knowledge)
        if result.status is MountStatus.MOUNTED:
            await self._index.record(proven(result, knowledge.of(layer).size))
        await self.learn(knowledge.traits, [result])
        return result

    def candidates(self, knowledge: Knowledge, dest: Repository) -> dict[Digest, tuple[Repository, ...]]:
        """Choose which sources are worth asking for, for each layer that has any, best first."""
        if knowledge.traits.mounts is False:
            return {}
        now = self._clock()
        return plan(
            {layer: known.sources for layer, known in knowledge.layers.items()},
            {layer: known.size for layer, known in knowledge.layers.items()},
            dest=dest,
            avoid={source for source, until in self._denied.items() if until > now},
        )

    async def attempt(
        self, layer: Digest, dest: Repository, candidates: Sequence[Repository], knowledge: Knowledge
    ) -> MountResult:
        """Ask the registry, candidate after candidate; the index is neither read nor told what was proven."""
        known = knowledge.of(layer)
        state = decision.MountState(
            candidates=tuple(candidates),
            unmounted=_why_not(known),
            must_mount=known.must_mount,
            finds=knowledge.traits.finds,
        )
        try:
            while True:
                match decision.next_step(state):
                    case decision.Finish(status):
                        break
                    case decision.Ask() | decision.Open() as step:
                        answer = await self._do(step, layer, dest)
                        state = decision.after(state, step, answer)
                        if isinstance(step, decision.Ask) and step.source and not isinstance(answer, Mounted):
                            self._inquire(layer, step.source, answer, knowledge.traits)
                        if state.superfluous is not None:
                            await self._client.cancel_upload(state.superfluous)
                    case unexpected:
                        assert_never(unexpected)
        except asyncio.CancelledError:
            if state.session is not None:
                await self._client.cancel_upload(state.session)
            raise
        session = state.session
        if status is MountStatus.MOUNT_REQUIRED and session is not None:
            await self._client.cancel_upload(session)
            session = None
        return MountResult(
            status=status,
            layer=layer,
            dest=dest,
            source=state.source,
            session=session,
            attempts=state.attempts,
            error=state.error if status in {MountStatus.FAILURE, MountStatus.MOUNT_REQUIRED} else None,
        )

    async def learn(self, traits: RegistryTraits, results: Iterable[MountResult]) -> None:
        """Tell the index what mounts taught about the registry, if it is news."""
        mounted = [result for result in results if result.status is MountStatus.MOUNTED]
        seen = RegistryTraits(
            mounts=True if any(result.source for result in mounted) else None,
            finds=True if any(not result.source for result in mounted) else None,
        )
        if traits.updated(seen) != traits:
            await self._index.record_traits(self._client.registry, seen)

    async def _do(self, step: decision.Ask | decision.Open, layer: Digest, dest: Repository) -> decision.Answer:
        try:
            if isinstance(step, decision.Ask):
                return await self._client.mount_blob(dest, layer, step.source)
            return await self._client.start_upload(dest)
        except RegistryError as error:
            return error

    def _inquire(self, layer: Digest, source: Repository, answer: decision.Answer, traits: RegistryTraits) -> None:
        """Find out, off the critical path, why a source did not serve."""
        task = asyncio.create_task(self._find_out(layer, source, answer, traits))
        self._inquiries.add(task)
        task.add_done_callback(self._inquiries.discard)

    async def _find_out(
        self, layer: Digest, source: Repository, answer: decision.Answer, traits: RegistryTraits
    ) -> None:
        try:
            size = await self._client.head_blob(source, layer)
        except AccessDeniedError:
            self._denied[source] = self._clock() + DENIED_SECONDS
            self._observer(events.SourceDropped(layer=layer, source=source, reason="unreadable"))
        except CrossmountError:
            return  # nothing was learnt: the source stays what it was, a hint
        else:
            if size is None:
                self._observer(events.SourceDropped(layer=layer, source=source, reason="gone"))
                await self._index.forget(layer, source)
            elif traits.mounts is None and not traits.after_manifest and not isinstance(answer, CrossmountError):
                self._observer(events.SourceDropped(layer=layer, source=source, reason="unmountable"))
                await self._index.record_traits(self._client.registry, RegistryTraits(mounts=False))

    def _checked(self, dest: Located) -> Repository:
        repository = dest.repository
        if repository.registry != self._client.registry:
            raise InvalidInputError(f"{repository} is not on {self._client.registry}, which this mounter serves")
        return repository


def proven(result: MountResult, size: int | None) -> list[Sighting]:
    """Return what a mount that succeeded proves: dest holds the layer, and so does the source."""
    holders = [result.dest] if result.source is None else [result.dest, result.source]
    return [Sighting(result.layer, repository, size) for repository in holders]


def _why_not(known: LayerKnowledge) -> MountStatus:
    if known.sources:  # known, and none worth asking: denied before, or a registry that does not mount
        return MountStatus.PUSH_STARTED
    return MountStatus.UNAVAILABLE if known.elsewhere else MountStatus.SKIPPED
