"""The table of turns, in scripted interleavings."""

from crossmount.fleet.queues import LayerQueues
from crossmount.fleet.waiting import (
    Claim,
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
)
from support.waiters import LAYERS, Slots, make_waiter


def asked(table: LayerQueues, now: float = 0) -> Claim:
    """Return the one claim that a table has."""
    (claim,), decisions = table.ask(now, None)
    assert decisions == []
    return claim


def test_the_first_asks_for_all() -> None:
    """Of those in one process that want a layer one asks, and what appeared serves all of them."""
    table, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.join(second)
    claim = asked(table)
    assert claim == Claim(first, take=True)
    decisions = table.apply_answer(claim, SourcesFound(frozenset({"x"})), 0, None)
    assert decisions == [
        MountFrom(first, frozenset({"x"})),
        MountFrom(second, frozenset({"x"})),
        ReturnSlot(first),
    ]
    assert table.idle


def test_a_leader_that_ends_hands_over() -> None:
    """While one of ours uploads nobody asks; when it ends without having published, the next one asks."""
    table, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.join(second)
    assert table.apply_answer(asked(table), LeaseAcquired(), 0, None) == [StartUpload(first, leased=True)]
    assert table.ask(1, None) == ([], [])
    table.ended(first)
    assert asked(table).waiter is second


def test_a_published_layer_is_mounted_by_those_who_wait_here() -> None:
    """The leader's repository is the others' source, with no server in between."""
    table, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.join(second)
    table.apply_answer(asked(table), IndexDown(), 0, None)
    assert table.published("r.example", LAYERS[0], "a") == [MountFrom(second, frozenset({"a"}))]


def test_who_has_a_slot_goes_before_who_has_none() -> None:
    """A first in line without an upload slot does not keep the others from taking the lease."""
    table, full = LayerQueues(), Slots(0)
    first, second = make_waiter("a", full), make_waiter("b", Slots())
    table.join(first)
    assert asked(table) == Claim(first, take=False)
    table.join(second)
    assert asked(table) == Claim(second, take=True)


def test_without_a_slot_nothing_is_taken() -> None:
    """Free, busy and no index at all leave one without a slot where it is."""
    table = LayerQueues()
    waiter = make_waiter("a", Slots(0))
    table.join(waiter)
    for answer in (LeaseFree(), LeaseBusy(), IndexDown()):
        assert table.apply_answer(asked(table), answer, 0, None) == []
    assert not table.idle


def test_slots_go_where_they_can_be_used() -> None:
    """Layers that others upload do not keep the last slot, tick after tick, from one that is free."""
    table, slots = LayerQueues(), Slots(1)
    busy, free = make_waiter("a", slots), make_waiter("a", slots, layer=LAYERS[1])
    table.join(busy)
    table.join(free)
    claims, _ = table.ask(0, None)
    assert claims == [Claim(busy, take=True), Claim(free, take=False)]
    assert table.apply_answer(claims[0], LeaseBusy(), 0, None) == [ReturnSlot(busy)]
    assert table.apply_answer(claims[1], LeaseFree(), 0, None) == []
    slots.return_unused()
    claims, _ = table.ask(0, None)
    assert claims == [Claim(free, take=True), Claim(busy, take=False)]


def test_a_lease_that_comes_too_late_is_given_back() -> None:
    """Who left while its claim was on its way gives lease and slot back, and the next one asks."""
    table, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    claim = asked(table)
    table.leave(first)
    table.leave(first)
    table.join(second)
    assert table.apply_answer(claim, LeaseAcquired(), 0, None) == [ReleaseLease(first), ReturnSlot(first)]
    assert asked(table).waiter is second


def test_who_is_noted_as_waiting_too_late_is_taken_down() -> None:
    """Who left while its claim was on its way does not stay among those who wait."""
    table, slots = LayerQueues(), Slots()
    waiter = make_waiter("a", slots)
    table.join(waiter)
    claim = asked(table)
    table.leave(waiter)
    assert table.apply_answer(claim, LeaseBusy(), 0, None) == [ReleaseLease(waiter), ReturnSlot(waiter)]


def test_what_is_no_name_is_left_out_from_then_on() -> None:
    """A hostile member of a set neither serves as a source nor hides the lease for ever."""
    table, slots = LayerQueues(), Slots()
    waiter = make_waiter("a", slots)
    table.join(waiter)
    decisions = table.apply_answer(asked(table), SourcesFound(frozenset(), frozenset({b"\xff"})), 0, None)
    assert decisions == [ReturnSlot(waiter)]
    assert waiter.invalid_names == {b"\xff"}


def test_patience_ends_with_an_upload_of_ones_own() -> None:
    """Behind a lease that never ends one waits as long as one's patience, whatever the lease says."""
    table, slots = LayerQueues(), Slots()
    waiter = make_waiter("a", slots)
    table.join(waiter)
    for now in (0, 10, 19.9):
        assert table.apply_answer(asked(table), LeaseBusy(), now, None) == [ReturnSlot(waiter)]
        slots.return_unused()
    assert table.apply_answer(asked(table), LeaseBusy(), 20, None) == [StartUpload(waiter, leased=False)]


def test_patience_ends_behind_one_of_ours_too() -> None:
    """An upload in this process that hangs does not hold the others for longer than their patience."""
    table, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.apply_answer(asked(table), LeaseAcquired(), 0, None)
    table.join(second)
    assert table.ask(1, None) == ([], [])
    assert table.ask(21, None) == ([], [StartUpload(second, leased=False)])


def test_who_only_looks_never_takes_a_slot_or_a_lease() -> None:
    """One that would only mount asks without taking, and goes as soon as nobody uploads, or nobody can tell."""
    for answer in (LeaseFree(), IndexDown()):
        table = LayerQueues()
        waiter = make_waiter("a", Slots(), watch_only=True)
        table.join(waiter)
        claim = asked(table)
        assert claim == Claim(waiter, take=False)
        assert table.apply_answer(claim, answer, 0, None) == [GiveUp(waiter)]
        assert table.idle


def test_who_only_looks_mounts_what_another_brings() -> None:
    """Behind another process, or one of ours, a looker waits and is told where to mount from."""
    table, slots = LayerQueues(), Slots()
    looker, pusher = make_waiter("a", Slots(), watch_only=True), make_waiter("b", slots)
    table.join(looker)
    assert table.apply_answer(asked(table), LeaseBusy(), 0, None) == []
    table.join(pusher)
    claim = asked(table)
    assert claim == Claim(pusher, take=True)
    assert table.apply_answer(claim, LeaseAcquired(), 0, None) == [StartUpload(pusher, leased=True)]
    assert table.uploader("r.example", LAYERS[0]) == pusher.dest
    assert table.ask(1, None) == ([], [])
    assert table.published("r.example", LAYERS[0], "b") == [MountFrom(looker, frozenset({"b"}))]
    table.ended(pusher)
    assert table.uploader("r.example", LAYERS[0]) is None


def test_who_only_looks_goes_when_its_patience_ends() -> None:
    """Past its patience a looker is told no, and uploads nothing."""
    table, slots = LayerQueues(), Slots()
    pusher, looker = make_waiter("b", slots), make_waiter("a", Slots(), watch_only=True)
    table.join(pusher)
    table.apply_answer(asked(table), LeaseAcquired(), 0, None)
    table.join(looker)
    assert table.ask(1, None) == ([], [])
    assert table.ask(21, None) == ([], [GiveUp(looker)])


def test_nobody_waits_for_an_upload_that_is_no_use() -> None:
    """Behind one into a repository that may not be mounted from, here or elsewhere, each goes its own way."""
    for busy in (True, False):
        table, slots = LayerQueues(), Slots()
        picky = make_waiter("a", slots, accepts=lambda name: name == "base")
        looker = make_waiter("c", Slots(), watch_only=True, accepts=lambda name: name == "base")
        if busy:
            table.join(picky)
            assert table.apply_answer(asked(table), LeaseBusy("base"), 0, None) == [ReturnSlot(picky)]
            slots.return_unused()
            table.join(looker)
            decisions = table.apply_answer(asked(table), LeaseBusy("secret"), 0, None)
        else:
            holder = make_waiter("secret", Slots())
            table.join(holder)
            table.apply_answer(asked(table), LeaseAcquired(), 0, None)
            table.join(picky)
            table.join(looker)
            _, decisions = table.ask(0, None)
        assert decisions == [StartUpload(picky, leased=False), GiveUp(looker)]


def test_who_is_hurried_waits_no_more() -> None:
    """Those of one repository go at once, behind whomever they waited; the others go on waiting."""
    table, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    table.join(first)
    table.join(second)
    assert table.apply_answer(asked(table), LeaseBusy(), 0, None) == [ReturnSlot(first)]
    slots.return_unused()
    table.stop_waiting(second.dest)
    assert table.apply_answer(asked(table), LeaseBusy(), 0, None) == [
        StartUpload(second, leased=False),
        ReturnSlot(first),
    ]


def test_a_hostile_set_is_not_asked_for_ever() -> None:
    """After some hundreds of members that are no names its layer is uploaded without more questions."""
    table, slots = LayerQueues(), Slots()
    waiter = make_waiter("a", slots)
    table.join(waiter)
    for number in range(5):
        invalid_names = frozenset(b"\xff%d" % i for i in range(number * 128, (number + 1) * 128))
        decisions = table.apply_answer(asked(table), SourcesFound(frozenset(), invalid_names), 0, None)
        slots.return_unused()
    assert decisions == [StartUpload(waiter, leased=False)]
