"""Turns of several fleets, and of tasks of one fleet: one uploads, the others mount, the next one takes over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crossmount.fleet import Fleet, MountTurn, Slots, Turn, UploadTurn
from crossmount.fleet.poller import Environment
from crossmount.index import MemoryMountIndex, RedisMountIndex, Sighting, null_index, open_index
from crossmount.oci import Digest
from support.fleets import LAYER, SIZE, fleet_on, turn_of, upload_of, waiting_on
from support.index_kit import CountingLink, repo
from support.places import Place
from support.waiting import until


class CountedClock:
    """A clock that does not move and counts its reads: each poll reads it."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> float:
        """Return the time."""
        self.reads += 1
        return 0.0

    async def read(self, times: int) -> None:
        """Wait for so many more reads."""
        enough = self.reads + times
        await until(lambda: self.reads >= enough)


@asynccontextmanager
async def counted_fleet_on(server: Place) -> AsyncIterator[tuple[Fleet, CountingLink]]:
    """A runner whose round trips are counted."""
    async with open_index(server.url) as opened:
        assert isinstance(opened, RedisMountIndex)
        link = CountingLink(opened.link)
        async with Fleet(RedisMountIndex(link)) as fleet:
            yield fleet, link


async def test_one_uploads_and_the_others_mount(any_place: Place) -> None:
    """The first takes the lease; the others wait without a slot, and mount when the layer is published."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        turn = await upload_of(first, "a")
        slots = Slots(1)
        waiter = asyncio.create_task(turn_of(second, "b", slots=slots))
        await until(lambda: waiting_on(any_place) == 1)
        async with slots:  # the waiter holds none
            assert not waiter.done()
        await turn.publish()
        await turn.release()
        mount = await waiter
        assert isinstance(mount, MountTurn)
        assert mount.sources == {repo("a")}
        assert mount.waited > 0
    with any_place.client() as client:
        assert not list(client.scan_iter("*:lease:*"))


async def test_after_a_failed_upload_the_next_one_takes_over(any_place: Place) -> None:
    """After a release without a publication the next waiter takes over before the lease would have expired."""
    async with fleet_on(any_place, life=3600) as first, fleet_on(any_place, life=3600) as second:
        turn = await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(any_place) == 1)
        await turn.release()
        assert isinstance(await waiter, UploadTurn)


async def test_a_healthy_holder_keeps_its_lease(any_place: Place) -> None:
    """The heartbeat renews a lease beyond its life while the upload's own task does nothing."""
    life = 1.0
    async with fleet_on(any_place, life=life) as first, fleet_on(any_place) as second:
        turn = await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b"))
        done, _ = await asyncio.wait([waiter], timeout=1.5 * life)
        assert not done
        await turn.publish()
        assert isinstance(await waiter, MountTurn)


async def test_sources_that_were_tried_are_no_reason_to_mount(any_place: Place) -> None:
    """Excluded sources, and dest itself, do not keep a push from the lease."""
    async with open_index(any_place.url) as index, Fleet(index) as fleet:
        await index.record([Sighting(LAYER, repo("dead")), Sighting(LAYER, repo("b"))])
        await upload_of(fleet, "b", excluded={repo("dead"), repo("b")})


async def test_tasks_of_one_process_share_one_upload_without_a_server() -> None:
    """With one fleet and no server, a second task waits and mounts."""
    for index in (null_index(), MemoryMountIndex()):
        clock = CountedClock()
        async with Fleet(index, environment=Environment(clock=clock)) as fleet:
            turn = await upload_of(fleet, "a")
            waiters = [asyncio.create_task(turn_of(fleet, name)) for name in ("b", "c")]
            await clock.read(8)  # some polls, of two looks each
            assert not any(waiter.done() for waiter in waiters)
            await turn.publish()
            await turn.release()
            for waiter in waiters:
                mount = await waiter
                assert isinstance(mount, MountTurn)
                assert mount.sources == {repo("a")}


async def test_a_late_task_mounts_from_an_index_in_memory() -> None:
    """A task that starts after the upload mounts as well: without a server the index is asked."""
    async with Fleet(MemoryMountIndex()) as fleet:
        turn = await upload_of(fleet, "a")
        await turn.publish()
        await turn.release()
        assert isinstance(await turn_of(fleet, "b"), MountTurn)
        assert isinstance(
            await turn_of(fleet, "a"), MountTurn
        )  # dest itself holds it: its caller asks the registry


async def test_a_cancelled_leader_hands_over(any_place: Place) -> None:
    """A task that is cancelled before or after its turn passes the turn on, and returns its slot."""
    async with fleet_on(any_place, life=3600) as fleet:
        slots = Slots(1)
        for settle in (0.0, 0.5):
            leader = asyncio.create_task(turn_of(fleet, "a", slots=slots))
            await asyncio.sleep(0)
            follower = asyncio.create_task(turn_of(fleet, "b"))
            if settle:  # its turn is decided, and it has not seen it yet
                await until(lambda: bool(fleet._keeper.held))
                if leader.done():
                    await (await upload_from(leader)).release()
                    slots.release()
            leader.cancel()
            turn = await upload_from(follower)
            await turn.release()
            assert slots.try_acquire()
            slots.return_unused()
            await asyncio.gather(leader, return_exceptions=True)


async def upload_from(task: "asyncio.Task[Turn]") -> UploadTurn:
    """Return the upload turn that a task waited for."""
    turn = await task
    assert isinstance(turn, UploadTurn)
    return turn


async def test_an_image_asks_in_one_round_trip(any_place: Place) -> None:
    """Concurrent layers are claimed in one pipeline."""
    async with counted_fleet_on(any_place) as (fleet, link):
        slots = Slots(20)
        turns = await asyncio.gather(
            *(fleet.turn(Digest.of(b"%d" % i), repo("a"), SIZE, slots=slots) for i in range(20))
        )
        assert all(isinstance(turn, UploadTurn) for turn in turns)
        assert len(link.runs[0]) == 20
        assert len(link.runs) <= 2  # the scripts had to be loaded


async def test_without_a_slot_a_lease_is_not_taken(any_place: Place) -> None:
    """A push that cannot upload now leaves the lease to another that can."""
    async with counted_fleet_on(any_place) as (first, link), fleet_on(any_place) as second:
        full = Slots(1, on_release=first.wake)
        await full.__aenter__()
        waiter = asyncio.create_task(turn_of(first, "a", slots=full))
        await until(lambda: len(link.runs) > 2)  # it has asked: two may have been needed to load the script
        turn = await upload_of(second, "b")
        await turn.release()
        full.release()
        assert isinstance(await waiter, UploadTurn)
