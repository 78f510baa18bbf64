"""Whether an upload that others wait for gets on, and what becomes of its lease if it does not."""

import asyncio

import pytest

from crossmount.fleet import Fleet, Patience, Slots, UploadTurn
from crossmount.fleet.lease import LeaseValue
from crossmount.fleet.lease_store import Lease, LeaseStore
from crossmount.fleet.progress import OWN_SECONDS, USEFUL_RATE, Pace
from crossmount.fleet.queues import LayerQueues
from crossmount.fleet.waiting import LeaseBusy, ReturnSlot, StartUpload, Waiter
from crossmount.index import MemoryMountIndex, open_index
from crossmount.index.protocol import backing_server
from support.fleets import LAYER, SIZE
from support.index_kit import repo
from support.places import Place

GOOD = USEFUL_RATE * 3


def test_bytes_at_a_useful_rate_are_waited_for() -> None:
    """An upload that sends enough bytes in every stretch of time gets on, however long it takes."""
    pace = Pace(seconds=6)
    for turn in range(100):
        assert not pace.check(turn * GOOD, 10**12, 3.0 * turn)


def test_a_drip_is_not_waited_for() -> None:
    """An upload that sends a byte now and then does not get on."""
    pace = Pace(seconds=6)
    assert [pace.check(turn, 10**12, 3.0 * turn) for turn in range(4)] == [False, False, True, True]


def test_an_upload_that_stops_in_the_middle_is_found_out() -> None:
    """Bytes that were sent long ago do not count."""
    pace = Pace(seconds=6)
    assert not any(pace.check(turn * GOOD, 10**12, 3.0 * turn) for turn in range(10))
    assert [pace.check(9 * GOOD, 10**12, 27.0 + 3.0 * turn) for turn in range(1, 5)][-1]


def test_a_registry_may_take_its_time_for_the_last_answer() -> None:
    """Once all bytes were sent, the upload gets on until it ends."""
    pace = Pace(seconds=6)
    assert not any(pace.check(1000, 1000, 60.0 * turn) for turn in range(10))


@pytest.mark.parametrize(
    ("text", "taken", "sent"),
    [
        (b"{}\n17", 17, None),
        (b"{}\n17\n5", 17, 5),
        (b"{}", None, None),
        (b"{}\n17\n-5", 17, None),
        (b"{}\n1\n" + b"9" * 30, 1, None),
    ],
)
def test_a_lease_may_tell_the_bytes_that_were_sent(text: bytes, taken: float | None, sent: int | None) -> None:
    """Old leases have no third line, and a line that is no number counts as none."""
    value = LeaseValue.from_text(text, "r.example")
    assert value is not None
    assert (value.taken, value.sent) == (taken, sent)


async def test_a_renewal_tells_the_bytes_that_were_sent(any_place: Place) -> None:
    """A renewal writes the bytes into the lease, and keeps the time of its acquisition."""
    async with open_index(any_place.url) as index:
        server = backing_server(index)
        assert server is not None
        store, lease = LeaseStore(server), Lease("r.example", LAYER, '{"token":"one"}')
        seen = []
        for sent in (None, 5, 70, None):
            assert await store.renew({lease: sent}) == [True]
            seen.append(await store.read(LAYER, "r.example"))
        assert [value.sent for value in seen if value is not None] == [None, 5, 70, 70]
        assert len({value.taken for value in seen if value is not None}) == 1
        assert await store.renew({Lease("r.example", LAYER, '{"token":"two"}'): 9}) == [False]
        await store.release([lease])
        assert await store.read(LAYER, "r.example") is None


def waiter_of(name: str, slots: Slots) -> Waiter:
    """Return a waiter with an upload slot."""
    return Waiter(
        layer=LAYER, dest=repo(name), size=SIZE, value=name, excluded=set(), patience=Patience(), slots=slots
    )


def test_another_process_that_does_not_get_on_is_not_waited_for() -> None:
    """A waiter uploads as soon as the lease of another process shows no progress; a new holder counts anew."""
    queues, waiter = LayerQueues(), waiter_of("a", Slots(9))
    queues.join(waiter)

    def answered(now: float, token: str) -> list[object]:
        (claim,), _ = queues.next_claims(now, None)
        return list(queues.apply_answer(claim, LeaseBusy("b", token=token, sent=1, size=SIZE), now, None))

    assert answered(0, "one") == [ReturnSlot(waiter)]
    assert answered(OWN_SECONDS - 1, "one") == [ReturnSlot(waiter)]
    assert answered(OWN_SECONDS - 0.5, "two") == [ReturnSlot(waiter)]
    assert answered(OWN_SECONDS + 1, "two") == [ReturnSlot(waiter)]
    assert StartUpload(waiter, leased=False) in answered(2 * OWN_SECONDS, "two")


async def test_the_next_waiter_of_this_process_takes_over() -> None:
    """If an upload of this process does not get on, the next waiter uploads; the first may still finish."""
    async with Fleet(MemoryMountIndex()) as fleet, asyncio.timeout(20):
        slots = Slots(4)
        first = await fleet.turn(LAYER, repo("a"), SIZE, slots=slots, stall_seconds=0.1)
        assert isinstance(first, UploadTurn)
        second = await fleet.turn(LAYER, repo("b"), SIZE, slots=slots, stall_seconds=0.1)
        assert isinstance(second, UploadTurn)
        await first.finish()
        await second.finish()
