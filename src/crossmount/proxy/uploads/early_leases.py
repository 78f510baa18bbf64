"""The leases of all blobs that a client may be sending, taken at once, or none of them."""

from collections.abc import Callable, Collection, Mapping

from crossmount.fleet import Fleet, Slots, UploadTurn
from crossmount.fleet.progress import PACED_SECONDS
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Agent, Caller
from crossmount.proxy.uploads.mounting import CallerMounter, MountAttempt

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
