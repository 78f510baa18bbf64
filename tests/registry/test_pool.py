"""A pool finds a connection without a look at all of them, and each request gives its place back."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from crossmount.registry.http import pool
from crossmount.registry.http.dialing import Dialer
from crossmount.registry.http.http11 import Http11Connection
from crossmount.registry.http.options import OWNER
from crossmount.registry.http.pool import KEEP_SECONDS, SWEEP_SECONDS, ConnectionPool
from crossmount.testing.acceptor import Acceptor
from support.waiting import PATIENCE

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Answers every request, and counts its connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.hang_up = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it is closed here or there."""
        self.connections += 1
        reading: asyncio.Task[bytes] | None = None
        hanging_up = asyncio.create_task(self.hang_up.wait())
        try:
            while True:
                reading = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
                await asyncio.wait([reading, hanging_up], return_when=asyncio.FIRST_COMPLETED)
                if not reading.done() or reading.exception() is not None:
                    return
                writer.write(ANSWER)
                await writer.drain()
        finally:
            hanging_up.cancel()
            if reading is not None:
                reading.cancel()
            await asyncio.gather(*filter(None, [reading, hanging_up]), return_exceptions=True)
            writer.close()
            self.gone.set()


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@asynccontextmanager
async def client_of(clock: Clock, *, limit: int = 100) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that has a pool."""
    transport = ConnectionPool(Dialer().dial, limit=limit, clock=clock)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=20) as client:
        yield client


def pool_of(client: httpx.AsyncClient) -> ConnectionPool:
    """Return the pool of a client."""
    transport = client._transport
    assert isinstance(transport, ConnectionPool)
    return transport


async def test_a_request_uses_an_idle_connection_again() -> None:
    """One client that sends one request after the other has one connection."""
    server = Server()
    async with Acceptor(server) as acceptor, client_of(Clock()) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        for _ in range(5):
            await client.get(url)
        assert server.connections == 1


async def test_only_the_chosen_connection_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside many idle connections, a request checks the one that it takes; once a second all are checked."""
    server, clock = Server(), Clock()
    async with Acceptor(server) as acceptor, client_of(clock) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        await asyncio.gather(*(client.get(url) for _ in range(30)))
        checked: list[object] = []
        is_usable = pool.is_usable

        def count(connection: Http11Connection, since: float, now: float) -> bool:
            checked.append(connection)
            return is_usable(connection, since, now)

        monkeypatch.setattr(pool, "is_usable", count)
        assert pool_of(client).count > 1
        await client.get(url)
        assert len(checked) == 1
        clock.now += SWEEP_SECONDS
        await client.get(url)
        assert len(set(checked)) == pool_of(client).count


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    """A server may close an idle connection any time, so it is kept for some seconds only."""
    server, clock = Server(), Clock()
    async with Acceptor(server) as acceptor, client_of(clock) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        for seconds in (KEEP_SECONDS - 0.1, KEEP_SECONDS, 0.0):
            await client.get(url)
            clock.now += seconds
        await client.get(url)
        assert server.connections == 2
        assert pool_of(client).count == 1


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    """After the server hung up on an idle connection, the next request gets a new one."""
    server = Server()
    async with Acceptor(server) as acceptor, client_of(Clock()) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        await client.get(url)
        server.hang_up.set()
        await server.gone.wait()
        server.hang_up.clear()
        await client.get(url)
        assert server.connections == 2


async def test_a_full_pool_takes_the_place_of_an_idle_connection_elsewhere() -> None:
    """A request to another server is sent although all places are taken by idle connections."""
    first, second = Server(), Server()
    async with Acceptor(first) as one, Acceptor(second) as other, client_of(Clock(), limit=1) as client:
        here, there = [f"http://127.0.0.1:{await acceptor.open()}/" for acceptor in (one, other)]
        for url in (here, there, here):
            await client.get(url)
        assert (first.connections, second.connections) == (2, 1)
        assert pool_of(client).count == 1


async def test_in_a_full_pool_requests_wait_for_their_turn() -> None:
    """More requests than connections are all answered, over as many connections as are allowed."""
    server = Server()
    async with Acceptor(server) as acceptor, client_of(Clock(), limit=2) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        answers = await asyncio.gather(*(client.get(url) for _ in range(12)))
        assert {answer.status_code for answer in answers} == {200}
        assert server.connections <= 2


async def test_waiting_requests_are_served_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a full pool requests are sent in the order in which they came."""
    async with Acceptor(Server()) as acceptor, client_of(Clock(), limit=1) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        await client.get(url)
        asked: list[str] = []
        ask = Http11Connection.send

        async def count(connection: Http11Connection, request: httpx.Request) -> object:
            asked.append(request.url.path)
            return await ask(connection, request)

        monkeypatch.setattr(Http11Connection, "send", count)
        await asyncio.gather(*(client.get(f"{url}{number}") for number in range(20)))
        assert asked == [f"/{number}" for number in range(20)]


async def test_connections_that_were_closed_are_dropped() -> None:
    """Requests that are cancelled, and so close their connections, leave few of them in the pool."""
    server, silent = Server(), asyncio.Event()

    async def no_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        silent.set()
        await reader.read()

    async with Acceptor(server) as acceptor, Acceptor(no_answer) as other, client_of(Clock()) as client:
        url, nowhere = [f"http://127.0.0.1:{await each.open()}/" for each in (acceptor, other)]
        for _ in range(20):
            silent.clear()
            request = asyncio.create_task(client.get(nowhere))
            await silent.wait()
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            await client.get(url)
        assert pool_of(client).count <= 2


async def test_cancelled_requests_leave_no_place_taken() -> None:
    """Requests that are cancelled after any number of turns of the event loop take no place from later ones."""
    async with Acceptor(Server()) as acceptor:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        for steps in range(60):
            async with client_of(Clock(), limit=2) as client:
                requests = [asyncio.create_task(client.get(url)) for _ in range(5)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                for request in requests[::2]:
                    request.cancel()
                await asyncio.gather(*requests, return_exceptions=True)
                async with client.stream("GET", url), client.stream("GET", url):
                    assert pool_of(client).count == 2, f"after {steps} turns"


async def test_closing_an_answer_never_waits() -> None:
    """An answer is closed in one step, which nobody can cancel: its slot and its connection are free after it."""
    async with Acceptor(Server()) as acceptor, client_of(Clock(), limit=1) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        answer = await client.send(client.build_request("GET", url), stream=True)
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        with pytest.raises(StopIteration):
            answer.stream.aclose().send(None)
        assert (await client.get(url)).status_code == 200


async def test_a_connection_is_given_to_one_request() -> None:
    """Of many requests at once none gets a connection that another one has got and does not use yet."""
    server = Server()
    async with Acceptor(server) as acceptor, client_of(Clock(), limit=2) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        await client.get(url)
        answers = await asyncio.gather(*(client.get(url) for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert server.connections == 2


async def test_owners_share_no_connection() -> None:
    """A request uses a connection again only if that served the same owner before."""
    server = Server()
    async with Acceptor(server) as acceptor, client_of(Clock()) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        for owner, connections in (("a", 1), ("b", 2), ("a", 2), ("b", 2), ("", 3)):
            await client.get(url, extensions={OWNER: owner})
            assert server.connections == connections


async def test_an_answer_that_is_closed_is_read_no_further() -> None:
    """Reading a closed answer is an error, also while its connection carries the next one."""
    async with Acceptor(Server()) as acceptor, client_of(Clock()) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        async with client.stream("GET", url) as answer:
            stream = answer.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        with pytest.raises(httpx.StreamClosed):
            await anext(aiter(stream))


async def test_the_end_of_an_answer_stays_the_end() -> None:
    """A body that is read again past its end does not wait for bytes of another answer."""
    async with Acceptor(Server()) as acceptor:
        connections = ConnectionPool(Dialer().dial, limit=1)
        request = httpx.Request("GET", f"http://127.0.0.1:{await acceptor.open()}/")
        answer = await connections.handle_async_request(request)
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        parts = aiter(answer.stream)
        async with asyncio.timeout(PATIENCE):
            assert [await anext(parts, None) for _ in range(2)] == [None, None]
        await answer.aclose()
        await connections.aclose()


async def test_requests_that_wait_when_the_pool_is_closed_are_not_sent() -> None:
    """A closed pool opens no connection for the requests that waited for a place."""
    server = Server()
    async with Acceptor(server) as acceptor:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        async with client_of(Clock(), limit=1) as client, client.stream("GET", url):
            waiting = [asyncio.create_task(client.get(url)) for _ in range(3)]
            await asyncio.sleep(0)
            await pool_of(client).aclose()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [RuntimeError] * 3
        assert server.connections == 1


@pytest.mark.parametrize("header", [("X-Auth", "s3cr3t\x00x"), ("X-Auth", "'s3cr3t\n"), ("s3cr3t x", "1")])
async def test_a_header_that_http_does_not_know_is_not_quoted(header: tuple[str, str]) -> None:
    """The error for a header that cannot be sent, and its traceback, have neither its name nor its value."""
    async with Acceptor(Server()) as acceptor, client_of(Clock()) as client:
        url = f"http://127.0.0.1:{await acceptor.open()}/"
        with pytest.raises(httpx.LocalProtocolError, match=r"^Illegal header (name|value)$") as caught:
            await client.get(url, headers=[header])
        assert pool_of(client).count == 0
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


async def test_an_error_of_a_body_is_not_taken_for_one_of_the_connection() -> None:
    """A body that fails with the error of another connection ends its request with that error."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise httpx.WriteError("another connection")

    async with Acceptor(Server()) as acceptor, client_of(Clock()) as client:
        with pytest.raises(httpx.WriteError, match="another connection"):
            await client.post(f"http://127.0.0.1:{await acceptor.open()}/", content=body())
        assert pool_of(client).count == 0
