"""Our connections against httpx's own: the same servers, the same requests, the same answers and errors.

httpx sends each request over a connection of its own; ours uses connections again. So a byte of one answer that
reaches another request is a difference, as is everything that one of them reads in another way.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crossmount.registry.http.dialing import Dialer
from crossmount.registry.http.pool import ConnectionPool
from crossmount.testing.acceptor import Acceptor

SECONDS = 60.0
BODY = b"{}\r\n\r\nHTTP/1.1 200 OK\r\n"
"""The body of each answer; its end looks like another answer."""

WHOLE = {
    "length": (b"Content-Length: %d\r\n" % len(BODY), BODY),
    "empty": (b"Content-Length: 0\r\n", b""),
    "chunks": (b"Transfer-Encoding: chunked\r\n", b"2;a=b\r\n{}\r\n15\r\n%b\r\n0\r\n\r\n" % BODY[2:]),
    "trailers": (b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n0\r\nDigest: y\r\n\r\n"),
    "both": (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"1\r\nx\r\n0\r\n\r\n"),
    "same twice": (b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}"),
}
BROKEN = {
    "no length": (b"", BODY),
    "short": (b"Content-Length: 900\r\n", BODY),
    "two lengths": (b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"),
    "no number": (b"Content-Length: -1\r\n", b"{}"),
    "other coding": (b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "no chunk": (b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"),
    "huge head": (b"X: %b\r\n" % bytes(b"x" * 300_000), b""),
    "no header": (b"no colon\r\nContent-Length: 0\r\n", b""),
}
INTERIM = [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"]


@dataclass(frozen=True)
class Script:
    """One request, and what its server does."""

    method: str = "GET"
    body: bytes | None = None
    is_chunked: bool = False
    begin: bytes = b""
    version: bytes = b"1.1"
    status: int = 200
    framing: str = "length"
    connection: bytes = b""
    surplus: bytes = b""
    cut: int | None = None
    ending: str = "stay"
    is_read: bool = True

    @property
    def answer(self) -> bytes:
        """The server's bytes."""
        headers, body = (WHOLE | BROKEN)[self.framing]
        head = b"HTTP/%b %d Some Words\r\nX-Case: a\r\n" % (self.version, self.status)
        whole = self.begin + head + self.connection + headers + b"\r\n" + body + self.surplus
        return whole[: self.cut]

    @property
    def must_end(self) -> bool:
        """Whether a client waits for the end of the connection."""
        return self.cut is not None or self.framing in BROKEN or self.status == 101


SCRIPTS = st.builds(
    Script,
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]),
    body=st.sampled_from([None, b"", b"x", b"y" * 70_000]),
    is_chunked=st.booleans(),
    begin=st.lists(st.sampled_from(INTERIM), max_size=3).map(b"".join),
    version=st.sampled_from([b"1.1", b"1.1", b"1.0"]),
    status=st.sampled_from([200, 201, 204, 304, 401, 404, 413, 503, 101, 999]),
    framing=st.sampled_from([*WHOLE, *WHOLE, *BROKEN]),
    connection=st.sampled_from([b"", b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"]),
    surplus=st.sampled_from([b"", b"", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]),
    cut=st.none() | st.none() | st.integers(0, 200),
    ending=st.sampled_from(["stay", "stay", "close", "reset"]),
    is_read=st.sampled_from([True, True, True, False]),
)


class Server:
    """Does what the script says whose number a request's path has."""

    def __init__(self, scripts: list[Script]) -> None:
        self._scripts = scripts
        self.done = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            script = self._scripts[int(head.split()[1][1:])]
            if b"chunked" in head:
                await reader.readuntil(b"0\r\n\r\n")
            elif script.body and b"content-length" in head.lower():
                await reader.readexactly(len(script.body))
            answer = script.answer
            for part in (answer[:40], answer[40:]):
                writer.write(part)
                await writer.drain()
            if script.ending == "reset" and script.framing != "huge head":  # of which it would lose a part
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if script.must_end or script.ending != "stay":
                writer.close()
                await asyncio.sleep(0)  # the loop closes it in its next turn
                self.done.set()
                return
            self.done.set()


async def stream(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in two parts."""
    yield body[:10]
    yield body[10:]


async def outcome(transport: httpx.AsyncBaseTransport, url: str, script: Script) -> object:
    """Send a request; return its answer, or the kind of error."""
    content = stream(script.body) if script.body and script.is_chunked else script.body
    timeout = httpx.Timeout(SECONDS / 2).as_dict()
    request = httpx.Request(script.method, url, content=content, extensions={"timeout": timeout})
    try:
        answer = await transport.handle_async_request(request)
    except httpx.TransportError as error:
        return type(error)
    try:
        body = b"".join([part async for part in answer.aiter_raw()]) if script.is_read else None
    except httpx.TransportError as error:
        return answer.status_code, type(error)
    finally:
        await answer.aclose()
    return answer.status_code, answer.headers.raw, answer.extensions["reason_phrase"], body


async def compare(scripts: list[Script]) -> None:
    """Send each script's request over both transports, one after the other."""
    server = Server(scripts)
    ours = ConnectionPool(Dialer().dial, limit=1)  # a place that is lost stops the next request
    theirs = httpx.AsyncHTTPTransport(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
    async with Acceptor(server, limit=200_000) as acceptor, theirs:
        base = f"http://127.0.0.1:{await acceptor.open()}"
        for number, script in enumerate(scripts):
            outcomes = []
            for transport in (theirs, ours):
                server.done.clear()
                async with asyncio.timeout(SECONDS):
                    outcomes.append(await outcome(transport, f"{base}/{number}", script))
                    await server.done.wait()
            assert outcomes[0] == outcomes[1], f"request {number}: {script}"
        await ours.aclose()
        assert ours.count == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(SCRIPTS, min_size=1, max_size=6))
@example([Script(surplus=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Script(status=404)])
@example([Script(framing="both"), Script(status=404, framing="empty")])
@example([Script(method="HEAD"), Script(is_read=False), Script(ending="reset"), Script()])
def test_our_connections_answer_as_those_of_httpx(scripts: list[Script]) -> None:
    """Over connections that are used again, each request has the answer or error that it has alone with httpx."""
    asyncio.run(compare(scripts))
