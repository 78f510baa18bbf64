"""Turns among fleets on a real server: processes killed and stopped, servers lost, strangers, cancellations."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from crossmount.fleet import Fleet, Mount, Patience, Slots, Turn, Upload
from crossmount.fleet.lease import LeaseValue
from crossmount.fleet.leases import Lease, Leases
from crossmount.fleet.listing import Underway, underway
from crossmount.index import Keys, MemoryMountIndex, NullIndex, RedisMountIndex, Sighting, open_index
from crossmount.index.served import server_of
from crossmount.oci import Digest, Repository
from support.places import Place
from support.servers import Server
from support.waiting import until

LAYER = Digest.of(b"a layer")
SIZE = 10_000_000
LIFE, HEARTBEAT = 1.0, 0.2

HOLDER = """
import asyncio, sys
from crossmount.asyncio import Digest, Fleet, Repository, open_index
from crossmount.fleet import Slots

async def main():
    url, layer, dest, life, heartbeat = sys.argv[1:]
    async with open_index(url) as index, Fleet(index, life=float(life), heartbeat=float(heartbeat)) as fleet:
        turn = await fleet.turn(Digest(layer), Repository.parse(dest), 10_000_000, slots=Slots(1))
        print(type(turn).__name__, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await turn.publish()
        await turn.release()
        print("finished", flush=True)

asyncio.run(main())
"""


def repo(name: str) -> Repository:
    """Return a repository."""
    return Repository.parse(f"r.example/{name}")


async def turn_of(fleet: Fleet, name: str, *, slots: Slots | None = None, **options: Any) -> Turn:
    """Ask for the turn of LAYER."""
    return await fleet.turn(LAYER, repo(name), SIZE, slots=slots or Slots(1), **options)


async def upload_of(fleet: Fleet, name: str, **options: Any) -> Upload:
    """Ask for a turn that must be an upload."""
    turn = await turn_of(fleet, name, **options)
    assert isinstance(turn, Upload)
    return turn


@asynccontextmanager
async def fleet_on(server: Place, *, life: float = LIFE) -> AsyncIterator[Fleet]:
    """A runner of its own: its own connections, its own fleet."""
    async with open_index(server.url) as index, Fleet(index, life=life, heartbeat=HEARTBEAT) as fleet:
        yield fleet


@asynccontextmanager
async def holder(server: Place, name: str) -> AsyncIterator[Process]:
    """Run a process that holds the lease of LAYER; a line on its standard input lets it publish and end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, server.url, LAYER, str(repo(name)), str(LIFE), str(HEARTBEAT)),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"Upload\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def waiting_on(server: Place) -> int:
    """Return how many are shown as waiting."""
    with server.client() as client:
        count = client.zcard(Keys().waiters(LAYER, "r.example"))
        assert isinstance(count, int)
        return count


async def listed(server: Place) -> list[Underway]:
    """List what is underway, as one who may look at all keys."""
    async with open_index(server.operator_url) as index:
        found = server_of(index)
        assert found is not None
        return await underway(found)


async def test_one_uploads_and_the_others_mount(any_place: Place) -> None:
    """The first takes the lease; the others wait without a slot, and mount when it is published."""
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
        assert isinstance(mount, Mount)
        assert mount.sources == {repo("a")}
        assert mount.waited > 0
    with any_place.client() as client:
        assert not list(client.scan_iter("*:lease:*"))


async def test_a_holder_that_fails_says_so(any_place: Place) -> None:
    """Released without being published, the next takes over long before the lease would have run out."""
    async with fleet_on(any_place, life=3600) as first, fleet_on(any_place, life=3600) as second:
        turn = await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(any_place) == 1)
        await turn.release()
        assert isinstance(await waiter, Upload)


async def test_kill_9_of_the_holder(any_place: Place) -> None:
    """The lease of a process that is no more runs out, and the next one takes over."""
    async with holder(any_place, "a") as process, fleet_on(any_place) as fleet:
        waiter = asyncio.create_task(turn_of(fleet, "b"))
        await until(lambda: waiting_on(any_place) == 1)
        process.kill()
        turn = await waiter
        assert isinstance(turn, Upload)
        assert turn.waited > 0


async def test_a_holder_paused_past_its_lease_finishes_harmlessly(any_place: Place) -> None:
    """Stopped for longer than its lease another takes over; going on it ends well, and the other's lease stays."""
    async with holder(any_place, "a") as process, fleet_on(any_place) as fleet:
        process.send_signal(signal.SIGSTOP)
        turn = await upload_of(fleet, "b")
        with any_place.client() as client:
            ours = client.get(Keys().lease(LAYER, "r.example"))
            process.send_signal(signal.SIGCONT)
            out, _ = await process.communicate(b"\n")
            assert out == b"finished\n"
            assert client.get(Keys().lease(LAYER, "r.example")) == ours
        await turn.publish()
        await turn.release()
        async with open_index(any_place.url) as index:
            assert await index.sources(LAYER, repo("c")) == (repo("a"), repo("b"))


async def test_a_healthy_holder_keeps_its_lease(any_place: Place) -> None:
    """The heartbeat carries a lease far past its life, whatever the upload's own task does."""
    async with fleet_on(any_place, life=0.5) as first, fleet_on(any_place) as second:
        turn = await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b"))
        done, _ = await asyncio.wait([waiter], timeout=1.5)  # three lives
        assert not done
        await turn.publish()
        assert isinstance(await waiter, Mount)


async def test_a_server_that_restarts_empty_gets_the_lease_back(valkey: Server) -> None:
    """The holder writes its lease again, and who waited goes on waiting: nothing is uploaded twice."""
    async with fleet_on(valkey, life=30) as first, fleet_on(valkey) as second:
        turn = await upload_of(first, "a")
        valkey.restart()
        with valkey.client() as client:
            await until(lambda: bool(client.exists(Keys().lease(LAYER, "r.example"))))
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(valkey) == 1)
        await turn.publish()
        assert isinstance(await waiter, Mount)


async def test_a_server_that_goes_lets_everybody_upload(valkey: Server) -> None:
    """Who waits for an upload that nobody can tell of any more uploads."""
    async with fleet_on(valkey) as first, fleet_on(valkey) as second:
        turn = await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(valkey) == 1)
        valkey.stop()
        assert isinstance(await waiter, Upload)
        await turn.publish()
        await turn.release()


@pytest.fixture
def full(redis_server: Server) -> Iterator[Callable[[], None]]:
    """Call it to leave a server without memory for anything new."""
    with redis_server.client() as client:
        yield lambda: client.config_set("maxmemory", 1)
        client.config_set("maxmemory", 0)


@pytest.mark.parametrize("after", [False, True])
async def test_a_full_server_lets_everybody_upload(
    redis_server: Server, full: Callable[[], None], *, after: bool
) -> None:
    """Where no source can be recorded nobody waits for one, whether the server was full before or is since."""
    async with fleet_on(redis_server, life=3600) as first, fleet_on(redis_server) as second:
        if not after:
            full()
        turn = await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b", patience=Patience(limit=3600, least=3600)))
        if after:
            await until(lambda: waiting_on(redis_server) == 1)
            full()
        assert isinstance(await waiter, Upload)
        await turn.publish()
        await turn.release()


async def test_a_lease_that_could_not_be_released_is_released_in_the_end(valkey: Server) -> None:
    """A server that was silent when an upload ended, and answers when its push does, keeps nobody waiting."""
    async with fleet_on(valkey, life=3600) as second:
        async with fleet_on(valkey, life=3600) as first:
            turn = await upload_of(first, "a")
            valkey.pause()
            await turn.publish()
            await turn.release()
            valkey.resume()
        patient = Patience(limit=3600, least=3600)
        await upload_of(second, "b", patience=patient)


async def test_a_lease_that_could_not_be_released_is_released_by_a_heartbeat(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that goes on after a silence makes good what it could not release meanwhile."""
    monkeypatch.setattr("crossmount.index.guard.OPEN_SECONDS", 0.1)
    async with fleet_on(valkey, life=3600) as first, fleet_on(valkey, life=3600) as second:
        turn = await upload_of(first, "a")
        valkey.pause()
        await turn.publish()
        await turn.release()
        valkey.resume()
        patient = Patience(limit=3600, least=3600)
        await upload_of(second, "b", patience=patient)


async def test_without_a_server_from_the_start(unused_tcp_port: int) -> None:
    """A server that never was costs one question, and then everybody in this process shares one attempt."""
    async with open_index(f"redis://127.0.0.1:{unused_tcp_port}/0") as index, Fleet(index) as fleet:
        turn = await upload_of(fleet, "a")
        waiter = asyncio.create_task(turn_of(fleet, "b"))
        await asyncio.sleep(0)
        await turn.publish()
        assert (await waiter) == Mount(sources=frozenset({repo("a")}), waited=0.0)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff" * 10_000,
        b"null",
        b"[" * 5000,
        LeaseValue(token="t", holder="h", dest=None, size=1, since=0).to_text().encode(),
    ],
)
async def test_nobody_is_held_hostage(any_place: Place, value: bytes) -> None:
    """A lease that never ends, whatever is in it, is waited for as long as one's own patience, and no longer."""
    with any_place.client() as client:
        client.set(Keys().lease(LAYER, "r.example"), value, ex=365 * 86400)
        async with fleet_on(any_place) as fleet:
            turn = await upload_of(fleet, "b", patience=Patience(limit=0.4, least=0.4))
            assert turn.waited >= 0.3
            await turn.publish()
            await turn.release()
        assert client.get(Keys().lease(LAYER, "r.example")) == value  # not ours to delete


async def test_keys_of_another_type_are_no_reason_to_wait(any_place: Place) -> None:
    """A stranger's list under the lease's name, or under the sources', makes the upload a plain one."""
    with any_place.client() as client:
        for key in (Keys().lease(LAYER, "r.example"), Keys().sources(LAYER, "r.example")):
            client.flushall()
            client.rpush(key, "x")
            async with fleet_on(any_place) as fleet:
                await upload_of(fleet, "b")
        client.flushall()


async def test_hostile_members_are_no_sources(any_place: Place) -> None:
    """What is no repository's name is left out, and the lease is taken."""
    with any_place.client() as client:
        client.sadd(Keys().sources(LAYER, "r.example"), b"../../etc", b"\xff\xfe", b"UPPER")
        client.expire(Keys().sources(LAYER, "r.example"), 60)
    async with fleet_on(any_place) as fleet:
        await upload_of(fleet, "b")


async def test_sources_that_were_tried_are_no_reason_to_mount(any_place: Place) -> None:
    """A source that did not serve, and dest itself when the index was wrong about it, leave the lease to us."""
    async with open_index(any_place.url) as index, Fleet(index) as fleet:
        await index.record([Sighting(LAYER, repo("dead")), Sighting(LAYER, repo("b"))])
        await upload_of(fleet, "b", useless={repo("dead"), repo("b")})


async def test_tasks_of_one_process_share_one_attempt_without_any_server() -> None:
    """With one fleet for the process, and nobody to ask, a second task waits and mounts."""
    for index in (NullIndex(), MemoryMountIndex()):
        async with Fleet(index) as fleet:
            turn = await upload_of(fleet, "a")
            waiters = [asyncio.create_task(turn_of(fleet, name)) for name in ("b", "c")]
            await asyncio.sleep(0.3)
            assert not any(waiter.done() for waiter in waiters)
            await turn.publish()
            await turn.release()
            for waiter in waiters:
                mount = await waiter
                assert isinstance(mount, Mount)
                assert mount.sources == {repo("a")}


async def test_a_late_task_finds_what_an_index_in_memory_learnt() -> None:
    """One that comes after the leader's end mounts as well: the index is asked where there is no server."""
    async with Fleet(MemoryMountIndex()) as fleet:
        turn = await upload_of(fleet, "a")
        await turn.publish()
        await turn.release()
        assert isinstance(await turn_of(fleet, "b"), Mount)
        assert isinstance(await turn_of(fleet, "a"), Mount)  # dest itself holds it: its caller asks the registry


async def test_a_cancelled_leader_hands_over(any_place: Place) -> None:
    """Cancelled before or after its turn came, a task gives it to the next one, and its slot back."""
    async with fleet_on(any_place, life=3600) as fleet:
        slots = Slots(1)
        for settle in (0.0, 0.5):
            leader = asyncio.create_task(turn_of(fleet, "a", slots=slots))
            await asyncio.sleep(0)
            follower = asyncio.create_task(turn_of(fleet, "b"))
            if settle:  # its turn is decided, and it has not seen it yet
                await until(lambda: bool(fleet._heart.held))
                if leader.done():
                    await (await upload_from(leader)).release()
                    slots.give_back()
            leader.cancel()
            turn = await upload_from(follower)
            await turn.release()
            assert slots.take_now()
            slots.put_back()
            await asyncio.gather(leader, return_exceptions=True)


async def upload_from(task: "asyncio.Task[Turn]") -> Upload:
    """Return the upload that a task waited for."""
    turn = await task
    assert isinstance(turn, Upload)
    return turn


async def test_a_waiter_that_is_cancelled_is_not_shown_any_more(any_place: Place) -> None:
    """Nobody is listed as waiting who left."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(any_place) == 1)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert waiting_on(any_place) == 0


async def test_an_image_asks_in_one_round_trip(any_place: Place) -> None:
    """Layers that come at once are claimed in one pipeline."""
    async with open_index(any_place.url) as index:
        assert isinstance(index, RedisMountIndex)
        runs: list[int] = []
        link_run = index.link.run

        async def run(commands: Any) -> list[Any]:
            runs.append(len(commands))
            return await link_run(commands)

        index.link.run = run  # type: ignore[method-assign]  # what is run is what is tested
        async with Fleet(index) as fleet:
            slots = Slots(20)
            turns = await asyncio.gather(
                *(fleet.turn(Digest.of(b"%d" % i), repo("a"), SIZE, slots=slots) for i in range(20))
            )
            assert all(isinstance(turn, Upload) for turn in turns)
            assert runs[0] == 20
            assert len(runs) <= 2  # the scripts had to be loaded


async def test_without_a_slot_a_lease_is_not_taken(any_place: Place) -> None:
    """A push that could not upload now leaves the lease to one that can."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        full = Slots(1, freed=first.kick)
        await full.__aenter__()
        waiter = asyncio.create_task(turn_of(first, "a", slots=full))
        await asyncio.sleep(0.3)
        turn = await upload_of(second, "b")
        await turn.release()
        full.give_back()
        assert isinstance(await waiter, Upload)


async def test_the_listing_shows_who_uploads_and_who_waits(any_place: Place) -> None:
    """Holder, size, since when, and the waiters; a stranger's lease without end is told apart."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        await upload_of(first, "a", publishes="manifest")
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(any_place) == 1)
        (found,) = await listed(any_place)
        assert (found.layer, found.registry) == (LAYER, "r.example")
        assert (found.holder.dest, found.holder.size, found.holder.publishes) == (repo("a"), SIZE, "manifest")
        assert [each.dest for each in found.waiting] == [repo("b")]
        assert found.left is not None
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    with any_place.client() as client:
        client.set(Keys().lease(LAYER, "r.example"), b"\xff no lease")
        client.set(Keys().lease(LAYER, "r.example").replace("r.example", "NOT A HOST"), b"{}", ex=60)
        (found,) = await listed(any_place)
        assert (found.left, found.holder.holder, found.holder.dest) == (None, "", None)
        client.flushall()


async def test_a_thousand_leases_are_listed(any_place: Place) -> None:
    """However many there are, they are read in a few round trips."""
    async with open_index(any_place.url) as index:
        server = server_of(index)
        assert server is not None
        leases = [Lease("r.example", Digest.of(b"%d" % i), "{}") for i in range(1000)]
        assert await Leases(server).renew(leases) == [True] * 1000
        assert len(await listed(any_place)) == 1000
        await Leases(server).release(leases)
        assert await listed(any_place) == []


def test_a_value_that_a_stranger_wrote_is_read_as_far_as_it_makes_sense() -> None:
    """What has a wrong type, is too long or is no repository is left out."""
    text = b'{"token":1,"holder":"h\\u0007ost","dest":"../x","size":-1,"since":1e400,"publishes":"never"}'
    value = LeaseValue.from_text(text, "r.example")
    assert value == LeaseValue(token="", holder="host", dest=None, size=0, since=0)
    good = LeaseValue(token="t", holder="h:1", dest=repo("a"), size=3, since=1.5, publishes="manifest")
    assert LeaseValue.from_text(good.to_text().encode(), "r.example") == good


async def test_who_only_looks_is_told_where_to_mount_from(any_place: Place) -> None:
    """A look at nobody's upload ends at once; at another's it lasts until the layer is published."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        assert await second.uploader(LAYER, "r.example") is None
        assert await second.watch(LAYER, repo("b"), seconds=60) is None
        turn = await upload_of(first, "a")
        assert await first.uploader(LAYER, "r.example") == repo("a")
        assert await second.uploader(LAYER, "r.example") == repo("a")
        looks = [asyncio.create_task(fleet.watch(LAYER, repo("b"), seconds=60)) for fleet in (first, second)]
        await until(lambda: waiting_on(any_place) == 1)
        await turn.publish()
        for look in looks:
            mount = await look
            assert mount is not None
            assert mount.sources == {repo("a")}
        await turn.release()


async def test_a_look_ends_in_time(any_place: Place) -> None:
    """A stranger's lease without end is looked at for as long as was asked for; what it says is checked."""
    async with fleet_on(any_place) as fleet:
        with any_place.client() as client:
            for value in (b"x", LeaseValue(token="t", holder="h", dest=None, size=1, since=0).to_text()):
                client.set(Keys().lease(LAYER, "r.example"), value)
                assert await fleet.uploader(LAYER, "r.example") is None
            assert await fleet.watch(LAYER, repo("b"), seconds=0.3) is None
            client.delete(Keys().lease(LAYER, "r.example"))
            client.rpush(Keys().lease(LAYER, "r.example"), "another type")
            assert await fleet.uploader(LAYER, "r.example") is None
            client.flushall()


async def test_a_lease_says_when_it_was_taken_and_who_waits_says_so_too(any_place: Place) -> None:
    """After a takeover it counts from the takeover; of one process all who wait are listed, not only who asks."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        turn = await upload_of(first, "a")
        waits = [asyncio.create_task(turn_of(second, name)) for name in ("b", "c", "d")]
        await until(lambda: waiting_on(any_place) == 3)
        ours = asyncio.create_task(turn_of(first, "e"))
        await until(lambda: waiting_on(any_place) == 4)
        async with open_index(any_place.operator_url) as looking:
            server = server_of(looking)
            assert server is not None
            (found,) = await underway(server)
        assert found.holder.taken is not None
        assert {each.dest for each in found.waiting} == {repo(name) for name in "bcde"}
        assert all(each.taken is None for each in found.waiting)
        await turn.publish()
        await turn.release()
        await asyncio.gather(*waits, ours)
