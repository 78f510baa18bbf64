"""An upstream whose answers do not end where they should: no caller gets another's answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from crossmount.registry.http.options import ClientOptions
from crossmount.testing.acceptor import Acceptor
from support.odd_answers import ODD, odd_server
from support.proxies import proxy_before


@pytest.mark.parametrize("name", ODD)
async def test_a_caller_never_gets_what_followed_anothers_answer(name: str) -> None:
    """After an odd answer for one caller, another's requests get the answers that were given to them."""
    method, _ = ODD[name]
    options = ClientOptions(plain_http=True, read_timeout=1.0)
    async with odd_server() as base, proxy_before(base, options=options) as proxy:
        for turn in range(2):
            with contextlib.suppress(
                httpx.RemoteProtocolError
            ):  # what ends early for the proxy does for its client
                await proxy.client.request(method, f"/v2/one/manifests/{name}", auth=("one", "1"))
            got = [await proxy.client.get(f"/v2/two/manifests/own{turn}{n}", auth=("two", "2")) for n in range(3)]
            assert [answer.text for answer in got] == [f"/v2/two/manifests/own{turn}{n}" for n in range(3)]


@asynccontextmanager
async def _late_server() -> AsyncIterator[str]:
    """Serve each path as its own answer, but first what was left over from the answer before on the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        surplus = b""
        while head := await reader.readuntil(b"\r\n\r\n"):
            method, path, _ = head.split(b" ", 2)
            body = b"" if method == b"HEAD" else path
            writer.write(surplus + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), body))
            surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged" if path.endswith(b"/late") else b""

    async with Acceptor(serve) as acceptor:
        yield f"http://127.0.0.1:{await acceptor.open()}"


@pytest.mark.parametrize("auth", [("two", "2"), None])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_surplus_that_comes_late_reaches_nobody_else(method: str, auth: tuple[str, str] | None) -> None:
    """What follows an answer when the connection is in use again is not given to another caller."""
    async with _late_server() as base, proxy_before(base, options=ClientOptions(plain_http=True)) as proxy:
        for turn in range(3):
            await proxy.client.request(method, "/v2/one/manifests/late", auth=("one", "1"))
            path = f"/v2/two/manifests/own{turn}"
            assert (await proxy.client.get(path, auth=auth)).text == path
