"""TLS: server certificates and client certificates."""

import os
from pathlib import Path

import pytest

from crossmount._blocking import run_now
from crossmount.errors import IndexUnavailableError, InvalidIndexURLError
from crossmount.redis.link import Link
from crossmount.redis.replies import Command
from support.certificates import Authority
from support.links import async_link, blocking_link
from support.places import Secured
from support.programs import needs
from support.servers import StartServer, free_port
from support.terminator import terminated

pytestmark = pytest.mark.usefixtures("unhurried")

PING: list[Command] = [("PING",)]

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


async def ask(url: str, flavour: str) -> list[object]:
    """Send a PING to a server."""
    link: Link = async_link(url) if flavour == "async" else blocking_link(url)
    try:
        return await link.run(PING) if flavour == "async" else run_now(link.run(PING))
    finally:
        await link.aclose()


@both
async def test_a_client_certificate_lets_us_in(secured: Secured, flavour: str) -> None:
    """With the right files a server behind TLS answers, on ten new connections."""
    for _ in range(10):
        assert await ask(secured.url, flavour) == [True]


@both
async def test_without_a_certificate_nobody_is_let_in(secured: Secured, flavour: str) -> None:
    """Without the client certificate that it requires, a server is unavailable."""
    url = f"rediss://127.0.0.1:{secured.port}?ca_file={secured.authority.file}"
    with pytest.raises(IndexUnavailableError):
        await ask(url, flavour)


@both
async def test_an_authority_that_nobody_named_is_not_trusted(
    secured: Secured, flavour: str, tmp_path: Path
) -> None:
    """A certificate of an unknown authority is rejected, unless check_certificate=no."""
    mine = f"cert_file={secured.client_certificate.certificate}&key_file={secured.client_certificate.key}"
    other = Authority(tmp_path)
    for more in ("", f"&ca_file={other.file}"):
        with pytest.raises(IndexUnavailableError, match="certificate verify failed"):
            await ask(f"rediss://127.0.0.1:{secured.port}?{mine}{more}", flavour)
    assert await ask(f"rediss://127.0.0.1:{secured.port}?{mine}&check_certificate=no", flavour) == [True]


def test_a_certificate_whose_key_is_nowhere_asks_for_it(secured: Secured) -> None:
    """A cert_file without a key is an error that asks for key_file."""
    url = f"rediss://h?cert_file={secured.client_certificate.certificate}"
    with pytest.raises(InvalidIndexURLError, match="cert_file holds no key, or is no PEM file: give key_file too"):
        blocking_link(url)


@both
async def test_a_certificate_is_for_its_name(secured: Secured, flavour: str, tmp_path: Path) -> None:
    """A certificate for another host is rejected, unless check_hostname=no."""
    authority = Authority(tmp_path)
    mine = authority.issue("client")
    files = f"ca_file={authority.file}&cert_file={mine.certificate}&key_file={mine.key}"
    with terminated(secured.server.socket, authority, authority.issue("other", "192.0.2.1")) as port:
        with pytest.raises(IndexUnavailableError, match="certificate verify failed"):
            await ask(f"rediss://127.0.0.1:{port}?{files}", flavour)
        assert await ask(f"rediss://127.0.0.1:{port}?{files}&check_hostname=no", flavour) == [True]


@both
@pytest.mark.parametrize("name", ["ca_file", "cert_file"])
async def test_a_pipe_is_no_certificate(flavour: str, name: str, tmp_path: Path) -> None:
    """A pipe in place of a certificate is an error of the URL, and is not waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidIndexURLError, match=f"{name}.* cannot be read: it is no file"):
        await ask(f"rediss://127.0.0.1:1?{name}={pipe}", flavour)


@both
async def test_a_real_servers_own_tls(start_server: StartServer, flavour: str, tmp_path: Path) -> None:
    """Redis's own TLS with client certificates works, also on a Cluster."""
    authority = Authority(tmp_path)
    server, mine = authority.issue("server"), authority.issue("client")
    port = free_port()
    options = ("--tls-port", str(port), "--tls-ca-cert-file", str(authority.file))
    own = ("--tls-cert-file", str(server.certificate), "--tls-key-file", str(server.key))
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--tls-cluster", "yes")
    started = start_server(*options, *own, *cluster, binary=Path(needs("redis-server")))
    with started.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    files = f"ca_file={authority.file}&cert_file={mine.certificate}&key_file={mine.key}"
    for scheme in ("rediss", "rediss+cluster"):
        assert await ask(f"{scheme}://127.0.0.1:{port}?{files}", flavour) == [True]


@both
async def test_a_cluster_that_announces_other_names_than_its_certificates_have(
    start_server: StartServer, flavour: str, tmp_path: Path
) -> None:
    """The error says that it is the certificate, for which address, and what to do, also the second time."""
    authority = Authority(tmp_path)
    server, port = authority.issue("server"), free_port()
    options = ("--tls-port", str(port), "--tls-ca-cert-file", str(authority.file), "--tls-auth-clients", "no")
    own = ("--tls-cert-file", str(server.certificate), "--tls-key-file", str(server.key))
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--tls-cluster", "yes")
    places = ("--bind", "127.0.0.1", "127.0.0.2", "--cluster-announce-ip", "127.0.0.2")
    started = start_server(*options, *own, *cluster, *places, binary=Path(needs("redis-server")))
    started.ask("CLUSTER ADDSLOTSRANGE", 0, 16383)
    url = f"rediss+cluster://127.0.0.1:{port}?ca_file={authority.file}"
    link: Link = async_link(url) if flavour == "async" else blocking_link(url)
    for _ in range(2):
        asked = link.run([("GET", "key")])
        (reply,) = await asked if flavour == "async" else run_now(asked)
        assert f"certificate of 127.0.0.2:{port} is not valid for 127.0.0.2" in str(reply)
        assert "cluster-announce-hostname" in str(reply)
        assert "check_hostname=no" in str(reply)
    await link.aclose()
    assert await ask(f"{url}&check_hostname=no", flavour) == [True]
