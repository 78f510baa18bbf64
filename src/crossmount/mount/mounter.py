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
from crossmount.mount.presence import Presence, check_presence
from crossmount.mount.ranking import plan
from crossmount.mount.status import MountResult, MountStatus
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import Mounted, RegistryClient, UploadSession

UNREADABLE_SECONDS = 3600.0
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
        self._unreadable: dict[Repository, float] = {}
        self._hidden: dict[tuple[Digest, Repository], float] = {}
        self._has_mounted = False
        self._background: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Let what goes on aside end: inquiries and cancels; those that take too long are given up."""
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=_SETTLE_SECONDS)
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
            await self._index.record(confirmed_sightings(result, knowledge.of(layer).size))
        await self.record_traits(knowledge.traits, [result])
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
        self._unreadable = {source: until for source, until in self._unreadable.items() if until > now}
        self._hidden = {pair: until for pair, until in self._hidden.items() if until > now}
        return plan(
            {
                layer: [source for source in known.sources if (layer, source) not in self._hidden]
                for layer, known in knowledge.layers.items()
                if knowledge.traits.mounts is not False or known.must_mount  # a hint fails no push
            },
            {layer: known.size for layer, known in knowledge.layers.items()},
            dest=dest,
            avoid=self._unreadable,
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
            status_without_source=_why_not(known),
            must_mount=known.must_mount,
            finds=knowledge.traits.finds,
        )
        try:
            while True:
                match decision.next_step(state):
                    case decision.Finish(status):
                        break
                    case decision.RequestMount() | decision.OpenSession() as step:
                        answer = await self._shielded(self._do(step, layer, dest))
                        state = decision.apply_answer(state, step, answer)
                        self._has_mounted = self._has_mounted or (state.mounted and state.source is not None)
                        if (
                            isinstance(step, decision.RequestMount)
                            and step.source
                            and not isinstance(answer, Mounted)
                        ):
                            self._inquire(layer, step.source, answer, knowledge.traits, fresh=fresh)
                        self.cancel_later(state.spare_session)
                    case unexpected:
                        assert_never(unexpected)
        except BaseException:
            self.cancel_later(state.session)
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

    async def record_traits(self, traits: RegistryTraits, results: Iterable[MountResult]) -> None:
        """Tell the index what mounts taught about the registry, if it is news."""
        mounted = [result for result in results if result.status is MountStatus.MOUNTED]
        seen = RegistryTraits(
            mounts=True if any(result.source for result in mounted) else None,
            finds=True if any(not result.source for result in mounted) else None,
        )
        if traits.updated(seen) != traits:
            await self._index.record_traits(self._client.registry, seen)

    def cancel_later(self, session: UploadSession | None) -> None:
        """Cancel a session that nobody will use, off the critical path."""
        if session is not None:
            self._run_in_background(self._client.cancel_upload(session))

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _shielded(self, asking: Coroutine[Any, Any, decision.MountAnswer]) -> decision.MountAnswer:
        """Await `asking`; cancelled meanwhile, let go of the session that the registry may be opening."""
        task = asyncio.create_task(asking)

        async def let_go_of_it() -> None:
            answer = await task
            if isinstance(answer, UploadSession):
                await self._client.cancel_upload(answer)

        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._run_in_background(let_go_of_it())
            raise

    async def _do(
        self, step: decision.RequestMount | decision.OpenSession, layer: Digest, dest: Repository
    ) -> decision.MountAnswer:
        try:
            if isinstance(step, decision.RequestMount):
                return await self._client.mount_blob(dest, layer, step.source)
            return await self._client.start_upload(dest)
        except RegistryError as error:
            return error

    def _inquire(
        self,
        layer: Digest,
        source: Repository,
        answer: decision.MountAnswer,
        traits: RegistryTraits,
        *,
        fresh: bool,
    ) -> None:
        """Find out, off the critical path, why a source did not serve."""
        self._run_in_background(self._quietly(self._find_out(layer, source, answer, traits, fresh=fresh)))

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        """Run an inquiry, which nobody waits for: an index that fails under it teaches nothing."""
        with contextlib.suppress(CrossmountError):
            await work

    async def _find_out(
        self,
        layer: Digest,
        source: Repository,
        answer: decision.MountAnswer,
        traits: RegistryTraits,
        *,
        fresh: bool,
    ) -> None:
        try:
            presence = await check_presence(self._client, layer, source)
        except AccessDeniedError:
            self._unreadable[source] = self._clock() + UNREADABLE_SECONDS
            self._observer(events.SourceDropped(layer=layer, source=source, reason="unreadable"))
        except CrossmountError:
            return  # nothing was learnt: the source stays what it was, a hint
        else:
            if presence is Presence.HIDDEN:  # it may serve others, and in time it is forgotten
                self._hidden[layer, source] = self._clock() + UNREADABLE_SECONDS
                self._observer(events.SourceDropped(layer=layer, source=source, reason="unreadable"))
            elif presence is Presence.GONE:
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


def confirmed_sightings(result: MountResult, size: int | None) -> list[Sighting]:
    """Return what a mount that succeeded proves: dest holds the layer, and so does the source."""
    holders = [result.dest] if result.source is None else [result.dest, result.source]
    return [Sighting(result.layer, repository, size) for repository in holders]


def _why_not(known: LayerKnowledge) -> MountStatus:
    if known.sources:  # known, and none worth asking: denied before, or a registry that does not mount
        return MountStatus.PUSH_STARTED
    return MountStatus.UNAVAILABLE if known.elsewhere else MountStatus.SKIPPED
