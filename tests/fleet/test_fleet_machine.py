"""`LayerQueues` in a state machine: several processes with a model of the server."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crossmount.fleet.queues import LayerQueues
from crossmount.fleet.waiting import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    Claim,
    ClaimAnswer,
    Decision,
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
from crossmount.oci import Digest
from support.waiters import LAYERS, PATIENCE, Slots, make_waiter

TICK = 0.25


@dataclass(eq=False)
class Upload:
    """A running upload; `healthy` while the server has its lease and its holder renews it."""

    waiter: Waiter
    leased: bool
    healthy: bool = False


@dataclass
class Process:
    """One process: its queues, its uploads, and whether it is stopped."""

    queues: LayerQueues = field(default_factory=LayerQueues)
    slots: Slots = field(default_factory=Slots)
    uploads: list[Upload] = field(default_factory=list)
    waiting: list[Waiter] = field(default_factory=list)
    paused: bool = False

    @property
    def runs(self) -> bool:
        """Whether the process runs."""
        return not self.paused


@dataclass
class Model:
    """A model of the server and its Lua scripts, with a clock of its own."""

    now: float = 0.0
    there: bool = True
    leases: dict[Digest, tuple[str, float]] = field(default_factory=dict)
    sources: dict[Digest, set[str]] = field(default_factory=dict)

    def holder(self, layer: Digest) -> str | None:
        """Return the holder of a lease that has not expired."""
        value, until = self.leases.get(layer, ("", 0.0))
        return value if until > self.now else None

    def claim(self, claim: Claim) -> ClaimAnswer:
        """Do what claim.lua does."""
        waiter = claim.waiter
        if not self.there:
            return IndexDown()
        if found := self.sources.get(waiter.layer, set()) - waiter.excluded:
            return SourcesFound(frozenset(found))
        if self.holder(waiter.layer) not in {None, waiter.value}:
            return LeaseBusy()
        if not claim.take:
            return LeaseFree()
        self.leases[waiter.layer] = waiter.value, self.now + LEASE_SECONDS
        return LeaseAcquired()

    def renew(self, waiter: Waiter) -> None:
        """Do what renew.lua does."""
        if self.there and self.holder(waiter.layer) in {None, waiter.value}:
            self.leases[waiter.layer] = waiter.value, self.now + LEASE_SECONDS

    def release(self, waiter: Waiter) -> None:
        """Do what release.lua does."""
        if self.there and self.holder(waiter.layer) == waiter.value:
            del self.leases[waiter.layer]


class FleetMachine(RuleBasedStateMachine):
    """Processes that push the same layers, die, stop and continue, with a server that fails and comes back."""

    @initialize()
    def begin(self) -> None:
        """Start three processes."""
        self.server = Model()
        self.processes = [Process() for _ in range(3)]
        self.names = count()
        self.beaten = 0.0

    @rule(number=st.integers(0, 2), layer=st.sampled_from(LAYERS), watch_only=st.booleans())
    def want(self, number: int, layer: Digest, watch_only: bool) -> None:
        """Add a push, or a watcher, of a layer."""
        process = self.processes[number]
        if process.runs:
            waiter = make_waiter(f"repo-{next(self.names)}", process.slots, layer=layer, watch_only=watch_only)
            process.waiting.append(waiter)
            process.queues.join(waiter)

    @rule(number=st.integers(0, 2))
    def poll(self, number: int) -> None:
        """Run one tick of a process; afterwards no waiter that could continue is out of patience."""
        process = self.processes[number]
        if not process.runs:
            return
        claims, decisions = process.queues.next_claims(self.server.now, None)
        self._carry_out(process, decisions)
        for claim in claims:
            answer = self.server.claim(claim)
            if isinstance(answer, LeaseAcquired):
                self._check_alone(claim.waiter)
            decisions = process.queues.apply_answer(claim, answer, self.server.now, None)
            self._carry_out(process, decisions, healthy=isinstance(answer, LeaseAcquired))

    @rule(number=st.integers(0, 2))
    def poll_with_a_leaver(self, number: int) -> None:
        """Cancel a waiter between a claim and its answer."""
        process = self.processes[number]
        if not process.runs:
            return
        claims, decisions = process.queues.next_claims(self.server.now, None)
        self._carry_out(process, decisions)
        answers = [self.server.claim(claim) for claim in claims]
        for claim, answer in zip(claims, answers, strict=True):
            if claim.waiter in process.waiting:
                process.waiting.remove(claim.waiter)
                process.queues.leave(claim.waiter)
            self._carry_out(process, process.queues.apply_answer(claim, answer, self.server.now, None))

    @rule(number=st.integers(0, 2), which=st.integers(0, 3))
    def finish(self, number: int, which: int) -> None:
        """End an upload successfully: publish, then release."""
        process = self.processes[number]
        if process.runs and which < len(process.uploads):
            self._finish(process, process.uploads[which])

    @rule(number=st.integers(0, 2), which=st.integers(0, 3))
    def fail(self, number: int, which: int) -> None:
        """Let an upload fail: release without publish."""
        process = self.processes[number]
        if process.runs and which < len(process.uploads):
            self._end(process, process.uploads[which])

    @rule(number=st.integers(0, 2))
    def kill(self, number: int) -> None:
        """Kill a process: its leases stay until they expire."""
        self.processes[number] = Process()

    @rule(number=st.integers(0, 2), paused=st.booleans())
    def pause(self, number: int, paused: bool) -> None:
        """Stop a process, or let it continue."""
        self.processes[number].paused = paused
        self._not_healthy([self.processes[number]])

    @rule(seconds=st.sampled_from([TICK, 1.0, HEARTBEAT_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        """Advance the clock; all running processes renew their leases."""
        self._pass(seconds)

    @rule(there=st.booleans())
    def lose_server(self, there: bool) -> None:
        """Stop the server with all its data, or start it empty."""
        if not there and self.server.there:
            self.server.leases.clear()
            self.server.sources.clear()
            self._not_healthy(self.processes)
        self.server.there = there

    @rule(layer=st.sampled_from(LAYERS))
    def stranger(self, layer: Digest) -> None:
        """Write a lease of another program that expires after a year."""
        if self.server.there and self.server.holder(layer) is None:
            self.server.leases[layer] = "stranger", self.server.now + 365 * 86400

    @invariant()
    def slots_are_kept(self) -> None:
        """Between ticks only uploads have slots; no waiter has one."""
        for process in getattr(self, "processes", ()):
            assert process.slots.free == 2 - len(process.uploads)

    @invariant()
    def one_of_ours_at_a_time(self) -> None:
        """A process uploads a layer twice at once only for a waiter whose patience has ended."""
        for process in getattr(self, "processes", ()):
            for layer in LAYERS:
                assert sum(each.waiter.layer == layer and each.leased for each in process.uploads) <= 1

    def teardown(self) -> None:
        """Every waiter gets a turn within its patience, by ticks alone."""
        if not hasattr(self, "processes"):
            return
        for process in self.processes:
            process.paused = False
        for _ in range(int(PATIENCE.least + 2)):
            self._pass(1)
            for number, process in enumerate(self.processes):
                self.poll(number)
                self.poll(number)  # a slot may have been reserved for a claim that was answered since
                for waiter in process.waiting:
                    assert waiter.busy_since is None or (
                        self.server.now - waiter.busy_since < PATIENCE.least or process.slots.free == 0
                    ), "a waiter past its patience"
        for _ in range(10):  # an upload ends: a waiter without a slot gets one
            for number, process in enumerate(self.processes):
                for upload in list(process.uploads):
                    self._finish(process, upload)
                self.poll(number)
        assert [process.waiting for process in self.processes] == [[], [], []]

    def _check_alone(self, waiter: Waiter) -> None:
        """Check that no second upload runs while a healthy holder lives."""
        uploads = [each for process in self.processes for each in process.uploads]
        assert not [each for each in uploads if each.healthy and each.waiter.layer == waiter.layer]

    @staticmethod
    def _not_healthy(processes: Iterable[Process]) -> None:
        for process in processes:
            for upload in process.uploads:
                upload.healthy = False

    def _pass(self, seconds: float) -> None:
        steps = int(seconds / TICK)
        for _ in range(steps):
            self.server.now += TICK
            if self.server.now - self.beaten >= HEARTBEAT_SECONDS:
                self.beaten = self.server.now
                for process in self.processes:
                    for upload in process.uploads if process.runs else ():
                        if upload.leased:
                            self.server.renew(upload.waiter)

    def _carry_out(self, process: Process, decisions: Iterable[Decision], *, healthy: bool = False) -> None:
        for decision in decisions:
            waiter = decision.waiter
            match decision:
                case StartUpload():
                    assert not waiter.watch_only
                    process.waiting.remove(waiter)
                    process.uploads.append(Upload(waiter, decision.leased, healthy and decision.leased))
                case MountFrom() | GiveUp():
                    process.waiting.remove(waiter)
                case ReturnSlot():
                    waiter.return_slot()
                case ReleaseLease():
                    self.server.release(waiter)

    def _finish(self, process: Process, upload: Upload) -> None:
        waiter = upload.waiter
        if self.server.there:
            self.server.sources.setdefault(waiter.layer, set()).add(waiter.dest.name)
        self._carry_out(process, process.queues.published("r.example", waiter.layer, waiter.dest.name))
        self._end(process, upload)

    def _end(self, process: Process, upload: Upload) -> None:
        process.uploads.remove(upload)
        upload.waiter.return_slot()
        if upload.leased:
            self.server.release(upload.waiter)
        process.queues.ended(upload.waiter)


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
