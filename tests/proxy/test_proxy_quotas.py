"""Quotas of a policy: what is beyond them is refused, and leaves nothing half done."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crossmount.oci import Digest
from crossmount.testing import ScriptedRegistry
from support.proxies import error_code, proxy_before
from support.waiting import until

DATA = b"a layer"
DIGEST = Digest.of(DATA)
LARGE = bytes(3 * 1024 * 1024)


def policy(tmp_path: Path, text: str) -> Path:
    """Write a policy file."""
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return file


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    """Yield data in pieces, so that its length is not announced."""
    for start in range(0, len(data), 64 * 1024):
        yield data[start : start + 64 * 1024]


async def test_quotas(tmp_path: Path) -> None:
    """An upload too many, and one after the bytes of a day, is refused with 429; other repositories go on."""
    text = """
        [[rule]]
        repositories = ["few/*"]
        uploads = 1
        [[rule]]
        repositories = ["small/*"]
        bytes_per_day = 10
    """
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=policy(tmp_path, text)) as proxy,
    ):
        opened = await proxy.client.post("/v2/few/a/blobs/uploads/")
        refused = await proxy.client.post("/v2/few/b/blobs/uploads/")
        assert (opened.status_code, refused.status_code) == (202, 429)
        assert (error_code(refused), refused.headers["retry-after"]) == ("TOOMANYREQUESTS", "60")
        assert "too many uploads at once into few/*: this proxy's policy permits 1" in refused.text
        await proxy.client.delete(opened.headers["location"])
        assert (await proxy.client.post("/v2/few/b/blobs/uploads/")).status_code == 202

        location = (await proxy.client.post("/v2/small/a/blobs/uploads/")).headers["location"]
        location = (await proxy.client.patch(location, content=b"0123456789")).headers["location"]
        refused = await proxy.client.post("/v2/small/b/blobs/uploads/")
        assert refused.status_code == 429
        assert "too many bytes for today into small/*: this proxy's policy permits 10" in refused.text
        digest = Digest.of(b"0123456789")
        assert (await proxy.client.put(f"{location}?digest={digest}")).status_code == 201
        assert (await proxy.client.head(f"/v2/small/a/blobs/{digest}")).status_code == 200
        assert (await proxy.client.put("/v2/small/a/manifests/1", content=b"{}")).status_code != 429
        assert (await proxy.client.post("/v2/large/blobs/uploads/")).status_code == 202


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
@pytest.mark.parametrize("spooled", [True, False], ids=["spooled", "relayed"])
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "unasked"])
async def test_an_upload_that_outgrows_its_quota_is_stopped(
    tmp_path: Path, method: str, *, announced: bool, spooled: bool, asked: bool
) -> None:
    """An upload with more bytes than the day has left is refused, and so is what is asked of it later."""
    text = '[[rule]]\nrepositories = ["*"]\nbytes_per_day = "2MiB"\n'
    spool = tmp_path / "spool" if spooled else None
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=policy(tmp_path, text), spool=spool) as proxy,
    ):
        digest = Digest.of(LARGE)
        if asked:
            assert (await proxy.client.head(f"/v2/a/blobs/{digest}")).status_code == 404
        location = (await proxy.client.post("/v2/a/blobs/uploads/")).headers["location"]
        target = f"{location}?digest={digest}" if method == "PUT" else location
        content = LARGE if announced else in_pieces(LARGE)
        crane = {
            "User-Agent": "go-containerregistry/v0.20.2"
        }  # goes on to the registry while it arrives, if asked
        refused = await proxy.client.request(method, target, content=content, headers=crane)
        assert (refused.status_code, error_code(refused)) == (429, "TOOMANYREQUESTS")
        assert registry.open_sessions == ()
        assert registry.uploads() == 0
        for again in ("GET", "PATCH", "PUT"):  # regctl asks for the offset after a 429
            answer = await proxy.client.request(again, target, content=b"")
            assert (answer.status_code, error_code(answer)) == (429, "TOOMANYREQUESTS")
        assert (await proxy.client.get(location.replace("/a/", "/b/"))).status_code == 404
        assert len(proxy.app.core.sessions) == 0
        small = await proxy.client.post(f"/v2/a/blobs/uploads/?digest={DIGEST}", content=DATA)
        assert small.status_code == (201 if announced else 429)


async def test_uploads_at_once_share_a_quota(tmp_path: Path) -> None:
    """Uploads that each fit, and not together, are stopped as soon as the quota is used up."""
    text = '[[rule]]\nrepositories = ["*"]\nbytes_per_day = "4MiB"\n'
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=policy(tmp_path, text), spool=tmp_path / "spool") as proxy,
    ):
        opened = [(await proxy.client.post("/v2/a/blobs/uploads/")).headers["location"] for _ in range(3)]
        sent = await asyncio.gather(*(proxy.client.patch(location, content=LARGE) for location in opened))
        assert sorted(answer.status_code for answer in sent)[1:] == [429, 429]
        await until(lambda: len(registry.open_sessions) == len(proxy.app.core.sessions))


@pytest.mark.parametrize("query", ["", f"?digest={DIGEST}"], ids=["session", "whole"])
async def test_uploads_that_start_together_are_counted(tmp_path: Path, query: str) -> None:
    """Of uploads that start at the same time as many go on as the rule permits; the others leave no session."""
    text = '[[rule]]\nrepositories = ["*"]\nuploads = 2\n'
    body = DATA if query else b""
    head = f"POST /v2/a/blobs/uploads/{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=policy(tmp_path, text)) as proxy,
    ):
        clients = [await asyncio.open_connection(*proxy.address) for _ in range(10)]
        for _, writer in clients:
            writer.write(head.encode())
        answers = [asyncio.create_task(reader.readline()) for reader, _ in clients]
        await until(lambda: sum(answer.done() for answer in answers) >= 8)
        for _, writer in clients:
            writer.write(body)
        statuses = sorted([(await answer).split()[1] for answer in answers])
        assert statuses == [b"201" if query else b"202"] * 2 + [b"429"] * 8
        for _, writer in clients:
            writer.close()
        await until(lambda: len(registry.open_sessions) == len(proxy.app.core.sessions))


async def test_a_mounted_blob_is_not_refused_for_its_bytes(tmp_path: Path) -> None:
    """A client that sends the bytes of a blob that was mounted meanwhile is told so, also beyond the quota."""
    text = '[[rule]]\nrepositories = ["*"]\nbytes_per_day = "2MiB"\n'
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=policy(tmp_path, text), spool=None) as proxy,
    ):
        digest = registry.put_blob("base", LARGE)
        location = (await proxy.client.post("/v2/a/blobs/uploads/")).headers["location"]
        await proxy.knows(digest, "base")
        mounted = await proxy.client.put(f"{location}?digest={digest}", content=in_pieces(LARGE))
        assert (mounted.status_code, registry.mounts()) == (201, 1)
        assert (await proxy.client.post("/v2/a/blobs/uploads/")).status_code == 429


@pytest.mark.parametrize("quota", ["uploads = 1", "bytes_per_day = 5"])
async def test_a_mount_needs_no_quota(tmp_path: Path, quota: str) -> None:
    """A client's own mount passes when uploads are refused; one that would become an upload leaves no session."""
    text = f'[[rule]]\nrepositories = ["a"]\n{quota}\n'
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=policy(tmp_path, text), spool=tmp_path / "spool") as proxy,
    ):
        registry.put_blob("b", DATA)
        location = (await proxy.client.post("/v2/a/blobs/uploads/")).headers["location"]
        await proxy.client.patch(location, content=b"12345")
        assert (await proxy.client.post("/v2/a/blobs/uploads/")).status_code == 429
        mounted = await proxy.client.post(f"/v2/a/blobs/uploads/?mount={DIGEST}&from=b")
        assert mounted.status_code == 201
        refused = await proxy.client.post(f"/v2/a/blobs/uploads/?mount={Digest.of(LARGE)}&from=b")
        assert (refused.status_code, error_code(refused)) == (429, "TOOMANYREQUESTS")
        await until(lambda: len(registry.open_sessions) == len(proxy.app.core.sessions) == 1)
