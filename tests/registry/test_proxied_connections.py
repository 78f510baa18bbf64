"""Connections through a proxy: which one is used, what it is told, and how its failures are."""

import asyncio
import importlib.util
import socket
import ssl
import traceback
from dataclasses import replace

import httpx
import pytest

from crossmount.errors import (
    MissingExtraError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.registry.http.dialing import Dialer
from crossmount.testing import ScriptedRegistry
from support.connecting import Listen, head
from support.registry_kit import PLAIN, TLS

ONCE = RetryPolicy(attempts=1)
CLOSED_PORT = 1
"""A port of the loopback where nobody listens."""

pytestmark = pytest.mark.usefixtures("bare_environment")


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _relay(to: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    onward, back = await asyncio.open_connection("127.0.0.1", to)
    try:
        await asyncio.gather(_pipe(reader, back), _pipe(onward, writer))
    finally:
        back.close()


async def test_a_request_goes_through_the_proxy_of_the_environment(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that no rule exempts is asked through HTTP_PROXY."""
    lines: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{await listen(proxy)}")
    await head("registry.example.test", PLAIN)
    assert lines[0].startswith(b"HEAD http://registry.example.test/v2/team/app/blobs/")


@pytest.mark.parametrize("no_proxy", ["", "10.0.0.0/8", "127.0.0.1"])
async def test_a_registry_on_the_loopback_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    """The loopback is never asked through a proxy, as in Go's clients."""
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"socks5://127.0.0.1:{CLOSED_PORT}")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    async with ScriptedRegistry() as registry:
        await head(registry.address, PLAIN)


@pytest.mark.parametrize(("variable", "options"), [("HTTP_PROXY", PLAIN), ("HTTPS_PROXY", TLS)])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_dead_proxy_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, options: ClientOptions, scheme: str
) -> None:
    """The error names the proxy's host and port, whatever it speaks and whatever is asked through it."""
    monkeypatch.setenv(variable, f"{scheme}://user:PROXYSECRET@127.0.0.1:{CLOSED_PORT}")
    where = rf"the proxy {scheme}://127\.0\.0\.1:{CLOSED_PORT}"
    with pytest.raises(RegistryUnreachableError, match=where) as caught:
        await head("registry.example.test", options)
    assert "PROXYSECRET" not in str(caught.value)


async def test_a_tunnel_that_fails_once_is_asked_for_again(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that cannot reach the registry just now (503) is asked again."""
    answers = [b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 403 Forbidden"]

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0) + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{await listen(proxy)}")
    with pytest.raises(RegistryUnreachableError, match="refused: 403 Forbidden"):
        await head("registry.example.test", TLS)
    assert not answers


async def test_a_proxy_that_refuses_is_named(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a refused tunnel has the proxy's own status."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    port = await listen(proxy)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    with pytest.raises(RegistryUnreachableError, match=f"127.0.0.1:{port} refused: 407 Proxy Auth"):
        await head("registry.example.test", TLS)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    with pytest.raises(RegistryRefusedError, match="407: the proxy wants a user name and a password"):
        await head("registry.example.test", PLAIN)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "Server disconnected"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "illegal status line"),
        (None, "no connection in time|no tunnel in time"),
    ],
)
async def test_a_proxy_that_opens_no_tunnel_is_named(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, words: str
) -> None:
    """A proxy that is silent, hangs up or speaks no HTTP is told as no connection through it."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)

    port = await listen(proxy)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    where = f"no connection through the proxy http://127.0.0.1:{port}: ({words})"
    with pytest.raises(RegistryUnreachableError, match=where):
        await head("registry.example.test", replace(TLS, connect_timeout=0.2, retry=ONCE))


@pytest.mark.parametrize("host", [".example.test", "a..test", f"{'a' * 64}.test"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_name_that_no_host_can_have_is_an_error_through_a_proxy_too(
    listen: Listen, scheme: str, host: str
) -> None:
    """A proxy is asked for any name; what TLS or SOCKS cannot carry of it is an error of httpx."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x05\x00" if scheme == "socks5" else b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.read()

    dialer = Dialer(ssl.create_default_context(), httpx.URL(f"{scheme}://127.0.0.1:{await listen(proxy)}"))
    with pytest.raises((httpx.ConnectError, httpx.ProxyError)):
        await dialer.dial(httpx.URL(f"https://{host}/"), None)


@pytest.mark.parametrize("login", ["ann:p%C3%A4ss-s3cr3t", f"ann:{'s3cr3t' * 50}", "%C3%A4nn:s3cr3t"])
async def test_a_login_that_socks_cannot_carry_is_told_without_it(
    monkeypatch: pytest.MonkeyPatch, login: str
) -> None:
    """A login that python-socks cannot send is an error that names the proxy, and quotes nothing."""
    monkeypatch.setenv("ALL_PROXY", f"socks5://{login}@127.0.0.1:{CLOSED_PORT}")
    with pytest.raises(RegistryUnreachableError, match="its user name or password is not ASCII, or") as caught:
        await head("registry.example.test", PLAIN)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


async def test_an_answer_that_socks_does_not_know_is_an_error(listen: Listen) -> None:
    """A SOCKS proxy whose answer python-socks cannot decode is told as a proxy's error."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.write(b"\x05\x00")
        await reader.read(1000)
        writer.write(b"\x05\x00\x00\x03\x02\xff\xff\x00\x50")  # a bound name that is no text
        await reader.read()

    dialer = Dialer(proxy=httpx.URL(f"socks5://127.0.0.1:{await listen(proxy)}"))
    with pytest.raises(httpx.ProxyError):
        await dialer.dial(httpx.URL("http://registry.example.test/"), None)


async def test_a_socks_proxy_is_tried_at_each_of_its_addresses(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SOCKS proxy whose first address refuses connections is reached at its second one."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.write(b"\x05\x00")
        await reader.read(1000)
        writer.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        await reader.read()

    port = await listen(proxy)

    async def look_up(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, port)) for at in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    dialer = Dialer(proxy=httpx.URL(f"socks5://proxy.example.test:{port}"))
    connection = await dialer.dial(httpx.URL("http://registry.example.test/"), None)
    connection.close()


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks"])
async def test_a_socks_proxy_is_used(listen: Listen, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """A request goes through a SOCKS 5 proxy, which resolves the host's name."""
    names: list[bytes] = []
    async with ScriptedRegistry() as registry:
        port = int(registry.address.rpartition(":")[2])

        async def socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly((await reader.readexactly(2))[1])
            writer.write(b"\x05\x00")
            size = (await reader.readexactly(5))[4]
            names.append(await reader.readexactly(size))
            await reader.readexactly(2)
            writer.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
            await _relay(port, reader, writer)

        monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{await listen(socks)}")
        await head("registry.example.test", PLAIN)
    assert names == [b"registry.example.test"]


async def test_a_socks_proxy_without_its_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names SOCKS, the proxy without its password, and the extra."""
    monkeypatch.setenv("ALL_PROXY", "socks5://user:PROXYSECRET@127.0.0.1:1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "python_socks" else name)
    with pytest.raises(MissingExtraError, match=r"127\.0\.0\.1:1 speaks SOCKS.*crossmount\[socks\]") as caught:
        await head("registry.example.test", PLAIN)
    assert "PROXYSECRET" not in str(caught.value)
