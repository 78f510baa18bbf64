"""The table of turns: scripted interleavings, and a state machine of processes on a model of the server."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crossmount.fleet.patience import HEARTBEAT_SECONDS, LEASE_SECONDS, Patience, RateMeter
from crossmount.fleet.table import Table
from crossmount.fleet.waiting import (
    Answer,
    Appeared,
    Busy,
    Claim,
    Decision,
    Free,
    Go,
    Held,
    InVain,
    LeaseBack,
    MountFrom,
    SlotBack,
    Unserved,
    Waiter,
)
from crossmount.oci import Digest, Repository

LAYERS = tuple(Digest.of(b"layer %d" % number) for number in range(2))
PATIENCE = Patience(limit=60, least=20)
TICK = 0.25


@dataclass
class Slots:
    """Upload slots that are counted."""

    free: int = 2

    def take_now(self) -> bool:
        """Take one."""
        if self.free == 0:
            return False
        self.free -= 1
        return True

    def put_back(self) -> None:
        """Give one back."""
        self.free += 1

    def give_back(self) -> None:
        """Give one back that was used."""
        self.free += 1


def make_waiter(
    name: str,
    slots: Slots,
    *,
    layer: Digest = LAYERS[0],
    useless: Iterable[str] = (),
    looks: bool = False,
    accepts: Callable[[str], bool] = lambda _: True,
) -> Waiter:
    """Return one who wants a layer in repository `name`."""
    return Waiter(
        layer=layer,
        dest=Repository("r.example", name),
        size=10,
        value=name,
        useless=set(useless),
        patience=PATIENCE,
        slots=None if looks else slots,
        accepts=accepts,
    )


def asked(table: Table, now: float = 0) -> Claim:
    """Return the one claim that a table has."""
    (claim,), decisions = table.ask(now, None)
    assert decisions == []
    return claim


def test_the_first_asks_for_all() -> None:
    """Of those in one process that want a layer one asks, and what appeared serves all of them."""
    table, slots = Table(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.join(second)
    claim = asked(table)
    assert claim == Claim(first, take=True)
    decisions = table.answered(claim, Appeared(frozenset({"x"})), 0, None)
    assert decisions == [MountFrom(first, frozenset({"x"})), MountFrom(second, frozenset({"x"})), SlotBack(first)]
    assert table.idle


def test_a_leader_that_ends_hands_over() -> None:
    """While one of ours uploads nobody asks; when it ends without having published, the next one asks."""
    table, slots = Table(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.join(second)
    assert table.answered(asked(table), Held(), 0, None) == [Go(first, leased=True)]
    assert table.ask(1, None) == ([], [])
    table.ended(first)
    assert asked(table).waiter is second


def test_a_published_layer_is_mounted_by_those_who_wait_here() -> None:
    """The leader's repository is the others' source, with no server in between."""
    table, slots = Table(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.join(second)
    table.answered(asked(table), Unserved(), 0, None)
    assert table.published("r.example", LAYERS[0], "a") == [MountFrom(second, frozenset({"a"}))]


def test_who_has_a_slot_goes_before_who_has_none() -> None:
    """A first in line without an upload slot does not keep the others from taking the lease."""
    table, full = Table(), Slots(0)
    first, second = make_waiter("a", full), make_waiter("b", Slots())
    table.join(first)
    assert asked(table) == Claim(first, take=False)
    table.join(second)
    assert asked(table) == Claim(second, take=True)


def test_without_a_slot_nothing_is_taken() -> None:
    """Free, busy and no index at all leave one without a slot where it is."""
    table = Table()
    waiter = make_waiter("a", Slots(0))
    table.join(waiter)
    for answer in (Free(), Busy(), Unserved()):
        assert table.answered(asked(table), answer, 0, None) == []
    assert not table.idle


def test_slots_go_where_they_can_be_used() -> None:
    """Layers that others upload do not keep the last slot, tick after tick, from one that is free."""
    table, slots = Table(), Slots(1)
    busy, free = make_waiter("a", slots), make_waiter("a", slots, layer=LAYERS[1])
    table.join(busy)
    table.join(free)
    claims, _ = table.ask(0, None)
    assert claims == [Claim(busy, take=True), Claim(free, take=False)]
    assert table.answered(claims[0], Busy(), 0, None) == [SlotBack(busy)]
    assert table.answered(claims[1], Free(), 0, None) == []
    slots.put_back()
    claims, _ = table.ask(0, None)
    assert claims == [Claim(free, take=True), Claim(busy, take=False)]


def test_a_lease_that_comes_too_late_is_given_back() -> None:
    """Who left while its claim was on its way gives lease and slot back, and the next one asks."""
    table, slots = Table(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    claim = asked(table)
    table.leave(first)
    table.leave(first)
    table.join(second)
    assert table.answered(claim, Held(), 0, None) == [LeaseBack(first), SlotBack(first)]
    assert asked(table).waiter is second


def test_what_is_no_name_is_left_out_from_then_on() -> None:
    """A hostile member of a set neither serves as a source nor hides the lease for ever."""
    table, slots = Table(), Slots()
    waiter = make_waiter("a", slots)
    table.join(waiter)
    decisions = table.answered(asked(table), Appeared(frozenset(), frozenset({b"\xff"})), 0, None)
    assert decisions == [SlotBack(waiter)]
    assert waiter.junk == {b"\xff"}


def test_patience_ends_with_an_upload_of_ones_own() -> None:
    """Behind a lease that never ends one waits as long as one's patience, whatever the lease says."""
    table, slots = Table(), Slots()
    waiter = make_waiter("a", slots)
    table.join(waiter)
    for now in (0, 10, 19.9):
        assert table.answered(asked(table), Busy(), now, None) == [SlotBack(waiter)]
        slots.put_back()
    assert table.answered(asked(table), Busy(), 20, None) == [Go(waiter, leased=False)]


def test_patience_ends_behind_one_of_ours_too() -> None:
    """An upload in this process that hangs does not hold the others for longer than their patience."""
    table, slots = Table(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.answered(asked(table), Held(), 0, None)
    table.join(second)
    assert table.ask(1, None) == ([], [])
    assert table.ask(21, None) == ([], [Go(second, leased=False)])


def test_who_only_looks_never_takes_a_slot_or_a_lease() -> None:
    """One that would only mount asks without taking, and goes as soon as nobody uploads, or nobody can tell."""
    for answer in (Free(), Unserved()):
        table = Table()
        waiter = make_waiter("a", Slots(), looks=True)
        table.join(waiter)
        claim = asked(table)
        assert claim == Claim(waiter, take=False)
        assert table.answered(claim, answer, 0, None) == [InVain(waiter)]
        assert table.idle


def test_who_only_looks_mounts_what_another_brings() -> None:
    """Behind another process, or one of ours, a looker waits and is told where to mount from."""
    table, slots = Table(), Slots()
    looker, pusher = make_waiter("a", Slots(), looks=True), make_waiter("b", slots)
    table.join(looker)
    assert table.answered(asked(table), Busy(), 0, None) == []
    table.join(pusher)
    claim = asked(table)
    assert claim == Claim(pusher, take=True)
    assert table.answered(claim, Held(), 0, None) == [Go(pusher, leased=True)]
    assert table.uploader("r.example", LAYERS[0]) == pusher.dest
    assert table.ask(1, None) == ([], [])
    assert table.published("r.example", LAYERS[0], "b") == [MountFrom(looker, frozenset({"b"}))]
    table.ended(pusher)
    assert table.uploader("r.example", LAYERS[0]) is None


def test_who_only_looks_goes_when_its_patience_ends() -> None:
    """Past its patience a looker is told no, and uploads nothing."""
    table, slots = Table(), Slots()
    pusher, looker = make_waiter("b", slots), make_waiter("a", Slots(), looks=True)
    table.join(pusher)
    table.answered(asked(table), Held(), 0, None)
    table.join(looker)
    assert table.ask(1, None) == ([], [])
    assert table.ask(21, None) == ([], [InVain(looker)])


def test_nobody_waits_for_an_upload_that_is_no_use() -> None:
    """Behind one into a repository that may not be mounted from, here or elsewhere, each goes its own way."""
    for busy in (True, False):
        table, slots = Table(), Slots()
        picky = make_waiter("a", slots, accepts=lambda name: name == "base")
        looker = make_waiter("c", Slots(), looks=True, accepts=lambda name: name == "base")
        if busy:
            table.join(picky)
            assert table.answered(asked(table), Busy("base"), 0, None) == [SlotBack(picky)]
            slots.put_back()
            table.join(looker)
            decisions = table.answered(asked(table), Busy("secret"), 0, None)
        else:
            holder = make_waiter("secret", Slots())
            table.join(holder)
            table.answered(asked(table), Held(), 0, None)
            table.join(picky)
            table.join(looker)
            _, decisions = table.ask(0, None)
        assert decisions == [Go(picky, leased=False), InVain(looker)]


def test_who_is_hurried_waits_no_more() -> None:
    """Those of one repository go at once, behind whomever they waited; the others go on waiting."""
    table, slots = Table(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.join(second)
    assert table.answered(asked(table), Busy(), 0, None) == [SlotBack(first)]
    slots.put_back()
    table.hurry(second.dest)
    assert table.answered(asked(table), Busy(), 0, None) == [Go(second, leased=False), SlotBack(first)]


def test_a_hostile_set_is_not_asked_for_ever() -> None:
    """After some hundreds of members that are no names its layer is uploaded without more questions."""
    table, slots = Table(), Slots()
    waiter = make_waiter("a", slots)
    table.join(waiter)
    for number in range(5):
        junk = frozenset(b"\xff%d" % i for i in range(number * 128, (number + 1) * 128))
        decisions = table.answered(asked(table), Appeared(frozenset(), junk), 0, None)
        slots.put_back()
    assert decisions == [Go(waiter, leased=False)]


def test_a_rate_of_long_ago_counts_less() -> None:
    """A process that runs for weeks follows its link."""
    meter = RateMeter()
    for _ in range(100):
        meter.saw(100 * 1024 * 1024, 100)
    for _ in range(30):
        meter.saw(1000 * 1024 * 1024, 100)
    assert meter.rate is not None
    assert meter.rate > 9 * 1024 * 1024


def test_patience_follows_size_and_rate() -> None:
    """Longer for more bytes, shorter on a fast link, never under a lease's life, never over the limit."""
    patience, meter = Patience(), RateMeter()
    assert meter.rate is None
    assert patience.seconds(1024 * 1024, None) == patience.least > LEASE_SECONDS
    assert patience.seconds(100 * 1024 * 1024, None) == 400
    meter.saw(1000, 0.0001)  # too small to tell anything
    meter.saw(40 * 1024 * 1024, 2)
    assert patience.seconds(1000 * 1024 * 1024, meter.rate) == 200
    assert patience.seconds(2**50, meter.rate) == patience.limit
    assert not Patience(limit=0).waits_for(2**40)
    assert not patience.waits_for(1000)


@dataclass(eq=False)
class Upload:
    """An upload that runs; `healthy` as long as the server knows its lease and its holder renews it."""

    waiter: Waiter
    leased: bool
    healthy: bool = False


@dataclass
class Process:
    """One process: its table, its uploads, and whether it is stopped."""

    table: Table = field(default_factory=Table)
    slots: Slots = field(default_factory=Slots)
    uploads: list[Upload] = field(default_factory=list)
    waiting: list[Waiter] = field(default_factory=list)
    paused: bool = False

    @property
    def runs(self) -> bool:
        """Whether it does anything."""
        return not self.paused


@dataclass
class Model:
    """The server: what the Lua scripts do, on a clock of ours."""

    now: float = 0.0
    there: bool = True
    leases: dict[Digest, tuple[str, float]] = field(default_factory=dict)
    sources: dict[Digest, set[str]] = field(default_factory=dict)

    def holder(self, layer: Digest) -> str | None:
        """Return whose the lease is, if it lives."""
        value, until = self.leases.get(layer, ("", 0.0))
        return value if until > self.now else None

    def claim(self, claim: Claim) -> Answer:
        """As claim.lua."""
        waiter = claim.waiter
        if not self.there:
            return Unserved()
        if found := self.sources.get(waiter.layer, set()) - waiter.useless:
            return Appeared(frozenset(found))
        if self.holder(waiter.layer) not in {None, waiter.value}:
            return Busy()
        if not claim.take:
            return Free()
        self.leases[waiter.layer] = waiter.value, self.now + LEASE_SECONDS
        return Held()

    def renew(self, waiter: Waiter) -> None:
        """As renew.lua."""
        if self.there and self.holder(waiter.layer) in {None, waiter.value}:
            self.leases[waiter.layer] = waiter.value, self.now + LEASE_SECONDS

    def release(self, waiter: Waiter) -> None:
        """As release.lua."""
        if self.there and self.holder(waiter.layer) == waiter.value:
            del self.leases[waiter.layer]


class FleetMachine(RuleBasedStateMachine):
    """Processes that push the same layers, die, stop and go on, on a server that goes and comes back."""

    @initialize()
    def begin(self) -> None:
        """Three processes."""
        self.server = Model()
        self.processes = [Process() for _ in range(3)]
        self.names = count()
        self.beaten = 0.0

    @rule(number=st.integers(0, 2), layer=st.sampled_from(LAYERS), looks=st.booleans())
    def want(self, number: int, layer: Digest, looks: bool) -> None:
        """A push comes to a layer, or one who would only mount it."""
        process = self.processes[number]
        if process.runs:
            waiter = make_waiter(f"repo-{next(self.names)}", process.slots, layer=layer, looks=looks)
            process.waiting.append(waiter)
            process.table.join(waiter)

    @rule(number=st.integers(0, 2))
    def poll(self, number: int) -> None:
        """One tick of a process: ask, carry out; nobody who could go is late after it."""
        process = self.processes[number]
        if not process.runs:
            return
        claims, decisions = process.table.ask(self.server.now, None)
        self._carry_out(process, decisions)
        for claim in claims:
            answer = self.server.claim(claim)
            if isinstance(answer, Held):
                self._check_alone(claim.waiter)
            decisions = process.table.answered(claim, answer, self.server.now, None)
            self._carry_out(process, decisions, healthy=isinstance(answer, Held))

    @rule(number=st.integers(0, 2))
    def poll_with_a_leaver(self, number: int) -> None:
        """A tick in whose middle, between question and answer, a waiter is cancelled."""
        process = self.processes[number]
        if not process.runs:
            return
        claims, decisions = process.table.ask(self.server.now, None)
        self._carry_out(process, decisions)
        answers = [self.server.claim(claim) for claim in claims]
        for claim, answer in zip(claims, answers, strict=True):
            if claim.waiter in process.waiting:
                process.waiting.remove(claim.waiter)
                process.table.leave(claim.waiter)
            self._carry_out(process, process.table.answered(claim, answer, self.server.now, None))

    @rule(number=st.integers(0, 2), which=st.integers(0, 3))
    def finish(self, number: int, which: int) -> None:
        """An upload ends well: publish, then release."""
        process = self.processes[number]
        if process.runs and which < len(process.uploads):
            self._finish(process, process.uploads[which])

    @rule(number=st.integers(0, 2), which=st.integers(0, 3))
    def fail(self, number: int, which: int) -> None:
        """An upload fails: release alone."""
        process = self.processes[number]
        if process.runs and which < len(process.uploads):
            self._end(process, process.uploads[which])

    @rule(number=st.integers(0, 2))
    def kill(self, number: int) -> None:
        """A process dies (-9): what it held stays until it runs out."""
        self.processes[number] = Process()

    @rule(number=st.integers(0, 2), paused=st.booleans())
    def pause(self, number: int, paused: bool) -> None:
        """A process is stopped, or goes on."""
        self.processes[number].paused = paused
        self._not_healthy([self.processes[number]])

    @rule(seconds=st.sampled_from([TICK, 1.0, HEARTBEAT_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        """Time goes on, and with it every heartbeat of a process that runs."""
        self._pass(seconds)

    @rule(there=st.booleans())
    def lose_server(self, there: bool) -> None:
        """The server goes, with all it held, or comes back empty."""
        if not there and self.server.there:
            self.server.leases.clear()
            self.server.sources.clear()
            self._not_healthy(self.processes)
        self.server.there = there

    @rule(layer=st.sampled_from(LAYERS))
    def stranger(self, layer: Digest) -> None:
        """A stranger writes a lease with a year's life."""
        if self.server.there and self.server.holder(layer) is None:
            self.server.leases[layer] = "stranger", self.server.now + 365 * 86400

    @invariant()
    def slots_are_kept(self) -> None:
        """Between ticks a slot is taken by an upload and by nothing else: nobody waits with one."""
        for process in getattr(self, "processes", ()):
            assert process.slots.free == 2 - len(process.uploads)

    @invariant()
    def one_of_ours_at_a_time(self) -> None:
        """One process uploads a layer twice at once only for one whose patience ended."""
        for process in getattr(self, "processes", ()):
            for layer in LAYERS:
                assert sum(each.waiter.layer == layer and each.leased for each in process.uploads) <= 1

    def teardown(self) -> None:
        """No wake-up is lost: with nothing but ticks everybody who waits comes to a turn within its patience."""
        if not hasattr(self, "processes"):
            return
        for process in self.processes:
            process.paused = False
        for _ in range(int(PATIENCE.least + 2)):
            self._pass(1)
            for number, process in enumerate(self.processes):
                self.poll(number)
                self.poll(number)  # a slot may have been kept for another's question, which came back
                for waiter in process.waiting:
                    assert waiter.busy_since is None or (
                        self.server.now - waiter.busy_since < PATIENCE.least or process.slots.free == 0
                    ), "a waiter past its patience"
        for _ in range(10):  # uploads end: who had no slot has one
            for number, process in enumerate(self.processes):
                for upload in list(process.uploads):
                    self._finish(process, upload)
                self.poll(number)
        assert [process.waiting for process in self.processes] == [[], [], []]

    def _check_alone(self, waiter: Waiter) -> None:
        """Never two uploads while a healthy holder lives."""
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
                case Go():
                    assert not waiter.looks
                    process.waiting.remove(waiter)
                    process.uploads.append(Upload(waiter, decision.leased, healthy and decision.leased))
                case MountFrom() | InVain():
                    process.waiting.remove(waiter)
                case SlotBack():
                    waiter.put_slot_back()
                case LeaseBack():
                    self.server.release(waiter)

    def _finish(self, process: Process, upload: Upload) -> None:
        waiter = upload.waiter
        if self.server.there:
            self.server.sources.setdefault(waiter.layer, set()).add(waiter.dest.name)
        self._carry_out(process, process.table.published("r.example", waiter.layer, waiter.dest.name))
        self._end(process, upload)

    def _end(self, process: Process, upload: Upload) -> None:
        process.uploads.remove(upload)
        upload.waiter.put_slot_back()
        if upload.leased:
            self.server.release(upload.waiter)
        process.table.ended(upload.waiter)


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
