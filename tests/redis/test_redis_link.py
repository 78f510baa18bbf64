"""Calls over one link: cancelled, joined, more than connections, from several event loops, to a fake server."""

import asyncio
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import fakeredis
import pytest

from crossmount._blocking import run_now
from crossmount.errors import IndexRefusedError, IndexUnavailableError
from crossmount.redis import link as links
from crossmount.redis.call import Call
from crossmount.redis.client import Client
from crossmount.redis.link import ThreadedLink
from crossmount.redis.replies import Command
from support.links import async_link, blocking_link_to
from support.servers import Server
from support.waiting import PATIENCE

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


class GatedClient:
    """A client that waits for a gate, and replies to a command with its last argument."""

    where = "the test's server"

    def __init__(self) -> None:
        self.sent: list[list[Command]] = []
        self.calls: list[Call | None] = []
        self.began = threading.Event()
        self.gate = threading.Semaphore(0)
        self.error: Exception | None = None

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Note what is sent; reply or fail once the gate lets it pass."""
        self.sent.append(list(commands))
        self.calls.append(call)
        self.began.set()
        assert self.gate.acquire(timeout=PATIENCE)
        if self.error is not None:
            raise self.error
        return [command[-1] for command in commands]

    def servers(self) -> Sequence[Client]:
        """Return this client."""
        return [self]

    def close(self) -> None:
        """Do nothing."""


async def queue(client: GatedClient, *waiting: list[Command]) -> list[asyncio.Task[list[Any]]]:
    """Begin a run, and let others wait behind it for the only thread."""
    link = ThreadedLink(client)
    first = asyncio.create_task(link.run([("GET", "first")]))
    await asyncio.to_thread(client.began.wait, 10)
    others = [asyncio.create_task(link.run(commands)) for commands in waiting]
    await asyncio.sleep(0)
    return [first, *others]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> GatedClient:
    """Give a gated client, behind links of one thread that join five commands at most."""
    monkeypatch.setattr(links, "THREADS", 1)
    monkeypatch.setattr(links, "JOINED_COMMANDS", 5)
    return GatedClient()


async def test_waiting_calls_are_sent_together(client: GatedClient) -> None:
    """Calls that wait for a thread share a round trip as far as they fit; each gets its own replies."""
    pair: list[Command] = [("GET", "a"), ("GET", "b")]
    tasks = await queue(client, pair, [("GET", "c")], pair, pair, [*pair, *pair, *pair])
    client.gate.release(10)
    assert await asyncio.gather(*tasks) == [["first"], ["a", "b"], ["c"], ["a", "b"], ["a", "b"], ["a", "b"] * 3]
    assert [len(sent) for sent in client.sent] == [1, 5, 2, 6]


async def test_a_command_without_a_key_is_sent_alone(client: GatedClient) -> None:
    """It goes to every server of its call, so it must not meet the keys of others."""
    tasks = await queue(client, [("GET", "a")], [("ECHO", "b")], [("GET", "c")], [("GET", "d")])
    client.gate.release(10)
    assert await asyncio.gather(*tasks) == [["first"], ["a"], ["b"], ["c"], ["d"]]
    assert [len(sent) for sent in client.sent] == [1, 1, 1, 2]


@pytest.mark.parametrize("error", [IndexUnavailableError("silent"), IndexRefusedError("no login")])
async def test_calls_that_were_sent_together_fail_together(client: GatedClient, error: Exception) -> None:
    """Each caller gets an error of its own, of the same kind and with the same cause."""
    client.error = error
    error.__cause__ = OSError("why")
    tasks = await queue(client, [("GET", "a")], [("GET", "b")])
    client.gate.release(10)
    _, one, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(one, type(error))
    assert isinstance(other, type(error))
    assert one is not other
    assert (str(one), one.__cause__) == (str(other), other.__cause__) == (str(error), error.__cause__)


async def test_a_cancelled_call_does_not_end_those_beside_it(client: GatedClient) -> None:
    """Calls that were sent together are cancelled once all are; one that was cancelled before is not sent."""
    tasks = await queue(client, [("GET", "a")], [("GET", "b")], [("GET", "c")])
    tasks[1].cancel()
    await asyncio.wait(tasks[1:2])
    client.began.clear()
    client.gate.release()
    await tasks[0]
    await asyncio.to_thread(client.began.wait, 10)
    assert client.sent[1:] == [[("GET", "b"), ("GET", "c")]]
    joined = client.calls[-1]
    assert joined is not None
    for task, is_cancelled in ((tasks[2], False), (tasks[3], True)):
        task.cancel()
        await asyncio.wait([task])
        assert joined.cancelled is is_cancelled
    client.gate.release(10)


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Let the interpreter switch between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_switches")
async def test_no_call_is_left_behind(client: GatedClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many calls that cannot be sent together is made, however the threads take turns."""
    monkeypatch.setattr(links, "THREADS", 16)
    link = ThreadedLink(client)
    client.gate.release(20_000)
    async with asyncio.timeout(PATIENCE):
        for _ in range(20):
            replies = await asyncio.gather(*(link.run([("ECHO", str(number))]) for number in range(1000)))
            assert replies == [[str(number)] for number in range(1000)]
    await link.aclose()
