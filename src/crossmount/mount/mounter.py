"""`Mounter`: carries out the steps of a mount with a registry, and corrects the index."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, assert_never

from crossmount import events
from crossmount._tasks import Closing, collect
from crossmount.errors import AccessDeniedError, InvalidInputError, RegistryError
from crossmount.index.adapt import adapt
from crossmount.index.exclusions import look_up_excluding
from crossmount.index.protocol import (
    Knowledge,
    LayerKnowledge,
    MountableLayers,
    RegistryTraits,
)
from crossmount.mount import decision
from crossmount.mount.decision import MountAnswer, MountResult, MountStatus
from crossmount.mount.findings import MountFindings, Truths
from crossmount.mount.ranking import SourceSearch, plan
from crossmount.oci import Digest, Located, Repository, as_digest, as_repository
from crossmount.registry import Mounted, RegistryClient, UploadSession

_SETTLE_SECONDS = 2.0
"""How long `aclose` waits for background checks and cancellations."""


class Mounter(Closing):
    """Mounts layers on one registry, and corrects the index where the registry contradicts it.

    Args:
        client: the client of the registry; the caller closes it.
        index: the index of sources.
        observer: receives a `SourceDropped` for each source that could not be mounted from.
        clock: monotonic seconds, for how long an unreadable source is not tried again.
        proves_first: whether the first 201 to a mount is proved by a HEAD, if the index does not know whether this
            registry's 201s are true. The mounts of other layers do not wait for it.
        truths: what has been seen of the truth of 201s, which mounters may share; nothing by default.

    Attributes:
        findings: what mounts have shown so far, and the methods that record it.
    """

    def __init__(
        self,
        client: RegistryClient,
        index: MountableLayers,
        *,
        observer: events.Observer = events.ignore,
        clock: Callable[[], float] = time.monotonic,
        proves_first: bool = False,
        truths: Truths | None = None,
    ) -> None:
        self._client = client
        self._index = adapt(index)
        self.findings = MountFindings(
            client, self._index, observer=observer, clock=clock, proves_first=proves_first, truths=truths
        )
        self._background: set[asyncio.Task[None]] = set()
        self._proven: dict[Repository, None] = {}
        self._searches: dict[Repository, SourceSearch] = {}

    async def aclose(self) -> None:
        """Wait for background checks and cancellations, and cancel those that take too long."""
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=_SETTLE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def prefer(self, source: Repository) -> None:
        """Try a source before all others: a manifest was read from it, so it is readable and has its blobs."""
        self._proven[source] = None

    async def mount(self, layer: str, dest: str | Located) -> MountResult:
        """Mount `layer` into `dest` from a source in the index, and record the confirmed sources.

        Returns:
            The result. The caller uploads into its session, if there is one, or cancels it.

        Raises:
            InvalidInputError: `dest` is on another registry than the client.
            IndexFailedError: the index failed, and is not guarded.
        """
        digest, repository = as_digest(layer), self._checked(dest)
        account = await self._client.account(repository)
        knowledge = await look_up_excluding(self._index, [digest], repository, account=account)
        search = SourceSearch(repository, self._proven)
        candidates = (await self._prepare(knowledge, search)).get(digest, ())
        result = await self._attempt(digest, search, candidates, knowledge)
        if result.status is MountStatus.MOUNTED:
            await self._index.record(result.sightings(knowledge.of(digest).size))
        await self.findings.record_traits(knowledge.traits, [result])
        await self.findings.record_denied(repository, knowledge)
        return result

    async def prepare(self, knowledge: Knowledge, dest: Repository) -> dict[Digest, tuple[Repository, ...]]:
        """Order the sources to try, best first, and get the tokens that cover the first ones.

        The attempts that follow teach each other which sources cannot be used.

        Returns:
            The candidates of each layer that has any, without those that no token is given for.

        Raises:
            RegistryError, CredentialsError: no token for `dest` was granted.
        """
        search = self._searches.setdefault(dest, SourceSearch(dest, self._proven))
        return await self._prepare(knowledge, search)

    async def _prepare(self, knowledge: Knowledge, search: SourceSearch) -> dict[Digest, tuple[Repository, ...]]:
        planned = self.candidates(knowledge, search.dest)
        prepared = await self._client.prepare(search.dest, search.add(planned))
        return {
            layer: tuple(source for source in sources if source not in prepared.refused)
            for layer, sources in planned.items()
        }

    def candidates(self, knowledge: Knowledge, dest: Repository) -> dict[Digest, tuple[Repository, ...]]:
        """Choose the sources to try for each layer that has any, best first."""
        return plan(
            {
                layer: self.findings.without_unusable(layer, _readable(known, knowledge))
                for layer, known in knowledge.layers.items()
                if knowledge.traits.mounts is not False or known.must_mount  # a wrong trait must not fail a push
            },
            dest=dest,
            proven=self._proven,
            few=self._client.may_use_tokens(),
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
        """Try one candidate after the other; this neither reads the index nor records sources.

        Args:
            layer: the layer.
            dest: the destination repository.
            candidates: the sources to try, best first.
            knowledge: the answer of the index.
            fresh: whether the candidates were published just now, maybe before a manifest references the layer.
        """
        search = self._searches.get(dest)
        if search is None or not search.has(layer):
            search = SourceSearch(dest, self._proven)
            if candidates:
                await self._client.prepare(dest, search.add({layer: tuple(candidates)}))
        return await self._attempt(layer, search, candidates, knowledge, fresh=fresh)

    async def _attempt(
        self,
        layer: Digest,
        search: SourceSearch,
        candidates: Sequence[Repository],
        knowledge: Knowledge,
        *,
        fresh: bool = False,
    ) -> MountResult:
        known, dest = knowledge.of(layer), search.dest
        state = decision.MountState(
            candidates=tuple(candidates),
            status_without_source=decision.status_without_source(known),
            must_mount=known.must_mount,
            finds=knowledge.traits.finds,
        )
        try:
            while True:
                state = await self._with_best_candidates(state, layer, search)
                match decision.next_step(state):
                    case decision.Finish(status):
                        break
                    case decision.RequestMount(source=Repository() as source) as step:
                        with search.trying(layer, source) as trial:
                            answer = await self._shielded(self._send(step, layer, dest, knowledge.traits))
                            trial.answer = answer
                        state = decision.apply_answer(state, step, answer)
                        self._after_attempt(layer, source, search, answer, knowledge.traits, fresh=fresh)
                        self.cancel_later(state.spare_session)
                    case decision.RequestMount() | decision.OpenSession() as step:
                        answer = await self._shielded(self._send(step, layer, dest, knowledge.traits))
                        state = decision.apply_answer(state, step, answer)
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

    async def _with_best_candidates(
        self, state: decision.MountState, layer: Digest, search: SourceSearch
    ) -> decision.MountState:
        """Order the candidates by what all layers have learnt by now, and get tokens for the next one."""
        while state.candidates:
            search.refuse(self.findings.unreadable() | self._client.prepared(search.dest).refused)
            left = search.order(layer, must_mount=state.must_mount)
            known = frozenset(state.candidates)
            candidates = tuple(source for source in left if source in known)
            state = replace(state, candidates=candidates)
            if candidates and search.is_being_tried(candidates[0]):
                await search.changed()
                continue
            if not candidates or search.is_ready(candidates[0]):
                break
            try:
                await self._client.prepare(search.dest, search.more(candidates[0]), more=True)
            except RegistryError as error:
                return replace(state, candidates=(), error=error)
        return state

    def cancel_later(self, session: UploadSession | None) -> None:
        """Cancel an unused upload session in the background."""
        if session is not None:
            self._run_in_background(self._client.cancel_upload(session))

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(collect)

    async def _shielded(self, request: Coroutine[Any, Any, MountAnswer]) -> MountAnswer:
        """Await `request`; if the caller is cancelled, cancel the session that the registry may be opening."""
        task = asyncio.create_task(request)

        async def cancel_session() -> None:
            answer = await task
            if isinstance(answer, UploadSession):
                await self._client.cancel_upload(answer)

        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._run_in_background(cancel_session())
            raise

    async def _send(
        self,
        step: decision.RequestMount | decision.OpenSession,
        layer: Digest,
        dest: Repository,
        traits: RegistryTraits,
    ) -> MountAnswer:
        try:
            if isinstance(step, decision.OpenSession):
                return await self._client.start_upload(dest)
            answer = await self._client.mount_blob(dest, layer, step.source)
            return await self.findings.prove(layer, dest, traits) if isinstance(answer, Mounted) else answer
        except RegistryError as error:
            return error

    def _after_attempt(
        self,
        layer: Digest,
        source: Repository,
        search: SourceSearch,
        answer: MountAnswer,
        traits: RegistryTraits,
        *,
        fresh: bool,
    ) -> None:
        """Find out in the background why a mount failed, unless the token service has said so."""
        if isinstance(answer, Mounted):
            self.findings.has_mounted = True
        elif isinstance(answer, AccessDeniedError) and source in self._client.prepared(search.dest).refused:
            self.findings.drop(layer, source, "unreadable")
        else:
            self._run_in_background(self.findings.check(layer, source, answer, traits, fresh=fresh))

    def _checked(self, dest: str | Located) -> Repository:
        repository = as_repository(dest)
        if repository.registry != self._client.registry:
            raise InvalidInputError(f"{repository} is not on {self._client.registry}, which this mounter serves")
        return repository


def _readable(known: LayerKnowledge, knowledge: Knowledge) -> list[Repository]:
    """Return a layer's sources without those that this account was denied; must-mount layers try those too."""
    if known.must_mount or not knowledge.denied:
        return list(known.sources)
    return [source for source in known.sources if source not in knowledge.denied]
