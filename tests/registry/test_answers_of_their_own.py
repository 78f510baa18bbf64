"""Upstreams that send more than an answer, or an answer with two ends (RFC 9112, sections 6.3 and 11).

Whatever they send, the next answer is the one that the server gave to the next request.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from crossmount.registry.http.httpx_internals import connection_of, has_surplus, send_bare
from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.transport import exchange, make_client
from support.certificates import self_signed
from support.odd_answers import ODD, odd_server
from support.waiting import PATIENCE


@asynccontextmanager
async def answer(
    client: httpx.AsyncClient, method: str, url: str, *, seconds: float | None = None
) -> AsyncIterator[httpx.Response]:
    """Send a request as the registry's client does, and yield the answer, with its body unread."""
    request = client.build_request(method, url, timeout=seconds or client.timeout)
    response = await send_bare(client, request)
    try:
        yield response
    finally:
        await response.aclose()


async def text_at(client: httpx.AsyncClient, url: str) -> str:
    """Return the text at a URL."""
    async with answer(client, "GET", url, seconds=PATIENCE) as response:
        return (await response.aread()).decode()


async def own_answers(client: httpx.AsyncClient, base: str, name: str) -> None:
    """Ask for an odd answer, then for plain ones, at once and one after the other."""
    method, _ = ODD[name]
    for turn in range(3):
        try:
            async with asyncio.timeout(PATIENCE), answer(client, method, f"{base}/{name}") as response:
                await response.aread()
        except (httpx.RemoteProtocolError, httpx.ReadTimeout):
            pass  # an answer without an end, or none that is HTTP
        got = [await text_at(client, f"{base}/own{turn}{n}") for n in range(3)]
        got += await asyncio.gather(*(text_at(client, f"{base}/own{turn}{n}") for n in range(3, 6)))
        assert got == [f"/own{turn}{n}" for n in range(6)]


@pytest.mark.parametrize("name", ODD)
async def test_the_next_answer_is_the_next_requests_own(name: str) -> None:
    """However an answer ends, the next request on any connection gets the answer that was given to it."""
    options = ClientOptions(plain_http=True, read_timeout=0.2)
    async with odd_server() as base, make_client(options) as client:
        await own_answers(client, base, name)


@pytest.mark.parametrize("name", ["body-of-head", "past-the-length", "whole-buffer", "one-byte-more"])
async def test_surplus_inside_tls_is_seen(tmp_path: Path, name: str) -> None:
    """Bytes that were received and not yet decrypted, or decrypted and not read, are surplus too."""
    context, authority = self_signed(tmp_path)
    options = ClientOptions(ca_file=authority)
    async with odd_server(context) as base, make_client(options) as client:
        await own_answers(client, base, name)


async def test_an_answer_without_surplus_keeps_its_connection() -> None:
    """A connection whose answers end where they should is used again."""
    async with odd_server() as base, make_client(ClientOptions(plain_http=True)) as client:
        used = set()
        for n in range(3):
            async with answer(client, "GET", f"{base}/own{n}") as response:
                await response.aread()
                connection = connection_of(response.stream)
                assert connection is not None, "httpcore has changed: adapt `registry/http/httpx_internals.py`"
                assert not has_surplus(connection)
                used.add(connection)
        assert len(used) == 1


@pytest.mark.parametrize("name", ["past-the-length", "whole-buffer"])
async def test_surplus_is_where_we_look_for_it(name: str) -> None:
    """Bytes past an answer lie in h11's buffer, or in the event loop's queue."""
    async with odd_server() as base, make_client(ClientOptions(plain_http=True)) as client:
        async with answer(client, "GET", f"{base}/{name}") as response:
            await response.aread()
            found = has_surplus(connection_of(response.stream))
        assert found, "h11, httpcore or anyio has changed: adapt `registry/http/httpx_internals.py`"


async def test_a_connection_that_cannot_be_looked_into_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If httpcore hides its buffers, each answer closes its connection."""
    monkeypatch.setattr("crossmount.registry.http.httpx_internals.connection_of", lambda _: None)
    async with odd_server() as base, make_client(ClientOptions(plain_http=True)) as client:
        await own_answers(client, base, "past-the-length")


async def test_a_head_keeps_its_connection() -> None:
    """The registry's client uses the connection of a HEAD again."""
    async with odd_server() as base, make_client(ClientOptions(plain_http=True)) as client:
        answers = [await exchange(client, "HEAD", httpx.URL(f"{base}/head{n}"), headers={}) for n in range(3)]
        assert len({answer.headers["x-port"] for answer in answers}) == 1
