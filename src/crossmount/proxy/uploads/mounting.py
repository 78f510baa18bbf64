"""Mounts of blobs with the rights of a client; concurrent requests for the same blob share one mount."""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from crossmount._background import collect
from crossmount.errors import CrossmountError
from crossmount.index import GuardedIndex
from crossmount.index.protocol import Knowledge, LayerKnowledge
from crossmount.mount import MountResult, MountStatus
from crossmount.mount.recorder import confirmed_sightings
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Agent, Caller
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.telemetry import Metrics

INDEX_CALLS_MAX = 16
"""The limit of concurrent index calls: more callers wait here, before the deadline of their call starts."""


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """Allowed mount sources: names that match a pattern (`*` is any text, also slashes), or all names."""

    patterns: tuple[str, ...] = ()

    def allows(self, name: str) -> bool:
        """Tell whether a repository is an allowed source."""
        return not self.patterns or any(fnmatchcase(name, pattern) for pattern in self.patterns)

    @property
    def unlimited(self) -> bool:
        """Whether every source is allowed, so that the registry may find one by itself."""
        return not self.patterns


@dataclass(frozen=True, slots=True, kw_only=True)
class MountAttempt:
    """One attempt to mount a blob, and its result.

    Attributes:
        knowledge: the answer of the index before the attempt.
        result: the mount, without a session; None if there was no source to try.
    """

    digest: Digest
    dest: Repository
    knowledge: Knowledge = field(default_factory=Knowledge)
    result: MountResult | None = None

    @property
    def mounted(self) -> bool:
        """Whether the blob is mounted now."""
        return self.result is not None and self.result.status is MountStatus.MOUNTED

    @property
    def deleted(self) -> bool:
        """Whether a client deleted the blob from dest, and nobody has begun to bring it back since."""
        return self.knowledge.of(self.digest).deleted

    @property
    def refused(self) -> bool:
        """Whether the blob was not mounted and must not be uploaded."""
        return not self.mounted and self.knowledge.of(self.digest).must_mount

    @property
    def after_manifest(self) -> bool:
        """Whether the registry mounts only what a manifest in the source repository references."""
        return self.knowledge.traits.after_manifest is True

    @property
    def tried(self) -> frozenset[Repository]:
        """The sources that the index named; also dest, if the index said that dest holds the blob."""
        known = self.knowledge.of(self.digest)
        return frozenset(known.sources) | (frozenset({self.dest}) if known.in_dest else frozenset())


class CallerMounter:
    """Mounts blobs with the rights of callers.

    Args:
        index: the index of sources.
        policy: the allowed sources.
        recorder: records the sources that mounts confirm.
        metrics: counts failures, and measures the index.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        index: GuardedIndex,
        *,
        policy: SourcePolicy,
        recorder: ProxyRecorder,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._index = index
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._asking = asyncio.Semaphore(INDEX_CALLS_MAX)
        self._flights: dict[tuple[str, str, Digest, bool], asyncio.Task[MountAttempt]] = {}

    async def mount(
        self,
        caller: Caller,
        dest: Repository,
        digest: Digest,
        *,
        without: Collection[str] = (),
        asked: bool = True,
    ) -> MountAttempt:
        """Try to mount a blob from a source that the index knows, with the caller's rights.

        Concurrent calls of one caller for the same blob share the attempt. Nothing is tried for a caller whose
        credentials the proxy does not have.

        Args:
            caller: the client.
            dest: the repository that lacks the blob.
            digest: the blob.
            without: names of sources that were tried before.
            asked: whether the client has begun to bring the blob into dest. Otherwise nothing is mounted that a
                client deleted from there.
        """
        if not caller.may_push(dest.name) or caller.agent is None:
            return MountAttempt(digest=digest, dest=dest, knowledge=await self._look_up(dest, digest))
        key, agent = (caller.key, dest.name, digest, asked), caller.agent
        task = self._flights.get(key)
        if task is None:
            work = self._look_up_and_mount(agent, dest, digest, frozenset(without), asked=asked)
            task = self._flights[key] = asyncio.create_task(work)
            task.add_done_callback(lambda _: self._flights.pop(key, None))
            task.add_done_callback(collect)
        # a client that disconnects does not cancel the mount of the others
        return await asyncio.shield(task)

    async def mount_from(
        self, caller: Caller, dest: Repository, digest: Digest, sources: Collection[Repository]
    ) -> MountAttempt:
        """Try to mount a blob from where it was uploaded just now, with the caller's rights."""
        if not caller.may_push(dest.name) or caller.agent is None:
            return MountAttempt(digest=digest, dest=dest)
        knowledge = Knowledge({digest: LayerKnowledge(sources=tuple(sorted(sources)))}, self._recorder.traits)
        return await self._mount(caller.agent, dest, digest, knowledge, fresh=True)

    async def aclose(self) -> None:
        """Wait for mounts that are in flight."""
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    async def _look_up_and_mount(
        self, agent: Agent, dest: Repository, digest: Digest, without: frozenset[str], *, asked: bool
    ) -> MountAttempt:
        knowledge = await self._look_up(dest, digest)
        if knowledge.of(digest).deleted:
            if not asked:
                return MountAttempt(digest=digest, dest=dest, knowledge=knowledge)
            self._recorder.clear_deletion(dest, digest)
        return await self._mount(agent, dest, digest, knowledge, without=without)

    async def _look_up(self, dest: Repository, digest: Digest) -> Knowledge:
        async with self._asking:
            begun, unserved = self._clock(), self._index.unserved
            knowledge = await self._index.look_up_with_deletions([digest], dest)
            if self._index.unserved == unserved:
                self._metrics.index_seconds.observe(self._clock() - begun)
        self._recorder.update_traits(knowledge.traits)
        return knowledge

    async def _mount(
        self,
        agent: Agent,
        dest: Repository,
        digest: Digest,
        knowledge: Knowledge,
        *,
        without: frozenset[str] = frozenset(),
        fresh: bool = False,
    ) -> MountAttempt:
        result = None
        try:
            result = await self._attempt(agent, dest, digest, self._limited(knowledge), without, fresh=fresh)
        except CrossmountError as error:
            self._metrics.count_failure("mount", error)
        return MountAttempt(digest=digest, dest=dest, result=result, knowledge=knowledge)

    async def _attempt(
        self,
        agent: Agent,
        dest: Repository,
        digest: Digest,
        knowledge: Knowledge,
        without: frozenset[str],
        *,
        fresh: bool,
    ) -> MountResult | None:
        found = agent.mounter.candidates(knowledge, dest).get(digest, ())
        candidates = [s for s in found if s.name not in without and self.policy.allows(s.name)]
        known = knowledge.of(digest)
        if not candidates and not known.must_mount and knowledge.traits.finds is not True:
            return None
        result = await agent.mounter.attempt(digest, dest, candidates, knowledge, fresh=fresh)
        if result.session is not None:
            await agent.client.cancel_upload(result.session)
            result = replace(result, session=None)
        if result.status is MountStatus.MOUNTED:
            self._recorder.record_mount(confirmed_sightings(result, known.size))
            async with self._asking:
                await agent.mounter.record_traits(knowledge.traits, [result])
        elif result.error is not None:
            self._metrics.count_failure("mount", result.error)
        return result

    def _limited(self, knowledge: Knowledge) -> Knowledge:
        """Stop the registry from finding a source by itself if only some sources are allowed."""
        if self.policy.unlimited:
            return knowledge
        return replace(knowledge, traits=replace(knowledge.traits, finds=False))
