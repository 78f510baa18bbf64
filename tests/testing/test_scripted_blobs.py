import asyncio
from pathlib import Path
from typing import Literal

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.testing import CutReceiving, Fault, RegistryOptions
from support.scripted import code_of, finish_upload, push_blob, start_upload, talk_to
from support.waiting import until

DATA = b"0123456789" * 10
DIGEST = Digest.of(DATA)
NAME = "team/app"


def files_in(folder: Path) -> list[Path]:
    """Return all files of a folder, at any depth."""
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(params=["memory", "folder"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> RegistryOptions:
    """Both stores of blobs: memory and a folder."""
    return RegistryOptions(root=tmp_path / "blobs" if request.param == "folder" else None)


async def test_a_blob_goes_in_and_comes_out(options: RegistryOptions) -> None:
    """GET and HEAD return a blob that POST and PUT uploaded, with its length and digest."""
    async with talk_to(options) as (registry, client):
        assert await push_blob(client, NAME, DATA) == DIGEST
        for method, body in (("GET", DATA), ("HEAD", b"")):
            answer = await client.request(method, f"/v2/{NAME}/blobs/{DIGEST}")
            assert (answer.status_code, answer.content) == (200, body)
            assert answer.headers["content-length"] == str(len(DATA))
            assert answer.headers["docker-content-digest"] == DIGEST
        assert registry.uploads(DIGEST) == registry.uploads() == 1
        assert registry.upload_bytes == registry.bytes_received == len(DATA)
        assert registry.open_sessions == ()
        assert (await client.get(f"/v2/other/blobs/{DIGEST}")).status_code == 404


async def test_sha512_is_a_digest_too(options: RegistryOptions) -> None:
    """A blob may be named by either algorithm."""
    digest = Digest.of(DATA, algorithm="sha512")
    async with talk_to(options) as (_, client):
        started = await start_upload(client, NAME)
        assert (await finish_upload(client, started.headers["location"], digest, DATA)).status_code == 201
        assert (await client.get(f"/v2/{NAME}/blobs/{digest}")).content == DATA


async def test_a_whole_blob_fits_in_one_post(options: RegistryOptions) -> None:
    """POST with ?digest= and a body needs no session; a wrong digest leaves none."""
    async with talk_to(options) as (registry, client):
        url = f"/v2/{NAME}/blobs/uploads/"
        done = await client.post(url, params={"digest": DIGEST}, content=DATA)
        assert (done.status_code, done.headers["docker-content-digest"]) == (201, DIGEST)
        wrong = await client.post(url, params={"digest": DIGEST}, content=b"other")
        assert (wrong.status_code, code_of(wrong)) == (400, "DIGEST_INVALID")
        assert registry.open_sessions == ()


async def test_a_post_that_is_cut_leaves_no_session(options: RegistryOptions) -> None:
    """A blob that is uploaded in one request is complete or absent."""
    fault = Fault(method="POST", action=CutReceiving(after=10))
    async with talk_to(options, fault) as (registry, client):
        with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
            await client.post(f"/v2/{NAME}/blobs/uploads/", params={"digest": DIGEST}, content=DATA)
        assert (registry.open_sessions, registry.uploads()) == ((), 0)


async def test_a_blob_comes_in_chunks(options: RegistryOptions) -> None:
    """Chunks are appended, GET returns the offset, and a chunk at a wrong offset is a 416 that changes nothing."""
    async with talk_to(options) as (registry, client):
        location = (await start_upload(client, NAME)).headers["location"]
        first = await client.patch(location, content=DATA[:60], headers={"Content-Range": "0-59"})
        assert (first.status_code, first.headers["range"]) == (202, "0-59")
        location = first.headers["location"]
        wrong = await client.patch(location, content=DATA[:5], headers={"Content-Range": "70-74"})
        assert (wrong.status_code, wrong.headers["range"]) == (416, "0-59")
        status = await client.get(location)
        assert (status.status_code, status.headers["range"]) == (204, "0-59")
        done = await client.put(
            httpx.URL(status.headers["location"]).copy_add_param("digest", DIGEST),
            content=DATA[60:],
            headers={"Content-Range": "60-99"},
        )
        assert done.status_code == 201
        assert registry.uploads(DIGEST) == 1


@pytest.mark.parametrize(
    ("content_range", "code"), [("bytes 0-4/5", "BLOB_UPLOAD_INVALID"), ("0-9", "SIZE_INVALID")]
)
async def test_a_bad_content_range_is_refused(content_range: str, code: str) -> None:
    """A Content-Range that is malformed or contradicts the Content-Length is refused."""
    async with talk_to() as (_, client):
        location = (await start_upload(client, NAME)).headers["location"]
        answer = await client.patch(location, content=b"12345", headers={"Content-Range": content_range})
        assert (answer.status_code, code_of(answer)) == (400, code)


async def test_a_wrong_digest_ends_the_session(options: RegistryOptions) -> None:
    """An upload with the wrong digest is not stored, and its session ends."""
    async with talk_to(options) as (registry, client):
        location = (await start_upload(client, NAME)).headers["location"]
        wrong = await finish_upload(client, location, DIGEST, b"other")
        assert (wrong.status_code, code_of(wrong)) == (400, "DIGEST_INVALID")
        again = await finish_upload(client, location, DIGEST, DATA)
        assert (again.status_code, code_of(again)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert registry.uploads() == 0


async def test_the_state_of_a_location_matters() -> None:
    """A Location without its query, or an outdated one, is refused; a status request accepts outdated ones."""
    async with talk_to() as (_, client):
        first = (await start_upload(client, NAME)).headers["location"]
        bare = await client.patch(str(httpx.URL(first).copy_with(query=None)), content=DATA)
        assert (bare.status_code, code_of(bare)) == (404, "BLOB_UPLOAD_INVALID")
        assert (await client.patch(first, content=DATA)).status_code == 202
        late = await finish_upload(client, first, DIGEST)
        assert (late.status_code, code_of(late)) == (404, "BLOB_UPLOAD_INVALID")
        newest = (await client.get(first)).headers["location"]
        assert (await finish_upload(client, newest, DIGEST)).status_code == 201


async def test_a_session_belongs_to_its_repository() -> None:
    """A session cannot be used through the path of another repository."""
    async with talk_to(RegistryOptions(location_state=False)) as (registry, client):
        location = (await start_upload(client, NAME)).headers["location"]
        assert "?" not in location
        assert (await client.get(location.replace(NAME, "team/other"))).status_code == 404
        assert registry.open_sessions == ("upload-1",)


async def test_a_session_can_be_cancelled(options: RegistryOptions) -> None:
    """DELETE of a Location ends the session."""
    async with talk_to(options) as (registry, client):
        location = (await start_upload(client, NAME)).headers["location"]
        assert (await client.delete(location)).status_code == 204
        assert (await client.delete(location)).status_code == 404
        assert registry.open_sessions == ()


async def test_cancelling_and_deleting_can_be_off() -> None:
    """A registry can refuse every DELETE."""
    async with talk_to(RegistryOptions(cancels=False, deletes=False)) as (registry, client):
        location = (await start_upload(client, NAME)).headers["location"]
        registry.put_blob(NAME, DATA)
        assert (await client.delete(location)).status_code == 405
        assert (await client.delete(f"/v2/{NAME}/blobs/{DIGEST}")).status_code == 405


async def test_a_deleted_blob_is_gone_from_its_repository_alone() -> None:
    """A deletion affects only one repository."""
    async with talk_to() as (registry, client):
        registry.put_blob(NAME, DATA)
        registry.put_blob("team/other", DATA)
        assert (await client.delete(f"/v2/{NAME}/blobs/{DIGEST}")).status_code == 202
        assert (await client.delete(f"/v2/{NAME}/blobs/{DIGEST}")).status_code == 404
        assert (await client.get(f"/v2/team/other/blobs/{DIGEST}")).content == DATA


@pytest.mark.parametrize(
    ("span", "status", "content"),
    [
        ("bytes=0-9", 206, DATA[:10]),
        ("bytes=95-", 206, DATA[95:]),
        ("bytes=95-1000", 206, DATA[95:]),
        ("bytes=-3", 206, DATA[-3:]),
        ("bytes=-1000", 206, DATA),
        ("bytes=-", 200, DATA),
        ("bytes=0-1,5-6", 200, DATA),
        ("lines=0-1", 200, DATA),
    ],
)
async def test_a_part_of_a_blob_can_be_read(
    span: str, status: int, content: bytes, options: RegistryOptions
) -> None:
    """Range returns a part of a blob, and is ignored where RFC 9110 allows that."""
    async with talk_to(options) as (registry, client):
        registry.put_blob(NAME, DATA)
        answer = await client.get(f"/v2/{NAME}/blobs/{DIGEST}", headers={"Range": span})
        assert (answer.status_code, answer.content) == (status, content)
        assert answer.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("span", ["bytes=100-", "bytes=5-2", "bytes=-0"])
async def test_a_part_that_is_not_there_is_told(span: str) -> None:
    """A range past the end is a 416 with the size."""
    async with talk_to() as (registry, client):
        registry.put_blob(NAME, DATA)
        answer = await client.get(f"/v2/{NAME}/blobs/{DIGEST}", headers={"Range": span})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(DATA)}")


async def test_locations_can_be_relative_or_anothers() -> None:
    """A test chooses the host of Locations; by default it is the host that the client used."""
    async with talk_to() as (registry, client):
        answer = await client.post(f"/v2/{NAME}/blobs/uploads/", headers={"Host": "registry.test:5000"})
        assert answer.headers["location"].startswith("http://registry.test:5000/v2/")
        assert registry.requests[-1].headers["host"] == "registry.test:5000"
    async with talk_to(RegistryOptions(relative_locations=True)) as (_, client):
        assert (await start_upload(client, NAME)).headers["location"].startswith("/v2/")
        await push_blob(client, NAME, DATA)
    async with talk_to(RegistryOptions(location_base="https://storage.test")) as (_, client):
        assert (await start_upload(client, NAME)).headers["location"].startswith("https://storage.test/v2/")


async def test_a_folder_keeps_whole_blobs_and_no_halves(tmp_path: Path) -> None:
    """When the registry stops, unfinished uploads are removed."""
    async with talk_to(RegistryOptions(root=tmp_path)) as (_, client):
        await push_blob(client, NAME, DATA)
        location = (await start_upload(client, NAME)).headers["location"]
        await client.patch(location, content=DATA)
    assert files_in(tmp_path) == [tmp_path / "blobs" / "sha256" / DIGEST.encoded]


async def test_a_broken_folder_is_the_registrys_failure(tmp_path: Path) -> None:
    """An error of the disk is a 500 and does not block the request."""
    async with talk_to(RegistryOptions(root=tmp_path)) as (_, client):
        (tmp_path / "uploads").rmdir()
        answer = await start_upload(client, NAME)
        assert (answer.status_code, code_of(answer)) == (500, "UNKNOWN")


async def test_a_truncated_file_ends_the_answer_early(tmp_path: Path) -> None:
    """The connection is cut when a blob's file has become shorter."""
    async with talk_to(RegistryOptions(root=tmp_path)) as (registry, client):
        registry.put_blob(NAME, DATA)
        (tmp_path / "blobs" / "sha256" / DIGEST.encoded).write_bytes(DATA[:10])
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"/v2/{NAME}/blobs/{DIGEST}")


async def test_an_upload_may_take_long_to_become_a_blob() -> None:
    """With `commit_seconds`, a blob exists only after that time, even if its client has gone away."""
    async with talk_to(RegistryOptions(commit_seconds=2.0)) as (registry, client):
        location = httpx.URL((await start_upload(client, NAME)).headers["location"])
        put = location.copy_add_param("digest", DIGEST)
        giving_up = asyncio.create_task(client.put(put, content=DATA))
        await until(lambda: registry.underway == 1)
        giving_up.cancel()
        await asyncio.wait([giving_up])
        assert (await client.head(f"/v2/{NAME}/blobs/{DIGEST}")).status_code == 404
        assert (await client.get(location)).status_code == 404
        await until(lambda: registry.underway == 0)
        assert registry.uploads(DIGEST) == 1
        assert (await client.head(f"/v2/{NAME}/blobs/{DIGEST}")).status_code == 200


@pytest.mark.parametrize(("heads", "status"), [("own", 404), ("anywhere", 200), ("linking", 200)])
async def test_a_head_may_report_blobs_of_other_repositories(
    heads: Literal["own", "anywhere", "linking"], status: int
) -> None:
    """A HEAD that links a blob makes it readable from then on."""
    async with talk_to(RegistryOptions(blob_heads=heads)) as (registry, client):
        registry.put_blob("far/away", DATA)
        path = f"/v2/{NAME}/blobs/{DIGEST}"
        assert (await client.head(path)).status_code == status
        assert (await client.get(path)).status_code == (200 if heads == "linking" else 404)
