"""How a client connects: through which proxy, with which certificates, in TLS or not."""

import asyncio
import importlib.util
import socket
import ssl
import threading
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from crossmount.errors import (
    InvalidInputError,
    MissingExtraError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, NoCredentials, RegistryClient, RetryPolicy
from crossmount.registry.http.certificates import spellings
from crossmount.registry.http.dialing import Dialer
from crossmount.registry.http.location import Origin
from crossmount.registry.http.transport import exchange
from crossmount.testing import ScriptedRegistry
from crossmount.testing.acceptor import Acceptor
from support.certificates import Authority, Issued
from support.registry_kit import PLAIN, TLS, client_of

NO_BYTES = Digest.of(b"")
FOREIGN = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

ONCE = RetryPolicy(attempts=1)

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Listen = Callable[[Handle], Awaitable[int]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without proxies, and an empty home."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
async def listen() -> AsyncGenerator[Listen]:
    """Serve a function on a port of the loopback."""
    async with AsyncExitStack() as stack:

        async def start(handle: Handle) -> int:
            acceptor = await stack.enter_async_context(Acceptor(handle))
            return await acceptor.open()

        yield start


CLOSED_PORT = 1
"""A port of the loopback where nobody listens."""


async def head(address: str, options: ClientOptions) -> None:
    """Ask a registry for a blob."""
    async with RegistryClient(address, options=options, credentials=NoCredentials()) as client:
        await client.head_blob(Repository(client.registry, "team/app", address), NO_BYTES)


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


# proxies


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


# certificates


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that no system trusts."""
    return Authority(tmp_path)


def server_context(authority: Authority, *, tls: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return the context of a registry that wants a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued = authority.issue("server")
    context.load_cert_chain(issued.certificate, issued.key)
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    if tls is not None:
        context.maximum_version = tls
    return context


def keep(folder: Path, authority: Authority, client: Issued | None) -> None:
    """Put certificates for a registry into its folder."""
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.file.read_bytes())
    if client is not None:
        (folder / "client.cert").write_bytes(client.certificate.read_bytes())
        (folder / "client.key").write_bytes(client.key.read_bytes())


async def test_certs_d_serves_a_registry(tmp_path: Path, authority: Authority) -> None:
    """The authority and the client certificate in a registry's folder are used, without any option."""
    async with ScriptedRegistry(tls=server_context(authority)) as registry:
        folder = tmp_path / "config/containers/certs.d" / registry.address
        keep(folder, authority, authority.issue("client"))
        await head(registry.address, TLS)


async def test_options_name_a_client_certificate(authority: Authority) -> None:
    """`cert_file` and `key_file` are shown to the registry, also with `insecure`."""
    client = authority.issue("client")
    options = replace(TLS, ca_file=authority.file, cert_file=client.certificate, key_file=client.key)
    async with ScriptedRegistry(tls=server_context(authority)) as registry:
        await head(registry.address, options)
        await head(registry.address, replace(options, ca_file=None, insecure=True))


async def test_another_host_is_not_shown_the_client_certificate(tmp_path: Path, authority: Authority) -> None:
    """A redirect to another origin is followed without the certificate, although that origin asks for it."""
    async with ScriptedRegistry(tls=server_context(authority)) as registry:
        keep(tmp_path / "config/containers/certs.d/registry.example.test", authority, authority.issue("client"))
        client = RegistryClient("registry.example.test", options=TLS, credentials=NoCredentials())
        async with client:
            # the authority is trusted, and the server hangs up: with a reset or without
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await exchange(client._http, "GET", httpx.URL(f"https://{registry.address}/v2/"), headers={})


def test_half_a_client_certificate_is_refused(tmp_path: Path) -> None:
    """A certificate without its key, or a key alone, is an error that names both."""
    with pytest.raises(InvalidInputError, match="cert_file without its other half"):
        ClientOptions(cert_file=tmp_path)
    with pytest.raises(InvalidInputError, match="key_file without its other half"):
        ClientOptions(key_file=tmp_path)


async def test_certificates_are_not_read_for_plain_http(tmp_path: Path) -> None:
    """A broken file in certs.d, or a broken --ca-file, is not even read for a registry on plain http."""
    async with ScriptedRegistry() as registry:
        folder = tmp_path / "config/containers/certs.d" / registry.address
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_text("nonsense")
        await head(registry.address, PLAIN)
        with pytest.raises(InvalidInputError, match=r"ca\.crt: not a readable PEM"):
            await head(registry.address, TLS)


def test_a_registry_is_spelt_as_in_its_name() -> None:
    """A folder may have a default port or not; Docker Hub's is called docker.io."""
    assert spellings(Origin("https", "r.example", 443)) == ("r.example", "r.example:443")
    assert spellings(Origin("https", "r.example", 5000)) == ("r.example:5000",)
    assert spellings(Origin("https", "::1", 5000)) == ("[::1]:5000",)
    assert spellings(Origin("https", "registry-1.docker.io", 443))[0] == "docker.io"


# TLS or not


async def test_plain_http_to_a_server_of_tls_is_told(authority: Authority) -> None:
    """A server that closes the connection is found to speak TLS, and is not asked again."""
    async with ScriptedRegistry(tls=server_context(authority)) as registry:
        with pytest.raises(RegistryUnreachableError, match=r"it speaks TLS \(https\): leave plain"):
            await head(registry.address, PLAIN)


async def test_a_server_that_says_that_it_speaks_tls_is_believed(listen: Listen) -> None:
    """Go's servers answer 400 with words, which a HEAD does not show."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
        await writer.drain()

    with pytest.raises(RegistryUnreachableError, match="it speaks TLS"):
        await head(f"127.0.0.1:{await listen(handle)}", PLAIN)


async def test_a_registry_that_refuses_the_first_request_is_not_taken_for_one_of_tls(listen: Listen) -> None:
    """A 400 with other words is reported as it is."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with client_of(f"127.0.0.1:{await listen(handle)}") as client:
        with pytest.raises(RegistryRefusedError, match="400: Bad Request"):
            await client.ping()


@pytest.mark.parametrize(
    ("version", "words"), [(None, "it wants a client certificate"), (ssl.TLSVersion.TLSv1_2, "it may want a")]
)
async def test_a_demanded_client_certificate_is_told(
    authority: Authority, version: ssl.TLSVersion | None, words: str
) -> None:
    """TLS 1.3 says so after the handshake; in TLS 1.2 the handshake only fails."""
    context = server_context(authority, tls=version)

    def serve(listener: socket.socket) -> None:  # a blocking server sends its alert, one of asyncio does not
        while True:
            try:
                with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(65536)
            except ssl.SSLError:
                continue
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with pytest.raises(RegistryUnreachableError, match=f"{words}.*certs.d"):
            await head(f"127.0.0.1:{listener.getsockname()[1]}", replace(TLS, ca_file=authority.file))
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


async def test_a_registry_that_hangs_up_after_the_handshake_may_want_a_certificate(authority: Authority) -> None:
    """Without an alert the error names the likely cause; the server may be restarting, so it is asked again."""
    async with ScriptedRegistry(tls=server_context(authority)) as registry:
        with pytest.raises(RegistryUnreachableError, match="it may want a client certificate, or it is not up"):
            await head(registry.address, replace(TLS, ca_file=authority.file))
