"""Mounts of blobs with the rights of a client; concurrent requests for the same blob share one mount."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from crossmount._dataclass import dataclass
from crossmount._tasks import collect
from crossmount.errors import CrossmountError
from crossmount.index import GuardedIndex
from crossmount.index.protocol import Knowledge, LayerKnowledge
from crossmount.mount import MountResult, MountStatus
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Agent, Caller
from crossmount.proxy.auth.permissions import Permissions
from crossmount.proxy.http.upstream import Upstream
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.telemetry import Metrics
from crossmount.proxy.uploads.attempts import Candidates, MountAttempt
from crossmount.proxy.uploads.source_privacy import SourcePrivacy

INDEX_CALLS_MAX = 16
"""The limit of concurrent index calls: more callers wait here, before the deadline of their call starts."""


@dataclass(frozen=True, slots=True)
class _Search:
    """One question for a blob, with what its answer depends on.

    Attributes:
        without: names of sources that were tried before.
        restore_deleted: whether the blob may be mounted although a client deleted it from dest.
        try_all: whether every source is tried before the answer.
        later: whether unknown sources are tried at a random moment.
    """

    caller: Caller
    agent: Agent
    dest: Repository
    digest: Digest
    without: frozenset[str]
    restore_deleted: bool
    try_all: bool
    later: bool


async def ask_for_blob(upstream: Upstream, caller: Caller, dest: Repository, digest: Digest) -> int:
    """Ask the registry for a blob with the caller's own Authorization, and return the status."""
    target, auth = upstream.blob_target(dest.name, digest), caller.authorization_for(dest, "HEAD")
    async with upstream.request("HEAD", target, headers=[], auth=auth) as response:
        return response.status_code


class CallerMounter:
    """Mounts blobs with the rights of callers.

    Args:
        index: the index of sources.
        permissions: which sources are allowed.
        recorder: records the sources that mounts confirm.
        metrics: counts failures, and measures the index.
        upstream: asks the registry whether it lets a caller in.
        privacy: decides which sources may be tried before an answer.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        index: GuardedIndex,
        *,
        permissions: Permissions,
        recorder: ProxyRecorder,
        metrics: Metrics,
        upstream: Upstream,
        privacy: SourcePrivacy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.permissions = permissions
        self.privacy = privacy
        self._upstream = upstream
        self._index = index
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._asking = asyncio.Semaphore(INDEX_CALLS_MAX)
        self._flights: dict[tuple[Agent, str, str, Digest, bool, bool], asyncio.Task[MountAttempt]] = {}

    async def mount(
        self,
        caller: Caller,
        dest: Repository,
        digest: Digest,
        *,
        without: Collection[str] = (),
        restore_deleted: bool = True,
        sent: bool = False,
        candidates: Candidates | None = None,
    ) -> MountAttempt:
        """Try to mount a blob from a source that the index knows, with the caller's rights.

        Concurrent calls of one caller for the same blob share the attempt. Nothing is tried for a caller whose
        credentials the proxy does not have, or that the registry does not let in.

        Args:
            caller: the client.
            dest: the repository that lacks the blob.
            digest: the blob.
            without: names of sources that were tried before.
            restore_deleted: whether to mount the blob although a client deleted it from dest: the client has
                started to upload it again.
            sent: whether the client has sent all bytes of the blob.
            candidates: the sources, if the index was asked before.
        """
        agent = caller.agent
        if agent is None or not await self.admit(caller, dest, digest):
            knowledge = await self.look_up(dest, digest) if candidates is None else candidates.knowledge
            return MountAttempt(digest=digest, dest=dest, knowledge=knowledge)
        try_all = sent or self.privacy.hides_nothing(caller, agent)
        answer_at = None if try_all else self.privacy.answer_at(agent, dest)
        key = (agent, caller.name, dest.name, digest, restore_deleted, try_all)
        task = self._flights.get(key)
        if task is None:
            search = _Search(
                caller, agent, dest, digest, frozenset(without), restore_deleted, try_all, later=answer_at is None
            )
            task = self._flights[key] = asyncio.create_task(self._look_up_and_mount(search, candidates))
            task.add_done_callback(lambda _: self._flights.pop(key, None))
            task.add_done_callback(collect)
        # a client that disconnects does not cancel the mount of the others
        attempt = await asyncio.shield(task)
        if attempt.mounted or answer_at is None:
            return attempt
        if attempt.unfinished is not None:
            result = await self.privacy.result_by(attempt.unfinished, answer_at)
            if result is not None and result.status is MountStatus.MOUNTED:
                return replace(attempt, result=result)
        return replace(attempt, answer_at=answer_at)

    async def admit(self, caller: Caller, dest: Repository, digest: Digest) -> bool:
        """Return whether the proxy may write for a caller now; ask the registry if its last yes is too old."""
        if not self.permissions.may_push(caller, dest.name):
            return False
        if caller.is_admitted:
            return True
        with contextlib.suppress(CrossmountError):
            await ask_for_blob(self._upstream, caller, dest, digest)
        return caller.is_admitted

    async def mount_from(
        self, caller: Caller, dest: Repository, digest: Digest, sources: Collection[Repository]
    ) -> MountAttempt:
        """Try to mount a blob from the repositories that it was just uploaded to, with the caller's rights."""
        agent = caller.agent
        if agent is None or not await self.admit(caller, dest, digest):
            return MountAttempt(digest=digest, dest=dest)
        knowledge = Knowledge({digest: LayerKnowledge(sources=tuple(sorted(sources)))}, self._recorder.traits)
        search = _Search(caller, agent, dest, digest, frozenset(), restore_deleted=True, try_all=True, later=False)
        sorted_sources = list(self._sources(caller, agent, dest, digest, knowledge))
        result = await self._mount(search, sorted_sources, knowledge, fresh=True)
        return MountAttempt(digest=digest, dest=dest, result=result, knowledge=knowledge)

    def allows(self, source: str, dest: Repository, caller: Caller) -> bool:
        """Return whether the policy lets a caller mount from `source` into `dest`."""
        return self.permissions.allows_source(source, dest=dest.name, caller=caller.name)

    async def aclose(self) -> None:
        """Wait for mounts that are in flight."""
        await self.privacy.aclose()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    async def candidates(self, caller: Caller, dest: Repository, digest: Digest) -> Candidates:
        """Ask the index for a blob, and order its sources that a caller may mount from."""
        knowledge, agent = await self.look_up(dest, digest), caller.agent
        if agent is None:
            return Candidates(knowledge, ())
        return Candidates(knowledge, tuple(self._sources(caller, agent, dest, digest, knowledge)))

    def first_source(self, caller: Caller, digest: Digest, candidates: Candidates) -> Repository | None:
        """Return the source that a mount into a repository without the blob tries first.

        None if there is none that may be tried before an answer, or if the index says that dest has the blob, or
        that a client deleted it there.
        """
        agent, known = caller.agent, candidates.knowledge.of(digest)
        if agent is None or known.in_dest or known.deleted:
            return None
        hides_nothing = self.privacy.hides_nothing(caller, agent)
        return next((each for each in candidates.sources if hides_nothing or each.name in agent.readable), None)

    async def _look_up_and_mount(self, search: _Search, candidates: Candidates | None) -> MountAttempt:
        dest, digest = search.dest, search.digest
        candidates = candidates or await self.candidates(search.caller, dest, digest)
        knowledge = candidates.knowledge
        attempt = MountAttempt(digest=digest, dest=dest, knowledge=knowledge)
        if knowledge.of(digest).deleted:
            if not search.restore_deleted:
                return attempt
            self._recorder.clear_deletion(dest, digest)
        sources, unknown = [each for each in candidates.sources if each.name not in search.without], []
        if not search.try_all and not knowledge.of(digest).must_mount:
            readable = search.agent.readable
            unknown = [source for source in sources if source.name not in readable]
            sources = [source for source in sources if source.name in readable]
        result = await self._mount(search, sources, knowledge)
        attempt = replace(attempt, result=result)
        if attempt.mounted or not unknown:
            return attempt
        only = replace(knowledge, traits=replace(knowledge.traits, finds=False))
        unfinished = self.privacy.start(self._mount(search, unknown, only), later=search.later)
        return replace(attempt, unfinished=unfinished)

    def _sources(
        self, caller: Caller, agent: Agent, dest: Repository, digest: Digest, knowledge: Knowledge
    ) -> Iterator[Repository]:
        """Yield the sources that may be tried, best first."""
        allows_all = self.permissions.allows_any_source(dest=dest.name, caller=caller.name)
        for source in agent.mounter.candidates(knowledge, dest).get(digest, ()):
            if (allows_all or self.allows(source.name, dest, caller)) and caller.may_mount_from(source.name):
                yield source

    async def look_up(self, dest: Repository, digest: Digest) -> Knowledge:
        """Ask the index for a blob, and for what is known of the registry."""
        async with self._asking:
            begun, unserved = self._clock(), self._index.unserved
            knowledge = await self._index.look_up([digest], dest, deletions=True)
            if served := self._index.unserved == unserved:
                self._metrics.index_seconds.observe(self._clock() - begun)
        self._recorder.update_traits(knowledge.traits)
        self._recorder.ledger.note_known(dest, digest, knowledge, served=served)
        return knowledge

    async def _mount(
        self, search: _Search, sources: list[Repository], knowledge: Knowledge, *, fresh: bool = False
    ) -> MountResult | None:
        try:
            return await self._attempt(search, sources, self._limited(search, knowledge), fresh=fresh)
        except CrossmountError as error:
            self._metrics.count_failure("mount", error)
            return None

    async def _attempt(
        self, search: _Search, sources: list[Repository], knowledge: Knowledge, *, fresh: bool
    ) -> MountResult | None:
        agent, known = search.agent, knowledge.of(search.digest)
        if not sources and not known.must_mount and knowledge.traits.finds is not True:
            return None
        result = await agent.mounter.attempt(search.digest, search.dest, sources, knowledge, fresh=fresh)
        if result.session is not None:
            await agent.client.cancel_upload(result.session)
            result = replace(result, session=None)
        if result.status is MountStatus.MOUNTED:
            if result.source is not None:
                agent.readable.add(result.source.name)
            self._recorder.record_proven(result.sightings(known.size))
            async with self._asking:
                await agent.mounter.findings.record_traits(knowledge.traits, [result])
        elif result.error is not None:
            self._metrics.count_failure("mount", result.error)
        return result

    def _limited(self, search: _Search, knowledge: Knowledge) -> Knowledge:
        """Stop the registry from finding a source by itself if only some sources are allowed."""
        if self.permissions.allows_any_source(dest=search.dest.name, caller=search.caller.name):
            return knowledge
        return replace(knowledge, traits=replace(knowledge.traits, finds=False))
