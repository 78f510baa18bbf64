"""`LayerQueues` in scripted interleavings."""

from crossmount.fleet.lease import USEFUL_RATE
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


def asked(queues: LayerQueues, now: float = 0) -> Claim:
    """Return the only claim."""
    (claim,), decisions = queues.next_claims(now, None)
    assert decisions == []
    return claim


def test_the_first_asks_for_all() -> None:
    """The first waiter of a layer asks the server, and the sources in the answer are for all waiters."""
    queues, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    queues.join(first)
    queues.join(second)
    claim = asked(queues)
    assert claim == Claim(first, take=True)
    decisions = queues.apply_answer(claim, SourcesFound(frozenset({"x"})), 0, None)
    assert decisions == [
        MountFrom(first, frozenset({"x"})),
        MountFrom(second, frozenset({"x"})),
        ReturnSlot(first),
    ]
    assert queues.idle


def test_a_leader_that_ends_hands_over() -> None:
    """While a waiter of this process uploads, the server is not asked; after a failed upload the next one asks."""
    queues, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    queues.join(first)
    queues.join(second)
    assert queues.apply_answer(asked(queues), LeaseAcquired(), 0, None) == [StartUpload(first, leased=True)]
    assert queues.next_claims(1, None) == ([], [])
    queues.ended(first)
    assert asked(queues).waiter is second


def test_a_published_layer_is_mounted_by_waiters_of_the_process() -> None:
    """Waiters of the same process mount from the uploader's repository, without a server."""
    queues, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    queues.join(first)
    queues.join(second)
    queues.apply_answer(asked(queues), IndexDown(), 0, None)
    assert queues.published("r.example", LAYERS[0], "a") == [MountFrom(second, frozenset({"a"}))]


def test_a_waiter_with_a_slot_goes_first() -> None:
    """A first waiter without an upload slot does not block the next one with a slot."""
    queues, full = LayerQueues(), Slots(0)
    first, second = make_waiter("a", full), make_waiter("b", Slots())
    queues.join(first)
    assert asked(queues) == Claim(first, take=False)
    queues.join(second)
    assert asked(queues) == Claim(second, take=True)


def test_without_a_slot_nothing_is_taken() -> None:
    """A waiter without a slot waits, if the lease is free or busy and also without an index."""
    queues = LayerQueues()
    waiter = make_waiter("a", Slots(0))
    queues.join(waiter)
    for answer in (LeaseFree(), LeaseBusy(), IndexDown()):
        assert queues.apply_answer(asked(queues), answer, 0, None) == []
    assert not queues.idle


def test_slots_go_where_they_can_be_used() -> None:
    """Layers that others upload do not take the last slot from a layer with a free lease."""
    queues, slots = LayerQueues(), Slots(1)
    busy, free = make_waiter("a", slots), make_waiter("a", slots, layer=LAYERS[1])
    queues.join(busy)
    queues.join(free)
    claims, _ = queues.next_claims(0, None)
    assert claims == [Claim(busy, take=True), Claim(free, take=False)]
    assert queues.apply_answer(claims[0], LeaseBusy(), 0, None) == [ReturnSlot(busy)]
    assert queues.apply_answer(claims[1], LeaseFree(), 0, None) == []
    slots.return_unused()
    claims, _ = queues.next_claims(0, None)
    assert claims == [Claim(free, take=True), Claim(busy, take=False)]


def test_a_lease_that_comes_too_late_is_released() -> None:
    """If a waiter leaves during its claim, its lease and slot are returned, and the next waiter asks."""
    queues, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    queues.join(first)
    claim = asked(queues)
    queues.leave(first)
    queues.leave(first)
    queues.join(second)
    assert queues.apply_answer(claim, LeaseAcquired(), 0, None) == [ReleaseLease(first), ReturnSlot(first)]
    assert asked(queues).waiter is second


def test_a_late_entry_of_a_waiter_is_removed() -> None:
    """If a waiter leaves during its claim, its entry in the list of waiters is removed."""
    queues, slots = LayerQueues(), Slots()
    waiter = make_waiter("a", slots)
    queues.join(waiter)
    claim = asked(queues)
    queues.leave(waiter)
    assert queues.apply_answer(claim, LeaseBusy(), 0, None) == [ReleaseLease(waiter), ReturnSlot(waiter)]


def test_an_invalid_name_is_excluded_from_then_on() -> None:
    """An invalid member of a set is neither a source nor hides the lease for ever."""
    queues, slots = LayerQueues(), Slots()
    waiter = make_waiter("a", slots)
    queues.join(waiter)
    decisions = queues.apply_answer(asked(queues), SourcesFound(frozenset(), frozenset({b"\xff"})), 0, None)
    assert decisions == [ReturnSlot(waiter)]
    assert waiter.invalid_names == {b"\xff"}


def test_patience_ends_with_an_upload_of_ones_own() -> None:
    """Behind a lease that never expires a waiter uploads when its own patience ends."""
    queues, slots = LayerQueues(), Slots()
    waiter = make_waiter("a", slots)
    queues.join(waiter)
    for now in (0, 10, 19.9):
        assert queues.apply_answer(asked(queues), LeaseBusy(sent=int(now * USEFUL_RATE)), now, None) == [
            ReturnSlot(waiter)
        ]
        slots.return_unused()
    assert queues.apply_answer(asked(queues), LeaseBusy(sent=20 * USEFUL_RATE), 20, None) == [
        StartUpload(waiter, leased=False)
    ]


def test_patience_ends_behind_one_of_ours_too() -> None:
    """A hanging upload of the same process delays waiters no longer than their patience."""
    queues, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    queues.join(first)
    queues.apply_answer(asked(queues), LeaseAcquired(), 0, None)
    queues.join(second)
    assert queues.next_claims(1, None) == ([], [])
    assert queues.next_claims(21, None) == ([], [StartUpload(second, leased=False)])


def test_a_watcher_never_takes_a_slot_or_a_lease() -> None:
    """A watcher takes no slot and no lease, and gives up if nobody uploads or the index is down."""
    for answer in (LeaseFree(), IndexDown()):
        queues = LayerQueues()
        waiter = make_waiter("a", Slots(), watch_only=True)
        queues.join(waiter)
        claim = asked(queues)
        assert claim == Claim(waiter, take=False)
        assert queues.apply_answer(claim, answer, 0, None) == [GiveUp(waiter)]
        assert queues.idle


def test_a_watcher_mounts_what_another_uploads() -> None:
    """A watcher mounts what this process or another one has uploaded."""
    queues, slots = LayerQueues(), Slots()
    looker, pusher = make_waiter("a", Slots(), watch_only=True), make_waiter("b", slots)
    queues.join(looker)
    assert queues.apply_answer(asked(queues), LeaseBusy(), 0, None) == []
    queues.join(pusher)
    claim = asked(queues)
    assert claim == Claim(pusher, take=True)
    assert queues.apply_answer(claim, LeaseAcquired(), 0, None) == [StartUpload(pusher, leased=True)]
    assert queues.uploader("r.example", LAYERS[0]) == pusher.dest
    assert queues.next_claims(1, None) == ([], [])
    assert queues.published("r.example", LAYERS[0], "b") == [MountFrom(looker, frozenset({"b"}))]
    queues.ended(pusher)
    assert queues.uploader("r.example", LAYERS[0]) is None


def test_a_watcher_gives_up_when_its_patience_ends() -> None:
    """A watcher gives up when its patience ends, and uploads nothing."""
    queues, slots = LayerQueues(), Slots()
    pusher, looker = make_waiter("b", slots), make_waiter("a", Slots(), watch_only=True)
    queues.join(pusher)
    queues.apply_answer(asked(queues), LeaseAcquired(), 0, None)
    queues.join(looker)
    assert queues.next_claims(1, None) == ([], [])
    assert queues.next_claims(21, None) == ([], [GiveUp(looker)])


def test_nobody_waits_for_an_upload_that_cannot_be_mounted() -> None:
    """Nobody waits for an upload into a repository that it must not mount from."""
    for busy in (True, False):
        queues, slots = LayerQueues(), Slots()
        picky = make_waiter("a", slots, accepts=lambda name: name == "base")
        looker = make_waiter("c", Slots(), watch_only=True, accepts=lambda name: name == "base")
        if busy:
            queues.join(picky)
            assert queues.apply_answer(asked(queues), LeaseBusy("base"), 0, None) == [ReturnSlot(picky)]
            slots.return_unused()
            queues.join(looker)
            decisions = queues.apply_answer(asked(queues), LeaseBusy("secret"), 0, None)
        else:
            holder = make_waiter("secret", Slots())
            queues.join(holder)
            queues.apply_answer(asked(queues), LeaseAcquired(), 0, None)
            queues.join(picky)
            queues.join(looker)
            _, decisions = queues.next_claims(0, None)
        assert decisions == [StartUpload(picky, leased=False), GiveUp(looker)]


def test_waiters_of_one_repository_can_be_stopped() -> None:
    """`stop_waiting` lets the waiters of one repository upload at once, and no others."""
    queues, slots = LayerQueues(), Slots()
    first, second = make_waiter("a", slots), make_waiter("b", slots)
    queues.join(first)
    queues.join(second)
    assert queues.apply_answer(asked(queues), LeaseBusy(), 0, None) == [ReturnSlot(first)]
    slots.return_unused()
    queues.stop_waiting(second.dest)
    assert queues.apply_answer(asked(queues), LeaseBusy(), 0, None) == [
        StartUpload(second, leased=False),
        ReturnSlot(first),
    ]


def test_a_hostile_set_ends_the_claims() -> None:
    """After some hundred invalid members the layer is uploaded without further claims."""
    queues, slots = LayerQueues(), Slots()
    waiter = make_waiter("a", slots)
    queues.join(waiter)
    for number in range(5):
        invalid_names = frozenset(b"\xff%d" % i for i in range(number * 128, (number + 1) * 128))
        decisions = queues.apply_answer(asked(queues), SourcesFound(frozenset(), invalid_names), 0, None)
        slots.return_unused()
    assert decisions == [StartUpload(waiter, leased=False)]
