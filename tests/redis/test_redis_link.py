"""Calls over one link: cancelled, more than connections, from several event loops, to a fake server."""

import asyncio

import fakeredis
import pytest

from crossmount._blocking import run_now
from crossmount.redis.replies import Command
from support.links import async_link, blocking_link_to
from support.servers import Server

PING: list[Command] = [("PING",)]


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_call_leaves_no_reply_behind(valkey: Server, turns: int) -> None:
    """A call that is cancelled at any moment ends at once, and the next call gets its own reply."""
    link = async_link(valkey.unix_url)
    await link.run(PING)
    call = asyncio.create_task(link.run([("BLPOP", "nothing", 5), ("ECHO", "old")]))
    for _ in range(turns):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await link.run([("ECHO", "new")]) == [b"new"]
    await link.aclose()


def test_one_event_loop_after_another(valkey: Server) -> None:
    """A link works in one event loop after another, closed in between or not."""

    async def use(*, close: bool) -> None:
        assert await link.run(PING) == [True]
        if close:
            await link.aclose()

    link = async_link(valkey.unix_url)
    for close in (False, True, False, True):
        asyncio.run(use(close=close))


async def test_more_calls_than_connections(valkey: Server) -> None:
    """More calls than connections wait for their turn."""
    link = async_link(valkey.unix_url)
    assert await asyncio.gather(*(link.run(PING) for _ in range(100))) == [[True]] * 100
    await link.aclose()


async def test_fakes_serve() -> None:
    """A link works over fakeredis, as users' tests need it."""
    link = blocking_link_to(fakeredis.FakeRedis(server=fakeredis.FakeServer()))
    assert run_now(link.run(PING)) == [True]
    await link.aclose()
