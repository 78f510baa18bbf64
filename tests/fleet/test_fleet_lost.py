"""Holders and servers that fail while others wait: killed, stopped, empty, full, silent."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from crossmount.fleet import Fleet, MountTurn, Patience, UploadTurn
from crossmount.index import Keys, open_index
from support.fleets import HEARTBEAT, LAYER, LIFE, fleet_on, turn_of, upload_of, waiting_on
from support.index_kit import repo
from support.places import Place
from support.servers import Server
from support.waiting import until

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


@asynccontextmanager
async def holder(server: Place, name: str) -> AsyncIterator[Process]:
    """Run a process that holds the lease of LAYER; a line on its standard input makes it publish and end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, server.url, LAYER, str(repo(name)), str(LIFE), str(HEARTBEAT)),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"UploadTurn\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_kill_9_of_the_holder(any_place: Place) -> None:
    """The lease of a killed process expires, and the next waiter takes over."""
    async with holder(any_place, "a") as process, fleet_on(any_place) as fleet:
        waiter = asyncio.create_task(turn_of(fleet, "b"))
        await until(lambda: waiting_on(any_place) == 1)
        process.kill()
        turn = await waiter
        assert isinstance(turn, UploadTurn)
        assert turn.waited > 0


async def test_a_holder_paused_past_its_lease_finishes_harmlessly(any_place: Place) -> None:
    """A holder that was stopped for longer than its lease finishes, and leaves the new holder's lease alone."""
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


async def test_a_server_that_restarts_empty_gets_the_lease_back(valkey: Server) -> None:
    """After a restart the holder writes its lease again, waiters keep waiting, and nothing is uploaded twice."""
    async with fleet_on(valkey, life=30) as first, fleet_on(valkey) as second:
        turn = await upload_of(first, "a")
        valkey.restart()
        with valkey.client() as client:
            await until(lambda: bool(client.exists(Keys().lease(LAYER, "r.example"))))
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(valkey) == 1)
        await turn.publish()
        assert isinstance(await waiter, MountTurn)


async def test_without_a_server_every_process_uploads(valkey: Server) -> None:
    """When the server fails, waiters for uploads of other processes upload themselves."""
    async with fleet_on(valkey) as first, fleet_on(valkey) as second:
        turn = await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(valkey) == 1)
        valkey.stop()
        assert isinstance(await waiter, UploadTurn)
        await turn.publish()
        await turn.release()


@pytest.fixture
def full(redis_server: Server) -> Iterator[Callable[[], None]]:
    """Return a function that fills the memory of a server."""
    with redis_server.client() as client:
        yield lambda: client.config_set("maxmemory", 1)
        client.config_set("maxmemory", 0)


@pytest.mark.parametrize("after", [False, True])
async def test_a_full_server_lets_everybody_upload(
    redis_server: Server, full: Callable[[], None], *, after: bool
) -> None:
    """On a server that is full, or becomes full, nobody waits for a source that cannot be recorded."""
    async with fleet_on(redis_server, life=3600) as first, fleet_on(redis_server) as second:
        if not after:
            full()
        turn = await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b", patience=Patience(limit=3600, least=3600)))
        if after:
            await until(lambda: waiting_on(redis_server) == 1)
            full()
        assert isinstance(await waiter, UploadTurn)
        await turn.publish()
        await turn.release()


async def test_a_lease_that_could_not_be_released_is_released_in_the_end(valkey: Server) -> None:
    """A lease that a silent server could not release is released at the end of the push."""
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
    """A lease that a silent server could not release is released by the next heartbeat."""
    monkeypatch.setattr("crossmount.index.guarded_calls.OPEN_SECONDS", 0.1)
    async with fleet_on(valkey, life=3600) as first, fleet_on(valkey, life=3600) as second:
        turn = await upload_of(first, "a")
        valkey.pause()
        await turn.publish()
        await turn.release()
        valkey.resume()
        patient = Patience(limit=3600, least=3600)
        await upload_of(second, "b", patience=patient)


async def test_without_a_server_from_the_start(closed_port: int) -> None:
    """A server that never answers costs one call; then all tasks of this process share one upload."""
    async with open_index(f"redis://127.0.0.1:{closed_port}/0") as index, Fleet(index) as fleet:
        turn = await upload_of(fleet, "a")
        waiter = asyncio.create_task(turn_of(fleet, "b"))
        await asyncio.sleep(0)
        await turn.publish()
        assert (await waiter) == MountTurn(sources=frozenset({repo("a")}), waited=0.0)
