import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from crossmount.errors import (
    InvalidAnswerError,
    InvalidInputError,
    RegistryError,
    RegistryUnreachableError,
)
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RegistryClient, RetryPolicy
from crossmount.registry.http.errors import CUT_WORDS, describe, is_cut, translated
from crossmount.registry.http.location import shown
from crossmount.registry.http.transport import (
    ERROR_BYTES_MAX,
    Body,
    exchange,
    make_client,
)
from crossmount.testing import ScriptedRegistry
from crossmount.testing.acceptor import Acceptor
from support.certificates import self_signed
from support.registry_kit import Recorder
from support.wire import answering

URL = httpx.URL("https://user@r.example.org/v2/x?sig=secret#part")


def all_exceptions() -> list[type[Exception]]:
    """Return every exception that httpx exports."""
    names = (getattr(httpx, name) for name in httpx.__all__)
    return [kind for kind in names if isinstance(kind, type) and issubclass(kind, Exception)]


def made(kind: type[Exception]) -> Exception:
    """Return an exception of this kind."""
    if kind is httpx.HTTPStatusError:
        request = httpx.Request("GET", URL)
        return httpx.HTTPStatusError("secret", request=request, response=httpx.Response(500))
    try:
        return kind("secret words")
    except TypeError:
        return kind()


@pytest.mark.parametrize("kind", all_exceptions())
def test_every_exception_of_httpx_is_translated(kind: type[Exception]) -> None:
    """Each exception that httpx exports becomes a RegistryError with the URL and without its query."""
    error = made(kind)
    with pytest.raises(RegistryError) as caught, translated("GET", URL):
        raise error
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith("GET https://r.example.org/v2/x: ")
    assert "sig=" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectTimeout(""), RegistryUnreachableError),
        (httpx.ReadTimeout(""), RegistryUnreachableError),
        (httpx.ConnectError("[Errno 111] Connection refused"), RegistryUnreachableError),
        (httpx.ReadError(""), RegistryUnreachableError),
        (httpx.ProxyError("403 Forbidden"), RegistryUnreachableError),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), RegistryUnreachableError),
        (httpx.RemoteProtocolError("illegal status line"), InvalidAnswerError),
        (httpx.InvalidURL("x"), InvalidAnswerError),
        (httpx.TooManyRedirects("x"), InvalidAnswerError),
    ],
)
def test_no_answer_and_a_bad_one_are_two_errors(error: Exception, kind: type[RegistryError]) -> None:
    """No answer and an invalid answer are different exception classes."""
    with pytest.raises(kind), translated("GET", URL):
        raise error


def test_a_header_that_could_not_be_sent_is_not_quoted() -> None:
    """A header that h11 refuses and quotes, which may be Authorization, is not in our error."""
    with pytest.raises(RegistryError) as caught, translated("GET", URL):
        raise httpx.LocalProtocolError("Illegal header value b'Bearer hunter2'")
    assert "hunter2" not in str(caught.value)
    assert describe(httpx.WriteError("")) == "the connection was cut"


def test_a_tls_error_says_what_to_do() -> None:
    """An untrusted certificate and a port without TLS get different advice."""
    error = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]")
    error.__cause__ = ssl.SSLCertVerificationError("x")
    with pytest.raises(RegistryUnreachableError, match="certificate is not trusted"), translated("GET", URL):
        raise error
    error = httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER]")
    error.__cause__ = ssl.SSLError("x")
    with pytest.raises(RegistryUnreachableError, match="does not speak TLS"), translated("GET", URL):
        raise error


def test_our_own_errors_pass_as_they_are() -> None:
    """Our own errors are not translated."""
    with pytest.raises(InvalidInputError), translated("GET", URL):
        raise InvalidInputError("ours")
    assert shown(URL) == "https://r.example.org/v2/x"


async def test_the_headers_of_each_request() -> None:
    """A request has a User-Agent with the version and no compression, cookie or Authorization."""
    transport = Recorder(lambda _: httpx.Response(200, headers={"Set-Cookie": "sid=1"}))
    async with make_client(ClientOptions(), transport=transport) as client:
        for _ in range(2):
            await exchange(client, "GET", httpx.URL("https://r.example.org/v2/"), headers={})
    for request in transport.requests:
        assert request.headers["user-agent"].startswith("crossmount/")
        assert request.headers["accept-encoding"] == "identity"
        assert "cookie" not in request.headers
        assert "authorization" not in request.headers


async def test_a_netrc_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for the host in ~/.netrc or $NETRC are not sent."""
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text("machine r.example.org login u password hunter2\n")
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    transport = Recorder(lambda _: httpx.Response(200))
    async with make_client(ClientOptions(), transport=transport) as client:
        await exchange(client, "GET", httpx.URL("https://r.example.org/v2/"), headers={})
    assert "authorization" not in transport.requests[0].headers


def test_a_broken_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for an invalid proxy names the variables and not the value, which may have a password."""
    monkeypatch.setenv("HTTPS_PROXY", "bogus://u:hunter2@proxy")
    with pytest.raises(InvalidInputError, match="HTTPS_PROXY") as caught:
        make_client(ClientOptions())
    assert "hunter2" not in str(caught.value)


async def test_authorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no PEM is named; `insecure` needs none; httpx's authorities stand in for the system's."""
    junk = tmp_path / "ca.pem"
    junk.write_text("junk")
    for file in (junk, tmp_path / "absent.pem"):
        with pytest.raises(InvalidInputError, match=file.name):
            make_client(ClientOptions(ca_file=file))
    await make_client(ClientOptions(insecure=True, ca_file=junk)).aclose()
    none = ssl.DefaultVerifyPaths("", "", "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: none)
    await make_client(ClientOptions()).aclose()


Serve = Callable[[bytes], Awaitable[httpx.URL]]


@pytest.fixture
async def serve() -> AsyncGenerator[Serve]:
    """Serve the same bytes to every connection, and read its request."""
    async with AsyncExitStack() as stack:

        async def start(answer: bytes) -> httpx.URL:
            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                while await reader.read(65536):
                    pass

            acceptor = await stack.enter_async_context(Acceptor(connected))
            return httpx.URL(f"http://127.0.0.1:{await acceptor.open()}/v2/")

        yield start


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_its_limit_is_not_read_further(serve: Serve, announced: bool) -> None:
    """A body with a Content-Length over the limit is not read; another is read up to the limit."""
    size = 8 * ERROR_BYTES_MAX
    length = f"Content-Length: {1 << 40}\r\n" if announced else ""
    url = await serve(f"HTTP/1.1 500 No\r\n{length}Connection: close\r\n\r\n".encode() + b"x" * size)
    async with make_client(ClientOptions()) as client:
        answer = await exchange(client, "GET", url, headers={})
    assert (answer.status, answer.body, answer.too_long) == (500, b"", True)


async def test_what_is_not_http_is_an_invalid_answer(serve: Serve) -> None:
    """A server of another protocol is an invalid answer, not an absent one."""
    url = await serve(b"220 smtp.example.org ESMTP\r\n\r\n")
    async with make_client(ClientOptions()) as client:
        with pytest.raises(InvalidAnswerError), translated("GET", url):
            await exchange(client, "GET", url, headers={})


async def test_a_body_that_is_cut_off_is_closed() -> None:
    """A request's body is closed even if it was not read to its end."""
    closed = []

    async def read() -> AsyncGenerator[bytes]:
        try:
            yield b"x" * 10
            raise AssertionError("not reached")
        finally:
            closed.append(True)

    class Cutting(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            await anext(aiter(request.stream))
            raise httpx.WriteError("cut")

    async with make_client(ClientOptions(), transport=Cutting()) as client:
        with pytest.raises(httpx.WriteError):
            await exchange(client, "PUT", URL.copy_with(userinfo=b""), headers={}, body=Body(20, read))
    assert closed == [True]


async def test_a_client_for_plain_http_verifies_certificates_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client for plain http loads the authorities with its first TLS connection and verifies the certificate."""
    context, authority = self_signed(tmp_path)
    options = ClientOptions(plain_http=True)
    async with ScriptedRegistry(tls=context) as registry:
        url = httpx.URL(registry.url).join("/v2/")
        async with make_client(options) as client:
            with pytest.raises(RegistryUnreachableError), translated("GET", url):
                await exchange(client, "GET", url, headers={})
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with make_client(options) as client:
            for _ in range(2):
                assert (await exchange(client, "GET", url, headers={"Connection": "close"})).status == 200


@pytest.mark.parametrize(
    "start", [b"404 Not Found\r\nX: ", b"200 OK\r\nX: ", b"500 X\r\nContent-Length: 9999\r\n\r\n"]
)
async def test_a_registry_that_drips_its_answer_is_given_up_at_the_timeout(start: bytes) -> None:
    """An answer whose head, or whose error, comes byte by byte is given up at the request's timeout."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + start)
        while not writer.is_closing():
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.05)

    options = ClientOptions(plain_http=True, read_timeout=1, retry=RetryPolicy(timeout=0.5, outage=0.0))
    async with Acceptor(drip) as acceptor:
        where = Repository.parse(f"127.0.0.1:{await acceptor.open()}/a")
        async with RegistryClient(where, options=options) as client:
            if not start.startswith(b"500"):  # the body of a HEAD's answer is not read
                with pytest.raises(RegistryUnreachableError):
                    await client.head_blob(where, Digest.of(b"layer"))
            with pytest.raises(RegistryUnreachableError):
                await client.stream_blob(where, Digest.of(b"layer")).__aenter__()


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
    async with answering([data]) as url, make_client(ClientOptions(transport=transport)) as client:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await exchange(client, "GET", httpx.URL(url), headers={})
    if transport is not None:
        await transport.aclose()
    assert is_cut(caught.value) is cut, f"{caught.value} must match {CUT_WORDS}"


def test_a_connection_that_http_2_ended_was_cut() -> None:
    """A user's transport may speak HTTP/2, whose end of a connection has a text of its own (httpcore's)."""
    assert is_cut(httpx.RemoteProtocolError("<ConnectionTerminated error_code:0, last_stream_id:1>"))


async def test_a_closed_client_sends_nothing() -> None:
    """A request over a closed client raises RuntimeError, and nothing is sent."""
    transport = Recorder(lambda _: httpx.Response(200))
    client = make_client(ClientOptions(), transport=transport)
    request = httpx.Request("GET", "https://r.example.org/")
    assert (await client.handle_async_request(request)).status_code == 200
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.handle_async_request(request)
    assert len(transport.requests) == 1
