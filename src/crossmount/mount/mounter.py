"""The mount of one layer, step by step, against a real registry and a real index."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, assert_never

from crossmount import events
from crossmount._closing import Closing
from crossmount.errors import AccessDeniedError, CrossmountError, InvalidInputError, RegistryError
from crossmount.index.adapt import widen
from crossmount.index.protocol import (
    Knowledge,
    LayerKnowledge,
    MountableLayers,
    MountIndex,
    RegistryTraits,
    Sighting,
)
from crossmount.mount import decision
from crossmount.mount.presence import Standing, standing_of
from crossmount.mount.ranking import plan
from crossmount.mount.status import MountResult, MountStatus
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import Mounted, RegistryClient, UploadSession

DENIED_SECONDS = 3600.0
"""How long a source that we may not read, or not see, is left alone."""

_SETTLE_SECONDS = 2.0


class Mounter(Closing):
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
        self._unseen: dict[tuple[Digest, Repository], float] = {}
        self._has_mounted = False
        self._aside: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Let what goes on aside end: inquiries and cancels; those that take too long are given up."""
        if self._aside:
            _, late = await asyncio.wait(self._aside, timeout=_SETTLE_SECONDS)
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
        candidates = (await self.prepare(knowledge, repository)).get(layer, ())
        result = await self.attempt(layer, repository, candidates, knowledge)
        if result.status is MountStatus.MOUNTED:
            await self._index.record(proven(result, knowledge.of(layer).size))
        await self.learn(knowledge.traits, [result])
        return result

    async def prepare(self, knowledge: Knowledge, dest: Repository) -> dict[Digest, tuple[Repository, ...]]:
        """Choose which sources are worth asking for, best first, and see that one token serves them all.

        Returns:
            The candidates of each layer that has any; those that no token is given for are left out.

        Raises:
            RegistryError, CredentialsError: not even a token for `dest` is to be had.
        """
        planned = self.candidates(knowledge, dest)
        sources = dict.fromkeys(source for candidates in planned.values() for source in candidates)
        refused = (await self._client.prepare(dest, sources)).refused
        return {
            layer: tuple(source for source in candidates if source not in refused)
            for layer, candidates in planned.items()
        }

    def candidates(self, knowledge: Knowledge, dest: Repository) -> dict[Digest, tuple[Repository, ...]]:
        """Choose which sources are worth asking for, for each layer that has any, best first."""
        now = self._clock()
        self._denied = {source: until for source, until in self._denied.items() if until > now}
        self._unseen = {pair: until for pair, until in self._unseen.items() if until > now}
        return plan(
            {
                layer: [source for source in known.sources if (layer, source) not in self._unseen]
                for layer, known in knowledge.layers.items()
                if knowledge.traits.mounts is not False or known.must_mount  # a hint fails no push
            },
            {layer: known.size for layer, known in knowledge.layers.items()},
            dest=dest,
            avoid=self._denied,
        )

    async def attempt(
        self,
        layer: Digest,
        dest: Repository,
        candidates: Sequence[Repository],
        knowledge: Knowledge,
        *,
        fresh: bool = False,
    ) -> MountResult:
        """Ask the registry, candidate after candidate; the index is neither read nor told what was proven.

        Args:
            layer: what to mount.
            dest: where to.
            candidates: from where, best first.
            knowledge: what the index said.
            fresh: the candidates were published just now, maybe before any manifest there references it.
        """
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
                        answer = await self._unlost(self._do(step, layer, dest))
                        state = decision.after(state, step, answer)
                        self._has_mounted = self._has_mounted or (state.mounted and state.source is not None)
                        if isinstance(step, decision.Ask) and step.source and not isinstance(answer, Mounted):
                            self._inquire(layer, step.source, answer, knowledge.traits, fresh=fresh)
                        self.let_go(state.superfluous)
                    case unexpected:
                        assert_never(unexpected)
        except BaseException:
            self.let_go(state.session)
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

    def let_go(self, session: UploadSession | None) -> None:
        """Cancel a session that nobody will use, off the critical path."""
        if session is not None:
            self._go_aside(self._client.cancel_upload(session))

    def _go_aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _unlost(self, asking: Coroutine[Any, Any, decision.Answer]) -> decision.Answer:
        """Await `asking`; cancelled meanwhile, let go of the session that the registry may be opening."""
        task = asyncio.create_task(asking)

        async def let_go_of_it() -> None:
            answer = await task
            if isinstance(answer, UploadSession):
                await self._client.cancel_upload(answer)

        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._go_aside(let_go_of_it())
            raise

    async def _do(self, step: decision.Ask | decision.Open, layer: Digest, dest: Repository) -> decision.Answer:
        try:
            if isinstance(step, decision.Ask):
                return await self._client.mount_blob(dest, layer, step.source)
            return await self._client.start_upload(dest)
        except RegistryError as error:
            return error

    def _inquire(
        self, layer: Digest, source: Repository, answer: decision.Answer, traits: RegistryTraits, *, fresh: bool
    ) -> None:
        """Find out, off the critical path, why a source did not serve."""
        self._go_aside(self._quietly(self._find_out(layer, source, answer, traits, fresh=fresh)))

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        """Run an inquiry, which nobody waits for: an index that fails under it teaches nothing."""
        with contextlib.suppress(CrossmountError):
            await work

    async def _find_out(
        self, layer: Digest, source: Repository, answer: decision.Answer, traits: RegistryTraits, *, fresh: bool
    ) -> None:
        try:
            standing = await standing_of(self._client, layer, source)
        except AccessDeniedError:
            self._denied[source] = self._clock() + DENIED_SECONDS
            self._observer(events.SourceDropped(layer=layer, source=source, reason="unreadable"))
        except CrossmountError:
            return  # nothing was learnt: the source stays what it was, a hint
        else:
            if standing is Standing.UNSEEN:  # it may serve others, and in time it is forgotten
                self._unseen[layer, source] = self._clock() + DENIED_SECONDS
                self._observer(events.SourceDropped(layer=layer, source=source, reason="unreadable"))
            elif standing is Standing.GONE:
                self._observer(events.SourceDropped(layer=layer, source=source, reason="gone"))
                await self._index.forget(layer, source)
            elif (
                traits.mounts is None
                and not traits.after_manifest
                and not self._has_mounted  # one refusal among mounts that succeed says nothing of the registry
                and not isinstance(answer, CrossmountError)
            ):
                self._observer(events.SourceDropped(layer=layer, source=source, reason="unmountable"))
                # it has the layer and does not mount it: never, or only once a manifest there references it
                seen = RegistryTraits(after_manifest=True) if fresh else RegistryTraits(mounts=False)
                await self._index.record_traits(self._client.registry, seen)

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
