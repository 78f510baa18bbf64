"""The queues of one process: which waiter of a layer uploads, and which wait. State and decisions, no I/O.

Each layer on a registry has a `_LayerQueue` with the waiters of this process, first come first, and the one that
uploads, if any. While a waiter of this process uploads, the others wait for it, with or without a server.
Otherwise the first waiter with a free upload slot (without any, the first waiter) asks the server for all
(`next_claims`). The answer (`apply_answer`) starts its upload, lets all mount, or leaves all waiting. When a
waiter leaves, fails or is cancelled, the next one takes its place.

Why pushes never wait for each other in a circle:

- On a registry that mounts a blob as soon as it is uploaded, a lease is acquired only together with an upload
  slot, and ends with the upload. Its holder waits for no other lease until then, so every chain of waiters ends at
  an upload that runs.
- On a registry that mounts a blob only after a manifest references it, a push keeps its leases until its manifest
  is accepted, and may wait for others until then. It acquires leases in the order of their digests, one after the
  other (`transfer.turns`), so it waits only for a digest greater than all that it holds. Suppose that pushes
  waited in a circle: the holder of the greatest digest would wait for a greater digest, held by a push of the
  circle. This is a contradiction.
- In addition, each waiter's patience is limited.
"""

from collections.abc import Collection, Iterable
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.fleet.lease import LeasePace
from crossmount.fleet.waiting import (
    INVALID_NAMES_MAX,
    Claim,
    ClaimAnswer,
    Decision,
    EndLease,
    GiveUp,
    IndexDown,
    LeaseAcquired,
    LeaseBusy,
    LeaseFree,
    MountFrom,
    ReleaseLease,
    ReturnSlot,
    SourcesFound,
    StartUpload,
    Waiter,
)
from crossmount.oci import Digest, Repository


@dataclass(slots=True)
class _LayerQueue:
    """One layer on one registry.

    Attributes:
        holder: the waiter of this process that uploads.
        waiters: the waiters of this process, first come first.
        busy: the server's last answer, if another process uploads.
        pace: judges the upload of another process.
        stalled: whether `pace` found that upload stalled.
    """

    holder: Waiter | None = None
    waiters: list[Waiter] = field(default_factory=list)
    busy: LeaseBusy | None = None
    pace: LeasePace = field(default_factory=LeasePace)
    stalled: bool = False

    @property
    def into(self) -> str | None:
        """The repository that the layer is being uploaded into, if it is known."""
        if self.holder is not None:
            return self.holder.dest.name
        return None if self.busy is None else self.busy.into

    def see(self, answer: ClaimAnswer, waiter: Waiter, now: float, rate: float | None) -> None:
        """Store the server's answer to a waiter's claim, and judge the upload of another process by it."""
        self.busy = answer if isinstance(answer, LeaseBusy) else None
        self.stalled = self.busy is not None and self.pace.check(
            self.busy.text,
            self.busy.sent,
            size=waiter.size or self.busy.size,
            now=now,
            rate=rate,
            waits_for_manifest=waiter.publishes == "manifest",
        )

    def slot_order(self, now: float, rate: float | None) -> int:
        """Return a sort key: queues that can most likely use an upload slot come first."""
        if self.stalled or any(waiter.is_out_of_patience(now, rate) for waiter in self.waiters):
            return 0
        return 1 if self.busy is None else 2


class LayerQueues:
    """All layers that this process waits for or uploads."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, Digest], _LayerQueue] = {}

    @property
    def idle(self) -> bool:
        """Whether there are no waiters."""
        return not any(queue.waiters for queue in self._queues.values())

    def join(self, waiter: Waiter) -> None:
        """Add a waiter to the end of its queue."""
        self._queues.setdefault(waiter.key, _LayerQueue()).waiters.append(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Remove a waiter from its queue, if it is there."""
        queue = self._queues.get(waiter.key)
        if queue is not None and waiter in queue.waiters:
            queue.waiters.remove(waiter)
            self._remove_if_empty(waiter)

    def stop_waiting(self, dest: Repository) -> None:
        """End the patience of all waiters that push into a repository."""
        for queue in self._queues.values():
            for waiter in queue.waiters:
                waiter.stopped = waiter.stopped or waiter.dest == dest

    def foreign(self) -> list[tuple[str, Digest]] | None:
        """Return registry and layer of uploads of other processes that are waited for; None if others wait too.

        Waiters without an upload to wait for need a slot, or the server's answer.
        """
        queues = {key: queue for key, queue in self._queues.items() if queue.waiters and queue.holder is None}
        if any(queue.busy is None or queue.stalled for queue in queues.values()):
            return None
        return list(queues)

    def next_check(self, now: float, rate: float | None) -> float:
        """Return in how many seconds a waiter may lose its patience, or an upload be given up."""
        due = [queue.pace.due for queue in self._queues.values() if queue.busy is not None]
        due += [
            waiter.busy_since + waiter.jitter * waiter.patience.seconds(waiter.size, rate)
            for queue in self._queues.values()
            for waiter in queue.waiters
            if waiter.busy_since is not None
        ]
        return max(0.0, min(due, default=now) - now)

    def waiting(self) -> dict[tuple[str, Digest], list[str]]:
        """Return the lease values of all waiters that wait for an upload, by registry and layer."""
        return {
            key: [waiter.value for waiter in queue.waiters if waiter.busy_since is not None]
            for key, queue in self._queues.items()
            if any(waiter.busy_since is not None for waiter in queue.waiters)
        }

    def take_unannounced(self) -> list[tuple[Waiter, Repository | None]]:
        """Return the waiters whose wait was not announced yet, with the repository that is uploaded into."""
        began = [
            (waiter, None if queue.into is None else waiter.dest.sibling(queue.into))
            for queue in self._queues.values()
            for waiter in queue.waiters
            if waiter.busy_since is not None and not waiter.announced
        ]
        for waiter, _ in began:
            waiter.announced = True
        return began

    def uploader(self, registry: str, layer: Digest) -> Repository | None:
        """Return the repository that this process uploads a layer into now; None if it does not."""
        queue = self._queues.get((registry, layer))
        return None if queue is None or queue.holder is None else queue.holder.dest

    def next_claims(
        self, now: float, rate: float | None, only: Collection[tuple[str, Digest]] | None = None
    ) -> tuple[list[Claim], list[Decision]]:
        """Return the claims for the server, and the decisions that need no answer.

        Args:
            now: monotonic seconds.
            rate: bytes a second of this process's uploads; None if none was measured.
            only: the registries and layers to claim for; None for all.
        """
        claims: list[Claim] = []
        decisions: list[Decision] = []
        asked = [queue for key, queue in self._queues.items() if only is None or key in only]
        for queue in sorted(asked, key=lambda queue: queue.slot_order(now, rate)):
            if queue.holder is not None and queue.holder.check_stalled():
                decisions.append(EndLease(queue.holder))
                queue.holder = None
            if queue.holder is not None:
                decisions.extend(self._check_waiters(queue, now, rate))
            elif queue.waiters:
                with_slot = next((waiter for waiter in queue.waiters if waiter.take_slot()), None)
                stalled = (queue.busy.text or b"\n") if queue.stalled and queue.busy is not None else b""
                claims.append(Claim(with_slot or queue.waiters[0], take=with_slot is not None, instead_of=stalled))
        return claims, decisions

    def is_known(self, claim: Claim, answer: ClaimAnswer) -> bool:
        """Return whether the server's answer to a claim says the same as the one before."""
        queue = self._queues.get(claim.waiter.key)
        before = None if queue is None else queue.busy
        return isinstance(answer, LeaseBusy) and before is not None and before.text == answer.text

    def apply_answer(self, claim: Claim, answer: ClaimAnswer, now: float, rate: float | None) -> list[Decision]:
        """Return the decisions that follow from the server's answer to a claim."""
        waiter = claim.waiter
        queue = self._queues.get(waiter.key)
        waiters = [] if queue is None else queue.waiters
        decisions: list[Decision] = []
        if queue is not None:
            queue.see(answer, waiter, now, rate)
        match answer:
            case LeaseAcquired() | IndexDown() if claim.take and queue is not None and waiter in waiters:
                queue.holder = waiter
                waiters.remove(waiter)
                return [StartUpload(waiter, leased=True)]
            case LeaseAcquired():
                decisions.append(ReleaseLease(waiter))
            case SourcesFound():
                decisions.extend(self._mount(queue, answer.names))
                waiter.invalid_names |= answer.invalid_names
                waiter.stopped = waiter.stopped or len(waiter.invalid_names) > INVALID_NAMES_MAX
            case LeaseFree() | IndexDown():
                decisions.extend(self._give_up(waiters))
            case LeaseBusy() if waiter not in waiters:
                decisions.append(ReleaseLease(waiter))
            case LeaseBusy():
                pass
        if isinstance(answer, LeaseBusy | SourcesFound) and queue is not None:
            # only after the server's answer may a waiter upload without a lease
            reserved = waiter if claim.take else None
            done = self._check_waiters(queue, now, rate, reserved=reserved)
            decisions.extend(done)
            if reserved is not None and StartUpload(reserved, leased=False) in done:
                return decisions
        return [*decisions, ReturnSlot(waiter)] if claim.take else decisions

    def published(self, registry: str, layer: Digest, name: str) -> list[Decision]:
        """Return the mounts that are possible now that a repository holds the layer."""
        return self._mount(self._queues.get((registry, layer)), frozenset({name}))

    def ended(self, waiter: Waiter) -> None:
        """Remove an upload that succeeded or failed; the next waiter can claim the lease."""
        queue = self._queues.get(waiter.key)
        if queue is not None and queue.holder is waiter:
            queue.holder = None
            self._remove_if_empty(waiter)

    def _mount(self, queue: _LayerQueue | None, names: frozenset[str]) -> list[Decision]:
        decisions: list[Decision] = []
        for waiter in list(queue.waiters) if queue is not None else ():
            if untried := names - waiter.excluded:
                self.leave(waiter)
                decisions.append(MountFrom(waiter, untried))
        return decisions

    def _give_up(self, waiters: Iterable[Waiter]) -> list[Decision]:
        """Remove the waiters that may give up among `waiters`."""
        leaving = [waiter for waiter in waiters if waiter.may_give_up]
        for waiter in leaving:
            self.leave(waiter)
        return [GiveUp(waiter) for waiter in leaving]

    def _check_waiters(
        self, queue: _LayerQueue, now: float, rate: float | None, *, reserved: Waiter | None = None
    ) -> list[Decision]:
        """While another uploads: return decisions for waiters that cannot use its upload, or waited too long.

        Args:
            queue: their queue.
            now: monotonic seconds.
            rate: bytes a second of this process's uploads.
            reserved: the waiter that has an upload slot already.
        """
        done: list[Decision] = []
        into = queue.into
        for waiter in list(queue.waiters):
            if waiter.busy_since is None:
                waiter.busy_since = now
            is_useless = into is not None and not waiter.accepts(into)
            # one waiter takes a stalled upload's lease over, and all others wait for that one
            is_over = is_useless or (queue.stalled and waiter.watch_only)
            if not is_over and not waiter.is_out_of_patience(now, rate):
                continue
            if waiter.watch_only or (waiter.at_once and not is_useless):
                done.extend(self._give_up([waiter]))
            elif waiter is reserved or waiter.take_slot():
                self.leave(waiter)
                done.append(StartUpload(waiter, leased=False))
        return done

    def _remove_if_empty(self, waiter: Waiter) -> None:
        queue = self._queues.get(waiter.key)
        if queue is not None and queue.holder is None and not queue.waiters:
            del self._queues[waiter.key]
