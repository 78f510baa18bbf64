"""A user's own transport sends our requests, and logs nothing of them."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from crossmount.registry.http.errors import CUT_WORDS, is_cut
from crossmount.registry.http.lent_transport import LOGGERS
from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.transport import exchange, make_client
from crossmount.testing.acceptor import Acceptor

SIGNATURE = "X-Signature=s3cr3t"

_LIST_LOGGERS = """
import logging, httpcore
print("\\n".join(name for name, it in logging.root.manager.loggerDict.items() if isinstance(it, logging.Logger)))
"""


@asynccontextmanager
async def server_that_sends(data: bytes) -> AsyncIterator[httpx.URL]:
    """Serve these bytes as the answer to each request, then close the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)

    async with Acceptor(answer) as acceptor:
        yield httpx.URL(f"http://127.0.0.1:{await acceptor.open()}/")


def test_the_loggers_of_httpcore_have_the_filtered_names() -> None:
    """Each logger that httpcore makes is filtered, and each that is filtered without an extra exists."""
    listed = subprocess.run([sys.executable, "-c", _LIST_LOGGERS], capture_output=True, text=True, check=True)
    theirs = {name for name in listed.stdout.split() if name.startswith("httpcore")}
    assert theirs <= set(LOGGERS)
    assert theirs >= {"httpcore.connection", "httpcore.http11", "httpcore.proxy"}


@pytest.mark.parametrize("lent", [True, False])
async def test_what_an_answer_holds_gets_into_no_log(caplog: pytest.LogCaptureFixture, *, lent: bool) -> None:
    """A signature in a Location is in no log, whoever made the transport; other uses of httpx log as before."""
    caplog.set_level(logging.DEBUG)
    answer = f"HTTP/1.1 307 Go\r\nLocation: /?{SIGNATURE}\r\nContent-Length: 0\r\n\r\n".encode()
    async with server_that_sends(answer) as url, httpx.AsyncHTTPTransport() as transport:
        async with make_client(ClientOptions(transport=transport if lent else None)) as client:
            assert SIGNATURE in (await exchange(client, "GET", url, headers={})).headers["location"]
        assert SIGNATURE not in caplog.text
        async with httpx.AsyncClient(transport=transport) as other:
            await other.get(url)
        assert SIGNATURE in caplog.text


@pytest.mark.parametrize("lent", [True, False])
@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123", True),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", False),
    ],
)
async def test_a_cut_connection_has_a_known_text(data: bytes, *, cut: bool, lent: bool) -> None:
    """A connection that was cut and an answer that is not HTTP are one exception class with different texts."""
    transport = httpx.AsyncHTTPTransport() if lent else None
    async with server_that_sends(data) as url, make_client(ClientOptions(transport=transport)) as client:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await exchange(client, "GET", url, headers={})
    if transport is not None:
        await transport.aclose()
    assert is_cut(caught.value) is cut, f"{caught.value} must match {CUT_WORDS}"


async def test_a_closed_client_sends_nothing() -> None:
    """A request over a closed client fails as it does with httpx, and opens no connection that nobody closes."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    client = make_client(ClientOptions(), transport=transport)
    request = httpx.Request("GET", "https://r.example.org/")
    assert (await client.handle_async_request(request)).status_code == 200
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.handle_async_request(request)
