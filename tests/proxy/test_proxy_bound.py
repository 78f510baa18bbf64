"""Authentication that is bound to a connection (Negotiate, NTLM: RFC 4559, section 6)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from crossmount.testing.acceptor import Acceptor
from support.proxies import proxy_before


@asynccontextmanager
async def gateway() -> AsyncIterator[str]:
    """Serve a gateway that knows who speaks by the first Negotiate, Digest or other scheme on a connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        owner = b""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b": ")
                if name.lower() == b"authorization" and value.split(b" ")[0].lower() not in {
                    b"basic",
                    b"bearer",
                }:
                    owner = value
            challenge = b"WWW-Authenticate: NTLM\r\nWWW-Authenticate: Basic realm=x\r\n"
            status = b"200 OK" if owner else b"401 Unauthorized"
            writer.write(b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, challenge, len(owner), owner))

    async with Acceptor(serve) as acceptor:
        yield f"http://127.0.0.1:{await acceptor.open()}"


@pytest.mark.parametrize("scheme", ["Negotiate", "NTLM", "negotiate", "Digest", "AWS4-HMAC-SHA256", "Basic\tx"])
async def test_nobody_speaks_on_a_connection_that_another_authenticated(scheme: str) -> None:
    """After a request of another scheme than Basic and Bearer its connection is closed."""
    async with gateway() as base, proxy_before(base) as proxy:
        for _ in range(3):
            own = await proxy.client.get("/v2/a/manifests/1", headers={"Authorization": f"{scheme} YQ=="})
            assert own.text == f"{scheme} YQ=="
            others = [
                await proxy.client.get("/v2/a/manifests/1"),
                await proxy.client.get("/v2/a/manifests/1", auth=("b", "b")),
            ]
            assert [other.status_code for other in others] == [401, 401]


async def test_ntlm_is_not_offered() -> None:
    """A challenge that needs a connection of the client's own is left out, the others stay."""
    async with gateway() as base, proxy_before(base) as proxy:
        answer = await proxy.client.get("/v2/a/manifests/1")
        assert answer.headers.get_list("www-authenticate") == ["Basic realm=x"]
