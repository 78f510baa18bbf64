import asyncio
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, running_registry
from crossmount.testing.__main__ import main, options_of, read_arguments
from crossmount.testing.options import BasicAuth, TokenAuth
from support.images import make_layers, make_layout
from support.programs import needs, run
from support.scripted import finish_upload, push_blob, start_upload, talk_to
from support.waiting import PATIENCE

DATA = b"a blob"
DIGEST = Digest.of(DATA)


async def raw(registry: ScriptedRegistry, *pieces: bytes) -> bytes:
    """Send bytes and return all that comes back until the registry closes."""
    host, _, port = registry.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_connection_serves_many_requests(scripted_registry: ScriptedRegistry) -> None:
    """A connection stays open after answers, refusals and small unread bodies."""
    async with httpx.AsyncClient(base_url=scripted_registry.url) as client:
        await client.get("/v2/")
        await client.post("/v2/", content=b"not wanted")
        await push_blob(client, "a/b", DATA)
        await client.get("/nowhere")
    assert {record.connection for record in scripted_registry.requests} == {1}


async def test_bytes_that_are_asked_for_are_sent(scripted_registry: ScriptedRegistry) -> None:
    """Expect: 100-continue gets its 100 when the registry reads the body."""
    url = f"/v2/a/b/blobs/uploads/?digest={DIGEST}"
    head = (
        f"POST {url} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 6\r\n\r\n"
    )
    answer = await raw(scripted_registry, head.encode(), DATA)
    assert answer.startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 201 " in answer
    assert scripted_registry.requests[-1].headers["expect"] == "100-continue"


async def test_bytes_that_nobody_wants_are_not_asked_for(scripted_registry: ScriptedRegistry) -> None:
    """A refused request gets no 100, and the connection closes because the body may still come."""
    head = b"PUT /v2/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n"
    answer = await raw(scripted_registry, head)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"connection: close" in answer.lower()


async def test_a_long_unwanted_body_ends_the_connection() -> None:
    """The client gets the answer although it is still sending."""
    async with talk_to(None, Fault(method="PATCH", action=Reply(status=503))) as (registry, client):
        location = (await start_upload(client, "a/b")).headers["location"]
        answer = await client.patch(location, content=b"x" * 3_000_000)
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")
        assert registry.requests[-1].received == 0


async def test_chunked_bodies_are_taken(scripted_registry: ScriptedRegistry) -> None:
    """A stream of unknown length is uploaded like any other."""

    async def pieces() -> AsyncIterator[bytes]:
        for byte in DATA:
            yield bytes((byte,))

    async with httpx.AsyncClient(base_url=scripted_registry.url) as client:
        location = (await start_upload(client, "a/b")).headers["location"]
        patched = await client.patch(location, content=pieces())
        assert (await finish_upload(client, patched.headers["location"], DIGEST)).status_code == 201


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01 not http\r\n\r\n", b"GET /" + b"x" * 70_000])
async def test_what_is_no_http_is_a_400(garbage: bytes, scripted_registry: ScriptedRegistry) -> None:
    """A client that does not speak HTTP gets a 400 and leaves no record."""
    answer = await raw(scripted_registry, garbage)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert scripted_registry.requests == []


async def test_a_client_that_goes_away_leaves_what_it_sent() -> None:
    """After half a body the session has these bytes, and the record of the request has no answer."""
    async with talk_to() as (registry, client):
        location = (await start_upload(client, "a/b")).headers["location"]
        target = httpx.URL(location).raw_path.decode()
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(location).port)
        writer.write(f"PATCH {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode() + DATA)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert (registry.requests[-1].status, registry.requests[-1].received) == (0, len(DATA))
        assert (await client.get(location)).headers["range"] == f"0-{len(DATA) - 1}"


async def test_stopping_cuts_what_is_going_on() -> None:
    """The registry stops at once, also while requests are open."""
    arrived = asyncio.Event()

    async def connected(name: str, _: object) -> None:
        if name == "http11.send_request_headers.complete":
            arrived.set()

    async with (
        ScriptedRegistry(faults=[Fault(delay=600)]) as registry,
        httpx.AsyncClient(base_url=registry.url) as client,
    ):
        waiting = asyncio.create_task(client.get("/v2/", timeout=60, extensions={"trace": connected}))
        await arrived.wait()
        await registry.stop()
        with pytest.raises(httpx.HTTPError):
            await waiting


async def test_a_failure_of_the_registry_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the registry closes the connection and reaches the loop's exception handler."""
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
    async with talk_to() as (registry, client):
        monkeypatch.setattr(registry.holdings, "repositories", None)
        with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
            await client.get("/v2/_catalog")
    assert [type(error) for error in raised] == [TypeError]


async def test_https_is_spoken_with_a_certificate(tmp_path: Path) -> None:
    """With a TLS context the registry serves https, and its Locations are https URLs."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    run(
        "openssl",
        *[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=x",
        ],
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=str(certificate))
    async with (
        ScriptedRegistry(tls=context) as registry,
        httpx.AsyncClient(base_url=registry.url, verify=trust) as client,
    ):
        assert (await start_upload(client, "a/b")).headers["location"].startswith("https://127.0.0.1:")
        await push_blob(client, "a/b", DATA)
        assert (await client.post("/v2/", content=b"x" * 3_000_000)).status_code == 405


async def test_ipv6_has_its_brackets() -> None:
    """The address of a registry on ::1 is valid in a URL."""
    async with ScriptedRegistry(host="::1") as registry, httpx.AsyncClient() as client:
        assert registry.address.startswith("[::1]:")
        assert (await client.get(f"{registry.url}/v2/")).status_code == 200


def test_a_thread_runs_a_registry_for_blocking_code() -> None:
    """The block can use the log and the script; a port that is in use raises OSError."""
    with running_registry() as registry, httpx.Client(base_url=registry.url) as client:
        registry.play(Fault(action=Reply(status=500)))
        assert [client.get("/v2/").status_code for _ in range(2)] == [500, 200]
        assert [record.status for record in registry.requests] == [500, 200]
        port = int(registry.address.rpartition(":")[2])
        with pytest.raises(OSError, match="address already in use"), running_registry(port=port):
            pass


def test_a_large_blob_does_not_stay_in_memory(tmp_path: Path) -> None:
    """With a folder, an upload and a download of 192 MiB need far less memory than that."""
    size = 192 * 1024 * 1024
    with (
        subprocess.Popen(
            [sys.executable, "-m", "crossmount.testing", "--root", str(tmp_path)], stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        piece = bytes(1024 * 1024)
        hasher = Digest.of(b"").hasher()
        for _ in range(size // len(piece)):
            hasher.update(piece)
        digest = Digest(f"sha256:{hasher.hexdigest()}")
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            location = client.post("/v2/a/b/blobs/uploads/").headers["location"]
            target = httpx.URL(location).copy_add_param("digest", digest)
            done = client.put(target, content=(piece for _ in range(size // len(piece))))
            assert done.status_code == 201
            with client.stream("GET", f"/v2/a/b/blobs/{digest}") as answer:
                assert sum(len(data) for data in answer.iter_raw()) == size
        status = Path(f"/proc/{process.pid}/status")
        peak = (
            next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            if status.exists()
            else ""
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
    if peak:
        assert int(peak.split()[1]) * 1024 < 96 * 1024 * 1024


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_its_url_and_stops_cleanly(number: signal.Signals) -> None:
    """The command prints one line and exits with status 0 on SIGTERM and SIGINT, even with a client connected."""
    command = [sys.executable, "-m", "crossmount.testing", "--finds", "--user", "ci:secret"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().decode().strip()
        with httpx.Client(base_url=url) as client:
            assert client.get("/v2/").status_code == 401
            assert client.get("/v2/", auth=("ci", "secret")).status_code == 200
            process.send_signal(number)
            assert process.wait(timeout=PATIENCE) == 0
        assert process.stdout.read() == b""
        assert process.stderr.read() == b""


def test_the_command_line_is_the_options() -> None:
    """Each option of the command sets one registry option."""
    switches = ["--no-mounts", "--finds", "--after-manifest", "--relative-locations", "--no-references"]
    values = ["--denied-source", "a", "--latency", "0.5", "--commit-seconds", "2", "--root", "/x"]
    options = options_of(read_arguments([*switches, *values]))
    assert options == RegistryOptions(
        mounts=False,
        finds=True,
        after_manifest=True,
        relative_locations=True,
        checks_references=False,
        denied_sources=frozenset({"a"}),
        latency=0.5,
        commit_seconds=2.0,
        root=Path("/x"),
    )
    assert options_of(read_arguments([])) == RegistryOptions()
    users = ["--user", "a:b:c", "--user", "d:e"]
    assert options_of(read_arguments(users)).auth == BasicAuth(users={"a": "b:c", "d": "e"})
    assert isinstance(options_of(read_arguments([*users, "--token-auth"])).auth, TokenAuth)


@pytest.mark.parametrize("arguments", [["--user", "nobody"], ["--token-auth"], ["--port", "x"]])
def test_a_wrong_command_line_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line exits with status 2 and prints the usage."""
    with pytest.raises(SystemExit) as caught:
        read_arguments(arguments)
    assert caught.value.code == 2
    assert "usage: python -m crossmount.testing" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A port in use exits with status 1 and prints one line."""
    with running_registry() as registry:
        assert main(["--port", registry.address.rpartition(":")[2]]) == 1
    assert "cannot listen on 127.0.0.1:" in capsys.readouterr().err


def test_skopeo_copies_in_and_out(tmp_path: Path) -> None:
    """An image of two platforms is pushed, mounted and pulled, and stays the same."""
    needs("skopeo")
    made = make_layout(tmp_path / "in", make_layers(3), tag="v1", platforms=("linux/amd64", "linux/arm64"))
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    flags = ("copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false")
    with running_registry() as registry:
        first, second = (f"docker://{registry.address}/team/{name}:v1" for name in ("app", "copy"))
        run("skopeo", *flags, f"oci:{made.path}:v1", first, **environment)
        run("skopeo", *flags, first, second, **environment)
        run("skopeo", *flags, second, f"oci:{tmp_path / 'out'}:v1", **environment)
        assert all(registry.uploads(layer.digest) == 1 for layer in made.layers)
        assert registry.mounts() > 0
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["manifests"][0]["digest"] == made.root.digest
    assert {path.name for path in (tmp_path / "out" / "blobs" / "sha256").iterdir()} == {
        path.name for path in (made.path / "blobs" / "sha256").iterdir()
    }
