"""What a user's own transport logs."""

import logging
import subprocess
import sys

import httpx
import pytest

from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.transport import exchange, make_client
from crossmount.registry.http.user_transport import LOGGERS
from support.wire import answering

SIGNATURE = "X-Signature=s3cr3t"

_LIST_LOGGERS = """
import logging, httpcore, httpx
print("\\n".join(name for name, it in logging.root.manager.loggerDict.items() if isinstance(it, logging.Logger)))
"""


class Forwarding(httpx.AsyncBaseTransport):
    """A user's transport that sends over a client of httpx, which logs URLs.

    Args:
        client: sends the requests.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        return await self._client.send(request, stream=True)


async def test_a_transport_over_a_client_of_httpx_logs_no_url(caplog: pytest.LogCaptureFixture) -> None:
    """What httpx's client would log, a URL with its signature, is in no log."""
    caplog.set_level(logging.DEBUG)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with answering([answer]) as url, httpx.AsyncClient() as inner:
        async with make_client(ClientOptions(transport=Forwarding(inner))) as client:
            await exchange(client, "GET", httpx.URL(f"{url}/?{SIGNATURE}"), headers={})
        assert SIGNATURE not in caplog.text


def test_the_loggers_have_the_filtered_names() -> None:
    """Each logger that httpx and httpcore make is filtered, and each that is filtered without an extra exists."""
    listed = subprocess.run([sys.executable, "-c", _LIST_LOGGERS], capture_output=True, text=True, check=True)
    theirs = {name for name in listed.stdout.split() if name.split(".")[0] in {"httpx", "httpcore"}}
    assert theirs <= set(LOGGERS)
    assert theirs >= {"httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"}


@pytest.mark.parametrize("lent", [True, False])
async def test_what_an_answer_holds_gets_into_no_log(caplog: pytest.LogCaptureFixture, *, lent: bool) -> None:
    """A signature in a Location is in no log, whoever made the transport; other uses of httpx log as before."""
    caplog.set_level(logging.DEBUG)
    answer = f"HTTP/1.1 307 Go\r\nLocation: /?{SIGNATURE}\r\nContent-Length: 0\r\n\r\n".encode()
    async with answering([answer]) as url, httpx.AsyncHTTPTransport() as transport:
        async with make_client(ClientOptions(transport=transport if lent else None)) as client:
            assert SIGNATURE in (await exchange(client, "GET", httpx.URL(url), headers={})).headers["location"]
        assert SIGNATURE not in caplog.text
        async with httpx.AsyncClient(transport=transport) as other:
            await other.get(url)
        assert SIGNATURE in caplog.text
