"""If one of these tests fails after an update of httpx or httpcore: adapt `registry/http/httpx_internals.py`."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from crossmount.registry.http.httpx_internals import CUT_WORDS, LOGGERS, is_cut, send_bare
from crossmount.testing.acceptor import Acceptor

_LIST_LOGGERS = """
import logging, httpcore, httpx
print("\\n".join(name for name, it in logging.root.manager.loggerDict.items() if isinstance(it, logging.Logger)))
"""


@asynccontextmanager
async def server_that_sends(data: bytes) -> AsyncIterator[str]:
    """Serve these bytes as the answer to each request, then close the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)

    async with Acceptor(answer) as acceptor:
        yield f"http://127.0.0.1:{await acceptor.open()}/"


def test_the_loggers_of_httpx_and_httpcore_have_the_filtered_names() -> None:
    """Each logger that the two libraries make is filtered, and each that is filtered without an extra exists."""
    listed = subprocess.run([sys.executable, "-c", _LIST_LOGGERS], capture_output=True, text=True, check=True)
    theirs = {name for name in listed.stdout.split() if name.split(".")[0] in {"httpx", "httpcore"}}
    assert theirs <= set(LOGGERS)
    assert theirs >= {"httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"}


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123", True),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", False),
    ],
)
async def test_a_cut_connection_has_a_known_text(data: bytes, *, cut: bool) -> None:
    """A connection that was cut and an answer that is not HTTP are one exception class with different texts."""
    async with server_that_sends(data) as url, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await client.get(url)
    assert is_cut(caught.value) is cut, f"{caught.value} must match {CUT_WORDS}"


async def test_a_closed_client_sends_nothing_bare() -> None:
    """A request over a closed client fails as it does with httpx, and opens no connection that nobody closes."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    request = httpx.Request("GET", "https://r.example.org/")
    assert (await send_bare(client, request)).status_code == 200
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await send_bare(client, request)
