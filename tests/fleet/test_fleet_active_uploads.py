"""Watchers, which mount and never upload; and the list of uploads and waiters."""

import asyncio
from typing import Any

import pytest

from crossmount.fleet.active_uploads import ActiveUpload, active_uploads
from crossmount.fleet.lease import LeaseValue
from crossmount.fleet.lease_store import Lease, LeaseStore
from crossmount.index import Keys, open_index
from crossmount.index.protocol import backing_server
from crossmount.oci import Digest
from support.fleets import LAYER, SIZE, fleet_on, turn_of, upload_of, waiting_on
from support.index_kit import repo
from support.places import Place
from support.waiting import until


async def listed(server: Place) -> list[ActiveUpload]:
    """List the active uploads, as an operator."""
    async with open_index(server.operator_url) as index:
        found = backing_server(index)
        assert found is not None
        return await active_uploads(found)


async def test_the_list_shows_uploads_and_waiters(any_place: Place) -> None:
    """The list shows holder, size, start and waiters, and marks a lease that never expires."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        await upload_of(first, "a", publishes="manifest")
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(any_place) == 1)
        (found,) = await listed(any_place)
        assert (found.layer, found.registry) == (LAYER, "r.example")
        assert (found.holder.dest, found.holder.size, found.holder.publishes) == (repo("a"), SIZE, "manifest")
        assert [each.dest for each in found.waiting] == [repo("b")]
        assert found.seconds_left is not None
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    with any_place.client() as client:
        client.set(Keys().lease(LAYER, "r.example"), b"\xff no lease")
        client.set(Keys().lease(LAYER, "r.example").replace("r.example", "NOT A HOST"), b"{}", ex=60)
        (found,) = await listed(any_place)
        assert (found.seconds_left, found.holder.holder, found.holder.dest) == (None, "", None)
        client.flushall()


async def test_a_thousand_leases_are_listed(any_place: Place) -> None:
    """A thousand leases are read in a few round trips."""
    async with open_index(any_place.url) as index:
        server = backing_server(index)
        assert server is not None
        leases = [Lease("r.example", Digest.of(b"%d" % i), "{}") for i in range(1000)]
        assert await LeaseStore(server).renew(dict.fromkeys(leases)) == [True] * 1000
        assert len(await listed(any_place)) == 1000
        await LeaseStore(server).release(leases)
        assert await listed(any_place) == []


async def test_the_list_shows_the_time_of_a_lease_and_all_waiters(any_place: Place) -> None:
    """The time of a lease starts at a takeover, and all waiters of a process are listed."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        turn = await upload_of(first, "a")
        waits = [asyncio.create_task(turn_of(second, name)) for name in ("b", "c", "d")]
        await until(lambda: waiting_on(any_place) == 3)
        ours = asyncio.create_task(turn_of(first, "e"))
        await until(lambda: waiting_on(any_place) == 4)
        (found,) = await listed(any_place)
        assert found.holder.taken is not None
        assert {each.dest for each in found.waiting} == {repo(name) for name in "bcde"}
        assert all(each.taken is None for each in found.waiting)
        await turn.publish()
        await turn.release()
        await asyncio.gather(*waits, ours)


@pytest.mark.parametrize("question", ["claim", "show_waiters"])
async def test_a_waiter_that_is_cancelled_during_a_call_is_not_listed(
    valkey: Place, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """A waiter that leaves while the call that lists it is in flight is removed from the list."""
    async with fleet_on(valkey) as first, fleet_on(valkey) as second:
        await upload_of(first, "a")
        asking, left = asyncio.Event(), asyncio.Event()
        ask = getattr(second._gateway, question)

        async def late(*asked: Any) -> Any:
            asking.set()
            await left.wait()
            return await ask(*asked)

        monkeypatch.setattr(second._gateway, question, late)
        waiter = asyncio.create_task(turn_of(second, "b"))
        await asking.wait()
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        left.set()
        assert second._poller.task is not None
        await second._poller.task
        assert waiting_on(valkey) == 0


async def test_a_cancelled_waiter_is_not_listed(any_place: Place) -> None:
    """A cancelled waiter is removed from the list."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        await upload_of(first, "a")
        waiter = asyncio.create_task(turn_of(second, "b"))
        await until(lambda: waiting_on(any_place) == 1)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        await until(lambda: waiting_on(any_place) == 0)


async def test_a_watcher_gets_the_sources_to_mount_from(any_place: Place) -> None:
    """A watcher returns at once if nobody uploads, and otherwise when the layer is published."""
    async with fleet_on(any_place) as first, fleet_on(any_place) as second:
        assert await second.uploader(LAYER, "r.example") is None
        assert await second.watch(LAYER, repo("b"), seconds=60) is None
        turn = await upload_of(first, "a")
        assert await first.uploader(LAYER, "r.example") == repo("a")
        assert await second.uploader(LAYER, "r.example") == repo("a")
        watch_only = [asyncio.create_task(fleet.watch(LAYER, repo("b"), seconds=60)) for fleet in (first, second)]
        await until(lambda: waiting_on(any_place) == 1)
        await turn.publish()
        for look in watch_only:
            mount = await look
            assert mount is not None
            assert mount.sources == {repo("a")}
        await turn.release()


async def test_a_watch_ends_in_time(any_place: Place) -> None:
    """A watcher behind a lease that never expires returns after the requested time."""
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
