"""Leases that do not end with their upload: early ones, taken before a digest is named, and deferred ones.

Early leases are those of all blobs that a client may be sending, taken at once, or none of them.

Deferred leases end with a manifest, on a registry that mounts a layer only once a manifest names it (ECR). A
client that pushes several layers has such leases while others of its uploads may wait. To prevent two clients
from waiting for each other in a circle, a repository with a deferred lease does not wait: when it gets one, its
waiters stop waiting, and their blobs are uploaded without a lease. So every chain of waiters ends at an upload
that runs, or at a push that does not wait.

"""

from collections.abc import Callable, Collection, Mapping

from crossmount._dataclass import dataclass
from crossmount.fleet import Fleet, Slots, UploadTurn
from crossmount.fleet.lease import PACED_SECONDS
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Agent, Caller
from crossmount.proxy.uploads.attempts import MountAttempt
from crossmount.proxy.uploads.mounting import CallerMounter

_ROUNDS_MAX = 3


class EarlyLeases:
    """Takes leases before a digest is named.

    Args:
        fleet: coordinates the turns.
        mounter: knows which sources are allowed.
        slots: the slots of uploads at their clients' pace.
        may_wait: returns whether a caller would wait for another's upload of a blob.
    """

    def __init__(
        self,
        fleet: Fleet,
        mounter: CallerMounter,
        *,
        slots: Slots,
        may_wait: Callable[[Caller, MountAttempt], bool],
    ) -> None:
        self._fleet = fleet
        self._mounter = mounter
        self._slots = slots
        self._may_wait = may_wait

    async def take(
        self, caller: Caller, dest: Repository, attempts: Mapping[Digest, MountAttempt]
    ) -> dict[Digest, UploadTurn] | None:
        """Take the turns to upload all blobs, without waiting for others.

        Whether somebody else uploads a blob, or has it, counts only where this caller may read it. Where something
        is private, the answer comes equally late in any case.

        Args:
            caller: the client.
            dest: the repository.
            attempts: the blobs, and the attempts to mount them.

        Returns:
            The turns; empty if this client would not wait for others, and so takes no turns. None if one of the
            blobs could be mounted, now or soon.
        """
        agent, privacy = caller.agent, self._mounter.privacy
        if agent is None or not attempts:
            return None
        if not all(self._may_wait(caller, attempt) for attempt in attempts.values()):
            return {}
        answer_at = None if privacy.hides_nothing(caller, agent) else privacy.padded()
        excluded = {source for attempt in attempts.values() for source in attempt.tried}
        for _ in range(_ROUNDS_MAX):
            unknown: set[str] = set()
            turns, found = await self._fleet.try_lease(
                tuple(attempts),
                dest,
                slots=self._slots,
                excluded=excluded,
                accepts=self._accepts(caller, agent, dest, unknown),
                publishes="manifest" if any(attempt.after_manifest for attempt in attempts.values()) else "blob",
                stall_seconds=PACED_SECONDS,
            )
            if turns is not None:
                return await self._paused(turns, answer_at)
            digest = next(iter(attempts))
            unknown |= {source.name for source in found}
            if not unknown:
                return None
            for name in unknown:
                source = dest.sibling(name)
                if not self._mounter.allows(name, dest, caller):
                    continue
                if name == dest.name or await privacy.can_read(
                    caller, agent, dest, source, digest, answer_at=answer_at
                ):
                    return None
            excluded |= found
        return None

    def _accepts(self, caller: Caller, agent: Agent, dest: Repository, unknown: set[str]) -> Callable[[str], bool]:
        """Return whether another's upload into a repository counts; an unknown repository is noted."""

        def accepts(name: str) -> bool:
            if not self._mounter.allows(name, dest, caller) or name in agent.unreadable:
                return False
            if name != dest.name and name not in agent.readable:
                if self._mounter.privacy.hides_nothing(caller, agent):
                    return True
                unknown.add(name)
            return True

        return accepts

    async def _paused(self, turns: dict[Digest, UploadTurn], answer_at: float | None) -> dict[Digest, UploadTurn]:
        try:
            await self._mounter.privacy.wait_until(answer_at)
        except BaseException:
            await give_up(turns.values())
            raise
        return turns


async def give_up(turns: Collection[UploadTurn]) -> None:
    """Release turns that are not used."""
    for turn in list(turns):
        await turn.give_up()


IDLE_SECONDS = 30.0
"""A push counts as abandoned after so many seconds without activity."""


@dataclass(frozen=True, slots=True)
class _Deferred:
    digest: Digest
    turn: UploadTurn
    since: float


class DeferredLeases:
    """The leases that wait for a manifest, by repository.

    Args:
        fleet: its waiters for a repository stop waiting as soon as the repository has a deferred lease.
        clock: seconds, from any start.
    """

    def __init__(self, fleet: Fleet, *, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._deferred: dict[Repository, list[_Deferred]] = {}

    def has_any(self, dest: Repository) -> bool:
        """Return whether a repository has a deferred lease, and so must not wait for others."""
        return dest in self._deferred

    def add(self, dest: Repository, digest: Digest, turn: UploadTurn) -> None:
        """Keep the lease of a blob that was uploaded, and end all waits for `dest`."""
        self._deferred.setdefault(dest, []).append(_Deferred(digest, turn, self._clock()))
        self._fleet.stop_waiting(dest)

    def take(self, dest: Repository, digests: Collection[Digest]) -> list[UploadTurn]:
        """Remove and return the leases of blobs that a manifest in `dest` references."""
        deferred = self._deferred.pop(dest, [])
        rest = [each for each in deferred if each.digest not in digests]
        if rest:
            self._deferred[dest] = rest
        return [each.turn for each in deferred if each.digest in digests]

    def take_idle(self, is_active: Callable[[str], bool]) -> list[UploadTurn]:
        """Remove and return the leases of repositories whose push was abandoned.

        Args:
            is_active: returns whether a push into a repository is active now.
        """
        until = self._clock() - IDLE_SECONDS
        return [
            each.turn
            for dest, deferred in list(self._deferred.items())
            if max(each.since for each in deferred) < until and not is_active(dest.name)
            for each in self._deferred.pop(dest)
        ]

    def take_all(self) -> list[UploadTurn]:
        """Remove and return all leases."""
        turns = [each.turn for of_one in self._deferred.values() for each in of_one]
        self._deferred.clear()
        return turns
