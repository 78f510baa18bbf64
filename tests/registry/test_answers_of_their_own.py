"""Upstreams that send more than an answer, or an answer with two ends (RFC 9112, sections 6.3 and 11).

Whatever they send, the next answer is the one that the server gave to the next request.
"""

import asyncio
from pathlib import Path

import httpx
import pytest

from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.transport import exchange, make_client
from support.certificates import self_signed
from support.odd_answers import ODD, odd_server
from support.waiting import PATIENCE


def client_of(options: ClientOptions) -> httpx.AsyncClient:
    """Return a client with our connections."""
    return httpx.AsyncClient(transport=make_client(options), timeout=options.read_timeout)


async def own_answers(client: httpx.AsyncClient, base: str, name: str) -> None:
    """Ask for an odd answer, then for plain ones, at once and one after the other."""
    method, _ = ODD[name]
    for turn in range(3):
        try:
            async with asyncio.timeout(PATIENCE), client.stream(method, f"{base}/{name}") as response:
                await response.aread()
        except (httpx.RemoteProtocolError, httpx.ReadTimeout):
            pass  # an answer without an end, or none that is HTTP
        got = [await client.get(f"{base}/own{turn}{n}", timeout=PATIENCE) for n in range(3)]
        got += await asyncio.gather(*(client.get(f"{base}/own{turn}{n}", timeout=PATIENCE) for n in range(3, 6)))
        assert [answer.text for answer in got] == [f"/own{turn}{n}" for n in range(6)]


@pytest.mark.parametrize("name", ODD)
async def test_the_next_answer_is_the_next_requests_own(name: str) -> None:
    """However an answer ends, the next request on any connection gets the answer that was given to it."""
    options = ClientOptions(plain_http=True, read_timeout=0.2)
    async with odd_server() as base, client_of(options) as client:
        await own_answers(client, base, name)


@pytest.mark.parametrize("name", ["body-of-head", "past-the-length", "whole-buffer", "one-byte-more"])
async def test_surplus_inside_tls_is_seen(tmp_path: Path, name: str) -> None:
    """Bytes that were received and not yet decrypted, or decrypted and not read, are surplus too."""
    context, authority = self_signed(tmp_path)
    options = ClientOptions(ca_file=authority)
    async with odd_server(context) as base, client_of(options) as client:
        await own_answers(client, base, name)


async def test_an_answer_without_surplus_keeps_its_connection() -> None:
    """A connection whose answers end where they should is used again."""
    async with odd_server() as base, client_of(ClientOptions(plain_http=True)) as client:
        ports = {(await client.get(f"{base}/own{n}")).headers["x-port"] for n in range(3)}
        assert len(ports) == 1


async def test_a_head_keeps_its_connection() -> None:
    """The registry's client uses the connection of a HEAD again."""
    async with odd_server() as base, make_client(ClientOptions(plain_http=True)) as client:
        answers = [await exchange(client, "HEAD", httpx.URL(f"{base}/head{n}"), headers={}) for n in range(3)]
        assert len({answer.headers["x-port"] for answer in answers}) == 1
