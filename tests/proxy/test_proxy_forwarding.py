"""Requests that the proxy forwards, and the answers that it gives itself."""

import gzip
from pathlib import Path

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.testing import CutBefore, CutSending, Fault, RegistryOptions, Reply, ScriptedRegistry
from support.proxies import begin_upload, error_code, pieces, proxy_before

DATA = bytes(range(256)) * 4096


async def test_a_pull_passes_byte_for_byte_with_ranges_and_heads() -> None:
    """A pull returns the registry's own status, length, range and body."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("team/app", DATA)
        path = f"/v2/team/app/blobs/{digest}"
        whole = await proxy.client.get(path)
        part = await proxy.client.get(path, headers={"Range": "bytes=10-19"})
        head = await proxy.client.head(path)
        none = await proxy.client.get(f"/v2/team/app/blobs/{Digest.of(b'none')}")
        assert (whole.status_code, whole.content) == (200, DATA)
        assert (part.status_code, part.content) == (206, DATA[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(DATA)}"
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
        assert head.headers["docker-content-digest"] == digest
        assert (none.status_code, error_code(none)) == (404, "BLOB_UNKNOWN")


async def test_a_compressed_answer_is_not_decoded() -> None:
    """A compressed body is forwarded as it is, with its header."""
    packed = gzip.compress(b"{}" * 1000)
    fault = Fault(
        path="*tags/list", action=Reply(status=200, body=packed, headers=(("Content-Encoding", "gzip"),))
    )
    async with ScriptedRegistry(faults=[fault]) as registry, proxy_before(registry.url) as proxy:
        async with proxy.client.stream("GET", "/v2/a/tags/list") as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert raw == packed


async def test_tags_pages_errors_and_deletes_pass() -> None:
    """Tags, catalog pages, errors and deletes are the registry's answers; links to pages lead to the proxy."""
    async with ScriptedRegistry(RegistryOptions(page_size=1)) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("a", b"{}")
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2},
            "layers": [],
        }
        for tag in ("one", "two"):
            put = await proxy.client.put(f"/v2/a/manifests/{tag}", json=manifest, headers={"Content-Type": kind})
            assert put.status_code == 201
            assert put.headers["location"].startswith("/v2/a/manifests/")
        tags = await proxy.client.get("/v2/a/tags/list")
        assert tags.json()["tags"] == ["one"]
        assert tags.headers["link"].startswith("</v2/a/tags/list?")
        assert (await proxy.client.get("/v2/_catalog")).json() == {"repositories": ["a"]}
        assert (await proxy.client.get(f"/v2/a/referrers/{digest}")).status_code == 200
        gone = await proxy.client.delete("/v2/a/manifests/one")
        assert gone.status_code == 202
        assert (await proxy.client.get("/v2/")).status_code == 200
        assert await proxy.learnt(digest) == {"a"}


async def test_a_redirect_to_storage_is_the_clients_to_follow() -> None:
    """A redirect to a signed URL elsewhere is forwarded unchanged, and not followed by the proxy."""
    away = Reply(status=307, headers=(("Location", "https://storage.test/x?sig=1"),))
    async with (
        ScriptedRegistry(faults=[Fault(method="GET", path="*blobs*", action=away)]) as registry,
        proxy_before(registry.url) as proxy,
    ):
        answer = await proxy.client.get(f"/v2/a/blobs/{Digest.of(DATA)}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "https://storage.test/x?sig=1")


async def test_the_clients_forwarding_headers_do_not_reach_the_registry(tmp_path: Path) -> None:
    """The client's forwarding headers are dropped, since the registry would build its Locations from them."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        location = await begin_upload(proxy, "a", headers={"X-Forwarded-Host": "evil.test"})
        assert location.startswith("/v2/a/blobs/uploads/")
        assert "evil" not in str(next(iter(proxy.app.core.sessions._open.values())).location)


@pytest.mark.parametrize("fault", [CutBefore(), Reply(status=500)])
async def test_a_failure_of_the_registry_reaches_the_client(fault: CutBefore | Reply) -> None:
    """No answer of the registry is a 502 with an error of the specification; an error answer is forwarded."""
    async with (
        ScriptedRegistry(faults=[Fault(path="*tags*", times=None, action=fault)]) as registry,
        proxy_before(registry.url) as proxy,
    ):
        answer = await proxy.client.get("/v2/a/tags/list")
        assert answer.status_code in {500, 502}
        assert error_code(answer) in {"UNAVAILABLE", "UNKNOWN"}
        assert (await proxy.client.get("/v2/")).status_code == 200


async def test_a_pull_that_the_registry_cuts_is_cut_for_the_client() -> None:
    """A body that the registry cuts is cut for the client too, so it never looks complete."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("a", DATA)
        registry.play(Fault(method="GET", path="*blobs*", action=CutSending(after=1000)))
        with pytest.raises(httpx.RemoteProtocolError):
            await proxy.client.get(f"/v2/a/blobs/{digest}")
        assert (await proxy.client.get(f"/v2/a/blobs/{digest}")).content == DATA


async def test_nobody_listening_upstream_is_a_502() -> None:
    """Without a registry the proxy is alive, is not ready, and says so."""
    async with proxy_before("http://127.0.0.1:1") as proxy:
        answer = await proxy.client.get("/v2/")
        assert (answer.status_code, error_code(answer)) == (502, "UNAVAILABLE")
        assert (await proxy.client.get("/_crossmount/healthz")).text == "ok\n"
        assert (await proxy.client.get("/_crossmount/readyz")).status_code == 503


async def test_own_pages() -> None:
    """The proxy's own endpoints are health, readiness and metrics; others are a 404."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        assert (await proxy.client.get("/_crossmount/readyz")).status_code == 200
        assert (await proxy.client.head("/_crossmount/healthz")).status_code == 200
        metrics = (await proxy.client.get("/_crossmount/metrics")).text
        assert 'crossmount_proxy_blobs_total{outcome="mounted"} 0.0' in metrics
        assert (await proxy.client.get("/_crossmount/nothing")).status_code == 404
        assert (await proxy.client.post("/_crossmount/healthz")).status_code == 405


async def test_a_manifest_over_the_limit_is_refused_before_the_registry_sees_it() -> None:
    """A manifest over 4 MiB is refused, with and without a Content-Length."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        large = b"x" * (4 * 1024 * 1024 + 1)
        announced = await proxy.client.put("/v2/a/manifests/t", content=large)
        assert (announced.status_code, error_code(announced)) == (413, "SIZE_INVALID")
        chunked = await proxy.client.put("/v2/a/manifests/t", content=pieces(large, 65536))
        assert (chunked.status_code, error_code(chunked)) == (413, "SIZE_INVALID")
        assert not registry.matching(method="PUT")


async def test_a_manifest_of_a_kind_of_its_own_passes() -> None:
    """A manifest that crossmount cannot parse is forwarded, since the registry decides."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        answer = await proxy.client.put("/v2/a/manifests/t", content=b"{", headers={"Content-Type": "text/odd"})
        assert answer.status_code >= 400
        assert len(registry.matching(method="PUT")) == 1
