"""Upload sessions of clients, spooled and relayed."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.proxy.settings import ServerLimits
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.proxy.uploads.spool_file import SpoolFullError
from crossmount.testing import CutBefore, CutReceiving, Fault, LoseAnswer, RegistryOptions, Reply, ScriptedRegistry
from support.proxies import ProxyUnderTest, begin_upload, error_code, pieces, proxy_before
from support.waiting import until

DATA = os.urandom(3 * 1024 * 1024 + 17)
DIGEST = Digest.of(DATA)


def spooled(proxy: ProxyUnderTest) -> int:
    """Return the bytes on local disk."""
    assert proxy.app.core.spool is not None
    return proxy.app.core.spool.taken


@pytest.fixture(params=["spooled", "straight"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Both ways of an upload."""
    return tmp_path / "spool" if request.param == "spooled" else None


async def test_a_monolithic_upload(spool: Path | None) -> None:
    """POST, then PUT with all bytes: 201 with the blob's Location, and the index knows the source."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=spool) as proxy:
        location = await begin_upload(proxy, "a")
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert (answer.status_code, answer.headers["location"]) == (201, f"/v2/a/blobs/{DIGEST}")
        assert (await proxy.client.get(f"/v2/a/blobs/{DIGEST}")).content == DATA
        assert await proxy.learnt(DIGEST) == {"a"}
        assert len(proxy.app.core.sessions) == 0
        assert registry.uploads(DIGEST) == 1


async def test_a_chunked_upload_with_status_requests(spool: Path | None) -> None:
    """An upload in chunks works with and without Content-Range, with a GET between them and an empty last PUT."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=spool) as proxy:
        location = await begin_upload(proxy, "a")
        half = len(DATA) // 2
        first = await proxy.client.patch(location, content=DATA[:half], headers={"Content-Range": f"0-{half - 1}"})
        assert (first.status_code, first.headers["range"]) == (202, f"0-{half - 1}")
        status = await proxy.client.get(first.headers["location"])
        assert (status.status_code, status.headers["range"]) == (204, f"0-{half - 1}")
        wrong = await proxy.client.patch(location, content=b"x", headers={"Content-Range": "0-0"})
        assert wrong.status_code == 416
        second = await proxy.client.patch(location, content=pieces(DATA[half:], 50_000))
        assert (second.status_code, second.headers["range"]) == (202, f"0-{len(DATA) - 1}")
        done = await proxy.client.put(f"{second.headers['location']}?digest={DIGEST}")
        assert done.status_code == 201
        assert registry.upload_bytes == len(DATA)


async def test_a_wrong_digest_is_refused(spool: Path | None) -> None:
    """Bytes with another digest are DIGEST_INVALID, and leave no blob and no session."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=spool) as proxy:
        location = await begin_upload(proxy, "a")
        answer = await proxy.client.put(f"{location}?digest={Digest.of(b'other')}", content=DATA)
        assert (answer.status_code, error_code(answer)) == (400, "DIGEST_INVALID")
        assert registry.uploads() == 0
        if spool:
            assert spooled(proxy) == 0
            assert registry.open_sessions == ()


async def test_an_upload_can_be_cancelled(spool: Path | None) -> None:
    """DELETE ends the session with 204, at the proxy and at the registry."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=spool) as proxy:
        location = await begin_upload(proxy, "a")
        await proxy.client.patch(location, content=b"some")
        assert (await proxy.client.delete(location)).status_code == 204
        assert registry.open_sessions == ()
        gone = await proxy.client.get(location)
        assert (gone.status_code, error_code(gone)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_spooled_upload_is_mounted_when_its_digest_is_named(tmp_path: Path) -> None:
    """An upload whose digest comes last is mounted, and none of its bytes reaches the registry."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        registry.put_blob("base", DATA)
        await proxy.knows(DIGEST, "base")
        location = await begin_upload(proxy, "a")
        await proxy.client.patch(location, content=DATA)
        answer = await proxy.client.put(f"{location}?digest={DIGEST}")
        assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, DIGEST)
        assert (registry.mounts(DIGEST), registry.bytes_received) == (1, 0)
        assert registry.open_sessions == ()
        assert spooled(proxy) == 0


async def test_sha512_is_checked_too(tmp_path: Path) -> None:
    """A digest of another algorithm than sha256 is accepted."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        digest = Digest.of(DATA, algorithm="sha512")
        location = await begin_upload(proxy, "a")
        answer = await proxy.client.put(f"{location}?digest={digest}", content=DATA)
        assert answer.status_code == 201
        assert registry.uploads(digest) == 1


@pytest.mark.parametrize("limit", [0, 1, 1024 * 1024, 2 * 1024 * 1024 + 5])
async def test_over_the_limit_an_upload_goes_straight_through(tmp_path: Path, limit: int) -> None:
    """When the spool is full, every byte reaches the registry once and in order."""
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, spool=tmp_path, limits=ServerLimits(spool_bytes=limit, grace=1)) as proxy,
    ):
        for size in (len(DATA), None):
            location = await begin_upload(proxy, "a")
            third = len(DATA) // 3
            content = DATA[:third] if size else pieces(DATA[:third], 70_000)
            first = await proxy.client.patch(location, content=content)
            assert (first.status_code, first.headers["range"]) == (202, f"0-{third - 1}")
            second = await proxy.client.patch(first.headers["location"], content=DATA[third : 2 * third])
            answer = await proxy.client.put(
                f"{second.headers['location']}?digest={DIGEST}", content=DATA[2 * third :]
            )
            assert answer.status_code == 201
        assert (await proxy.client.get(f"/v2/a/blobs/{DIGEST}")).content == DATA
        assert spooled(proxy) == 0


async def test_a_full_disk_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk refuses a write, the bytes before and after it still reach the registry."""
    real = os.pwrite
    calls = iter(range(1000))

    def full(fd: int, data: bytes, offset: int) -> int:
        if next(calls) >= 1:
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        monkeypatch.setattr("crossmount.proxy.uploads.spool.os.pwrite", full)
        location = await begin_upload(proxy, "a")
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert answer.status_code == 201
        assert (await proxy.client.get(f"/v2/a/blobs/{DIGEST}")).content == DATA
        assert spooled(proxy) == 0


async def test_a_folder_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    """When no spool file can be created, the upload is relayed."""
    folder = tmp_path / "spool"
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=folder) as proxy:
        folder.rmdir()
        location = await begin_upload(proxy, "a")
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert answer.status_code == 201


@pytest.mark.parametrize(
    "fault",
    [
        Fault(method="PUT", action=Reply(status=503)),
        Fault(method="PUT", action=CutReceiving(after=1_000_000)),
        Fault(method="PUT", action=LoseAnswer()),
        Fault(method="PUT", action=CutBefore()),
    ],
)
async def test_a_spooled_upload_survives_trouble_upstream(tmp_path: Path, fault: Fault) -> None:
    """The proxy retries and resumes an upload to the registry; the client gets one 201."""
    async with ScriptedRegistry(faults=[fault]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        location = await begin_upload(proxy, "a")
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert answer.status_code == 201
        assert (await proxy.client.get(f"/v2/a/blobs/{DIGEST}")).content == DATA


async def test_a_registry_that_refuses_the_blob_is_heard(tmp_path: Path) -> None:
    """The client gets the status and code of the registry's refusal, and nothing is left."""
    fault = Fault(method="PUT", times=None, action=Reply(status=413, code="SIZE_INVALID"))
    async with ScriptedRegistry(faults=[fault]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        location = await begin_upload(proxy, "a")
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert (answer.status_code, error_code(answer)) == (413, "SIZE_INVALID")
        assert spooled(proxy) == 0
        assert len(proxy.app.core.sessions) == 0


async def test_a_registry_that_vanishes_is_a_502_and_leaves_nothing(spool: Path | None) -> None:
    """A registry that closes every connection is a 502, and no spooled bytes are left."""
    fault = Fault(path="*uploads/?*", times=None, action=CutBefore())
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=spool) as proxy:
        location = await begin_upload(proxy, "a")
        registry.play(
            fault,
            Fault(method="HEAD", times=None, action=CutBefore()),
            Fault(method="POST", times=None, action=CutBefore()),
        )
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert (answer.status_code, error_code(answer)) == (502, "UNAVAILABLE")
        if spool:
            assert spooled(proxy) == 0


async def test_a_client_that_vanishes_may_resume(tmp_path: Path) -> None:
    """The bytes of an interrupted PATCH stay; GET returns the offset, and the upload goes on from there."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        location = await begin_upload(proxy, "a")
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(
            f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n".encode()
            + DATA[:100_000]
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        del reader
        got = 0
        while not got:
            status = await proxy.client.get(location)
            if status.status_code == 204:
                got = int(status.headers["range"].partition("-")[2])
            await asyncio.sleep(0)
        got += 1
        assert got <= 100_000
        rest = await proxy.client.patch(
            location, content=DATA[got:], headers={"Content-Range": f"{got}-{len(DATA) - 1}"}
        )
        assert rest.status_code == 202
        assert (await proxy.client.put(f"{location}?digest={DIGEST}")).status_code == 201
        assert registry.uploads(DIGEST) == 1


@pytest.mark.parametrize(
    "options", [RegistryOptions(relative_locations=True), RegistryOptions(location_state=True)]
)
async def test_locations_of_every_form_stay_on_the_proxy(spool: Path | None, options: RegistryOptions) -> None:
    """The client never sees the registry's Location, whatever its form."""
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url, spool=spool) as proxy:
        location = await begin_upload(proxy, "a")
        assert httpx.URL(location).is_relative_url
        assert "?" not in location
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert answer.status_code == 201


async def test_a_location_on_another_host_gets_no_credentials() -> None:
    """Bytes follow the registry's Location to another port of its host; Authorization does not."""
    async with ScriptedRegistry() as other:
        options = RegistryOptions(location_base=other.url)
        async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
            location = await begin_upload(proxy, "a", headers={"Authorization": "Basic YTpi"})
            assert location.startswith("/v2/a/")
            await proxy.client.put(
                f"{location}?digest={DIGEST}", content=b"x", headers={"Authorization": "Basic YTpi"}
            )
            assert [record.auth_scheme for record in other.requests] == [""]
            assert {record.auth_scheme for record in registry.requests} == {"basic"}


async def test_a_location_on_a_foreign_plain_host_is_refused() -> None:
    """A Location with http on another host is refused."""
    options = RegistryOptions(location_base="http://169.254.169.254")
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
        answer = await proxy.client.post("/v2/a/blobs/uploads/")
        assert (answer.status_code, error_code(answer)) == (502, "UNAVAILABLE")


async def test_a_session_is_one_callers_in_one_repository(spool: Path | None) -> None:
    """A session is unknown to another caller and in another repository."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=spool) as proxy:
        mine = {"Authorization": "Basic YTpi"}
        location = await begin_upload(proxy, "a", headers=mine)
        for path, headers in (
            (location, {}),
            (location, {"Authorization": "Basic YTpj"}),
            (location.replace("/a/", "/b/"), mine),
        ):
            answer = await proxy.client.put(f"{path}?digest={DIGEST}", content=DATA, headers=headers)
            assert (answer.status_code, error_code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert (await proxy.client.get(location, headers=mine)).status_code == 204


async def test_two_requests_on_one_session_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request on a session waits for the first, and is refused if that takes long."""
    monkeypatch.setattr("crossmount.proxy.uploads.sessions.BUSY_SECONDS", 0.1)
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        location = await begin_upload(proxy, "a")
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield DATA[:10]
            await go_on.wait()
            yield DATA[10:]

        first = asyncio.create_task(proxy.client.patch(location, content=slow()))
        await until(lambda: any(session.busy for session in proxy.app.core.sessions._open.values()))
        second = await proxy.client.patch(location, content=b"x")
        assert (second.status_code, error_code(second)) == (409, "BLOB_UPLOAD_INVALID")
        go_on.set()
        assert (await first).status_code == 202
        assert (await proxy.client.put(f"{location}?digest={DIGEST}")).status_code == 201


async def ask(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: str, content: bytes
) -> tuple[int, str]:
    """Send a request over a bare connection; returns status and Location as soon as they are there."""
    reader, writer = connection
    writer.write(f"{line} HTTP/1.1\r\nHost: p\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    found = dict(part.split(": ", 1) for part in head.split("\r\n")[1:] if part)
    await reader.readexactly(int(found.get("content-length", 0)))
    return int(head.split()[1]), found.get("location", "")


async def test_a_client_that_asks_on_at_once_is_served(spool: Path | None) -> None:
    """A client may send its next request as soon as it has read the previous answer."""
    body = b"x" * 100
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=spool) as proxy:
        for number in range(30):
            name, data = f"a-{number}", body + b"%d" % number
            reader, writer = await asyncio.open_connection(*proxy.address)

            connection = reader, writer
            status, location = await ask(connection, f"POST /v2/{name}/blobs/uploads/", b"")
            assert status == 202
            status, location = await ask(connection, f"PATCH {location}", data)
            assert status == 202
            status, _ = await ask(connection, f"PUT {location}?digest={Digest.of(data)}", b"")
            assert status == 201
            writer.close()
            await writer.wait_closed()


async def test_bytes_of_a_relayed_upload_are_counted() -> None:
    """PATCHes and an empty PUT make one blob."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        location = await begin_upload(proxy, "a")
        for part in (DATA[:1000], DATA[1000:5000]):
            location = (await proxy.client.patch(location, content=part)).headers["location"]
        put = await proxy.client.put(f"{location}?digest={Digest.of(DATA[:5000])}")
        assert put.status_code == 201
        page = (await proxy.client.get("/_crossmount/metrics")).text
        assert 'crossmount_proxy_blob_bytes_total{outcome="uploaded"} 5000.0' in page


async def test_other_methods_and_missing_digests_are_refused(tmp_path: Path) -> None:
    """An unknown method gets a 405, and a PUT without a digest DIGEST_INVALID."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        location = await begin_upload(proxy, "a")
        assert (await proxy.client.post(location)).status_code == 405
        put = await proxy.client.put(location)
        assert (put.status_code, error_code(put)) == (400, "DIGEST_INVALID")


async def test_the_spool_gives_back_what_it_took(tmp_path: Path) -> None:
    """A spool file counts its bytes, can be read from any offset, and has no name on disk."""
    area = SpoolFolder(tmp_path, limit=5 * 1024 * 1024)
    spool = area.open("one")
    await spool.append(DATA[:1_500_000])
    await spool.append(DATA[1_500_000:])
    for offset in (0, 1_000_000, len(DATA) - 1, len(DATA)):
        assert b"".join([part async for part in spool.read(offset)]) == DATA[offset:]
    await spool.flush()
    assert await spool.matches(DIGEST)
    assert not await spool.matches(Digest.of(b""))
    assert os.listdir(tmp_path) == []  # noqa: PTH208 a quick look
    second = area.open("one")
    with pytest.raises(SpoolFullError):
        await second.append(DATA)
    assert b"".join([part async for part in second.read()]) == DATA
    await second.aclose()
    assert area.taken == len(DATA)
    await spool.aclose()
    assert area.taken == 0
