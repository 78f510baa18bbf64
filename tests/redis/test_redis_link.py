"""Calls over one link: cancelled, more than there are connections, from another event loop, to a fake."""

import asyncio

import fakeredis
import pytest

from crossmount._blocking import run_now
from crossmount.errors import IndexUnavailableError
from crossmount.redis.connection import async_link
from crossmount.redis.link import BlockingLink, Command, Link
from support.servers import Server

PING: list[Command] = [("PING",)]


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_call_leaves_no_reply_behind(valkey: Server, turns: int) -> None:
    """A call ends when it is cancelled, at whatever moment, and the next one gets its own reply."""
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


def test_another_event_loop_is_told(valkey: Server) -> None:
    """A link used in a second event loop says so, as an index that does not serve."""

    async def use(link: Link) -> None:
        try:
            await link.run(PING)
        finally:
            await link.aclose()

    link = async_link(valkey.unix_url)
    asyncio.run(use(link))
    with pytest.raises(IndexUnavailableError, match="another event loop"):
        asyncio.run(use(link))


async def test_more_calls_than_connections(valkey: Server) -> None:
    """Calls beyond the pool wait for their turn."""
    link = async_link(valkey.unix_url)
    assert await asyncio.gather(*(link.run(PING) for _ in range(100))) == [[True]] * 100
    await link.aclose()


async def test_fakes_serve() -> None:
    """A link takes any client of redis-py, as users' tests with fakeredis do."""
    link = BlockingLink(fakeredis.FakeRedis(server=fakeredis.FakeServer()), "fake")
    assert run_now(link.run(PING)) == [True]
    await link.aclose()
