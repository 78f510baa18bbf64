"""Whether an upload that others wait for gets on, and what becomes of its lease if it does not."""

import asyncio
import math
from collections.abc import Callable

import pytest

from crossmount.fleet import Fleet, Patience, Slots, UploadTurn
from crossmount.fleet.lease import (
    ALIVE_BYTES,
    OTHERS_SECONDS,
    OWN_SECONDS,
    USEFUL_RATE,
    LeasePace,
    LeaseValue,
    Pace,
    UploadProgress,
)
from crossmount.fleet.lease_store import Lease, LeaseStore
from crossmount.fleet.queues import LayerQueues
from crossmount.fleet.waiting import (
    HEARTBEAT_SECONDS,
    Claim,
    LeaseAcquired,
    LeaseBusy,
    ReturnSlot,
    StartUpload,
    Waiter,
)
from crossmount.index import MemoryMountIndex, open_index
from crossmount.index.protocol import backing_server
from support.fleets import LAYER, SIZE
from support.index_kit import repo
from support.places import Place
from support.waiting import PATIENCE

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
    """A waiter takes over the lease of another process that shows no progress; a new holder counts anew."""
    queues, waiter = LayerQueues(), waiter_of("a", Slots(9))
    queues.join(waiter)

    def answered(now: float, text: bytes) -> list[object]:
        (claim,), _ = queues.next_claims(now, None)
        if claim.instead_of == text:
            return list(queues.apply_answer(claim, LeaseAcquired(), now, None))
        return list(queues.apply_answer(claim, LeaseBusy("b", text=text, sent=1, size=SIZE), now, None))

    alone = SIZE / Patience().rate
    assert answered(0, b"one") == [ReturnSlot(waiter)]
    assert answered(alone - 1, b"one") == [ReturnSlot(waiter)]
    assert answered(alone - 0.5, b"two") == [ReturnSlot(waiter)]
    assert answered(alone + 1, b"two") == [ReturnSlot(waiter)]
    assert answered(2 * alone, b"two") == [ReturnSlot(waiter)]
    assert answered(2 * alone, b"two") == [StartUpload(waiter, leased=True)]


def stalls_at(
    shown: Callable[[int], tuple[str, int | None]], *, size: int = 2 * 10**6, waits_for_manifest: bool = False
) -> int | None:
    """Return after how many seconds a lease that shows this is given up; None if not within three minutes."""
    pace = LeasePace()
    for now in range(180):
        token, sent = shown(now)
        if pace.check(token.encode(), sent, size=size, now=now, rate=None, waits_for_manifest=waits_for_manifest):
            return now
    return None


SMALL_LAYER = 2 * 10**6

LIARS: dict[str, tuple[Callable[[int], tuple[str, int | None]], int]] = {
    "shows nothing": (lambda _: ("one", None), 5),
    "shows the same": (lambda _: ("one", 1000), 5),
    "a byte now and then": (lambda now: ("one", now), 5),
    "jumps to the end at once": (lambda _: ("one", SMALL_LAYER), 30),
    "more than there is": (lambda now: ("one", SMALL_LAYER * now), 32),
    "another holder each second": (lambda now: (str(now), 0), 10),
    "begins anew each second": (lambda now: ("one", 10**6 * (now % 2)), 25),
    "rises as slowly as is useful": (lambda now: ("one", 40_000 * now), 85),
}


@pytest.mark.parametrize("name", LIARS)
def test_a_lease_is_worth_what_its_holder_shows(name: str) -> None:
    """Whatever a lease shows whose upload never ends, it is given up after a bounded time."""
    shown, most = LIARS[name]
    ended = stalls_at(shown)
    assert ended is not None
    assert ended <= most


def test_a_slow_link_is_waited_for() -> None:
    """A holder that gets on, seen at each renewal, is waited for; so is a push that goes on until its manifest."""
    assert stalls_at(lambda now: ("one", now // 3 * 150_000), size=10**9) is None
    assert stalls_at(lambda now: ("one", SMALL_LAYER + now // 3 * ALIVE_BYTES), waits_for_manifest=True) is None
    assert (stalls_at(lambda _: ("one", None), size=10**10) or 0) >= OWN_SECONDS


@pytest.mark.parametrize("sent", [0, SMALL_LAYER, 10**17], ids=["nothing", "all", "more than all"])
def test_a_lease_that_says_that_it_waits_for_a_manifest_is_not_believed(sent: int) -> None:
    """A lease that shows the same at each renewal is given up, also if it says that all bytes are sent."""
    assert stalls_at(lambda _: ("one", sent), waits_for_manifest=True) == OTHERS_SECONDS


def test_an_upload_that_waits_for_its_manifest_shows_at_each_renewal_that_its_push_goes_on() -> None:
    """A lease whose blob is uploaded shows enough at each heartbeat that others wait for the manifest."""
    progress, pace = UploadProgress(SMALL_LAYER, seconds=1.0, clock=lambda: 0.0), LeasePace()
    progress.reach(SMALL_LAYER)
    assert progress.renewed() == SMALL_LAYER
    progress.complete()
    sent = progress.renewed()
    for now in range(600):
        if now % math.ceil(HEARTBEAT_SECONDS) == 0:
            sent = progress.renewed()
        assert not pace.check(b"one", sent, size=SMALL_LAYER, now=now, rate=None, waits_for_manifest=True)
    assert not progress.check_stalled()


async def test_the_next_waiter_of_this_process_takes_over() -> None:
    """If an upload of this process does not get on, the next waiter uploads; the first may still finish."""
    async with Fleet(MemoryMountIndex()) as fleet, asyncio.timeout(PATIENCE):
        slots = Slots(4)
        first = await fleet.turn(LAYER, repo("a"), SIZE, slots=slots, stall_seconds=0.1)
        assert isinstance(first, UploadTurn)
        second = await fleet.turn(LAYER, repo("b"), SIZE, slots=slots, stall_seconds=0.1)
        assert isinstance(second, UploadTurn)
        await first.finish()
        await second.finish()


async def test_a_stalled_lease_is_taken_over_by_one_waiter(any_place: Place) -> None:
    """Of two that take over the same lease one gets it, the other waits for that one; the first has lost it."""
    async with open_index(any_place.url) as index:
        server = backing_server(index)
        assert server is not None
        store, first = LeaseStore(server), Lease("r.example", LAYER, '{"token":"first"}')
        assert await store.renew({first: 5}) == [True]
        waiters = [waiter_of(name, Slots(9)) for name in ("a", "b")]
        claims = [Claim(waiter, take=True, instead_of=first.value.encode()) for waiter in waiters]
        one, other = (await store.claim(claims)).answers
        assert one == LeaseAcquired()
        assert isinstance(other, LeaseBusy)
        assert other.text == waiters[0].value.encode()
        assert await store.renew({first: 9}) == [False]
        await store.release([first])
        third = waiter_of("c", Slots(9))
        assert isinstance((await store.claim([Claim(third, take=True)])).answers[0], LeaseBusy)
        await store.release([Lease("r.example", LAYER, waiter.value) for waiter in waiters])


async def test_a_crowd_of_waiters_is_no_reason_to_wait(any_place: Place) -> None:
    """A layer with as many waiters as are listed, whoever wrote them, is granted and waited for as any other."""
    async with open_index(any_place.url) as index:
        server = backing_server(index)
        assert server is not None
        with any_place.client() as client:
            key = server.keys.waiters(LAYER, "r.example")
            client.zadd(key, {f"nobody {number}": 1e15 for number in range(1000)})
            client.expire(key, 600)
        store = LeaseStore(server)
        one, other = (waiter_of(name, Slots(9)) for name in ("a", "b"))
        assert (await store.claim([Claim(one, take=True)])).answers == [LeaseAcquired()]
        assert isinstance((await store.claim([Claim(other, take=True)])).answers[0], LeaseBusy)
        await store.release([Lease("r.example", LAYER, waiter.value) for waiter in (one, other)])


@pytest.mark.parametrize("text", [b"", b"\n1", b"\xff"])
async def test_a_stalled_lease_without_a_holder_is_taken_over(any_place: Place, text: bytes) -> None:
    """Whatever a stranger writes in place of a lease, a waiter takes it over once it shows no progress."""
    async with open_index(any_place.url) as index:
        server = backing_server(index)
        assert server is not None
        with any_place.client() as client:
            client.set(server.keys.lease(LAYER, "r.example"), text, ex=600)
        store, queues, waiter = LeaseStore(server), LayerQueues(), waiter_of("a", Slots(9))
        queues.join(waiter)
        for now in (0, 30):
            claims, _ = queues.next_claims(now, None)
            (answer,) = (await store.claim(claims)).answers
            queues.apply_answer(claims[0], answer, now, None)
        claims, _ = queues.next_claims(31, None)
        assert (await store.claim(claims)).answers == [LeaseAcquired()]
        await store.release([Lease("r.example", LAYER, waiter.value)])


async def test_a_holder_whose_text_begins_as_a_stalled_one_keeps_its_lease(any_place: Place) -> None:
    """A waiter takes over the lease that it saw, and none that came meanwhile and begins alike."""
    async with open_index(any_place.url) as index:
        server = backing_server(index)
        assert server is not None
        store, holder = LeaseStore(server), Lease("r.example", LAYER, '{"token":"first"}')
        assert await store.renew({holder: 5}) == [True]
        claim = Claim(waiter_of("a", Slots(9)), take=True, instead_of=b'{"token"')
        assert isinstance((await store.claim([claim])).answers[0], LeaseBusy)
        await store.release([holder])
