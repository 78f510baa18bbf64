"""Connections straight to a server: in TLS or not, and with which certificates."""

import asyncio
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from crossmount.errors import (
    InvalidInputError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.registry import ClientOptions, NoCredentials, RegistryClient
from crossmount.registry.http.certificates import spellings
from crossmount.registry.http.location import Origin
from crossmount.registry.http.transport import exchange
from crossmount.testing import ScriptedRegistry
from support.certificates import Authority, Issued
from support.connecting import Listen, head
from support.registry_kit import PLAIN, TLS, client_of

pytestmark = pytest.mark.usefixtures("bare_environment")


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
