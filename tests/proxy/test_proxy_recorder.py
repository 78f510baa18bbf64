"""The sources that the proxy records, and its metrics and logs for operators."""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from crossmount.errors import IndexUnavailableError
from crossmount.index import GuardedIndex, MemoryMountIndex, RegistryTraits, open_index
from crossmount.index.protocol import Knowledge, Sighting
from crossmount.oci import Descriptor, Digest, Located, Manifest, Repository
from crossmount.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from crossmount.proxy.auth.callers import Agents, Caller
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.policy import Policy
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.settings import ProxySettings, ServerLimits
from crossmount.proxy.telemetry import Metrics, cause_of
from crossmount.proxy.uploads.sessions import ClientSessions
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry
from support.proxies import ProxyUnderTest, begin_upload, metrics_page, proxy_before

LAYER, CONFIG = b"layer", b"{}"


def manifest_of(*layers: bytes, kind: str = "application/vnd.oci.image.layer.v1.tar") -> bytes:
    """Return a manifest's bytes."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **_entry(CONFIG)},
            "layers": [{"mediaType": kind, **_entry(layer)} for layer in layers],
        }
    ).encode()


def _entry(content: bytes) -> dict[str, Any]:
    return {"digest": Digest.of(content), "size": len(content)}


async def put(proxy: ProxyUnderTest, target: str, content: bytes, kind: str = OCI_MANIFEST) -> int:
    """Put a manifest; returns the status."""
    answer = await proxy.client.put(f"/v2/a/manifests/{target}", content=content, headers={"Content-Type": kind})
    return answer.status_code


async def test_a_manifests_layers_are_known_once_it_is_accepted() -> None:
    """The config and layers of an accepted manifest are recorded with sizes; a refused one records nothing."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        assert await put(proxy, "t", manifest_of(LAYER)) >= 400
        assert await proxy.learnt(Digest.of(LAYER)) == set()
        registry.put_blob("a", LAYER)
        registry.put_blob("a", CONFIG)
        assert await put(proxy, "t", manifest_of(LAYER)) == 201
        for content in (LAYER, CONFIG):
            assert await proxy.learnt(Digest.of(content)) == {"a"}
        known = await proxy.index.look_up([Digest.of(LAYER)], proxy.repository("b"))
        assert known.of(Digest.of(LAYER)).size == len(LAYER)


async def test_foreign_layers_are_not_learnt() -> None:
    """Foreign layers are not recorded, since the registry does not have them."""
    async with (
        ScriptedRegistry(RegistryOptions(checks_references=False)) as registry,
        proxy_before(registry.url) as proxy,
    ):
        kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        assert await put(proxy, "t", manifest_of(LAYER, kind=kind)) == 201
        assert await proxy.learnt(Digest.of(LAYER)) == set()


async def test_an_index_teaches_through_its_children() -> None:
    """Children of an image index that were not pushed through the proxy are read with the caller's rights."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        for content in (LAYER, CONFIG):
            registry.put_blob("a", content)
        child = manifest_of(LAYER)
        direct = proxy.client.build_request(
            "PUT",
            f"{registry.url}/v2/a/manifests/{Digest.of(child)}",
            content=child,
            headers={"Content-Type": OCI_MANIFEST},
        )
        assert (await proxy.client.send(direct)).status_code == 201
        entry = {"mediaType": OCI_MANIFEST, **_entry(child)}
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
        assert await put(proxy, "t", index, OCI_INDEX) == 201
        assert await proxy.learnt(Digest.of(LAYER)) == {"a"}


async def test_children_that_cannot_be_read_are_no_failure() -> None:
    """A push succeeds although the children of its image index cannot be read."""
    async with (
        ScriptedRegistry(RegistryOptions(checks_references=False)) as registry,
        proxy_before(registry.url) as proxy,
    ):
        entry = {"mediaType": OCI_MANIFEST, **_entry(b"absent")}
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
        assert await put(proxy, "t", index, OCI_INDEX) == 201
        assert await proxy.learnt(Digest.of(b"absent")) == set()


async def test_a_registry_that_mounts_only_after_a_manifest_is_learnt_from_its_manifests(tmp_path: Path) -> None:
    """At a registry that mounts only after a manifest, an upload alone records no source."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        registry.put_blob("a", CONFIG)
        await proxy.index.record_traits(proxy.registry, RegistryTraits(after_manifest=True))
        location = await begin_upload(proxy, "a")
        digest = Digest.of(LAYER)
        assert (await proxy.client.put(f"{location}?digest={digest}", content=LAYER)).status_code == 201
        assert await proxy.learnt(digest) == set()
        assert await put(proxy, "t", manifest_of(LAYER)) == 201
        assert await proxy.learnt(digest) == {"a"}


class Broken(MemoryMountIndex):
    """An index that fails every call."""

    async def look_up(
        self, layers: Iterable[str], dest: str | Located, *, account: str | None = None, deletions: bool = False
    ) -> Knowledge:
        """Fail."""
        del layers, dest, account, deletions
        raise IndexUnavailableError("gone")

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Fail."""
        del sightings
        raise IndexUnavailableError("gone")


async def test_without_an_index_everything_still_passes(tmp_path: Path) -> None:
    """Without an index every push succeeds (promise 2)."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, index=Broken(), spool=tmp_path) as proxy:
        registry.put_blob("a", CONFIG)
        digest = Digest.of(LAYER)
        assert (await proxy.client.head(f"/v2/a/blobs/{digest}")).status_code == 404
        location = await begin_upload(proxy, "a")
        assert (await proxy.client.put(f"{location}?digest={digest}", content=LAYER)).status_code == 201
        assert await put(proxy, "t", manifest_of(LAYER)) == 201


async def test_what_is_logged_and_counted_holds_no_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A request is one line of JSON without query, headers or session names, and blobs are counted by outcome."""
    caplog.set_level(logging.INFO, logger="crossmount.proxy.access")
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        digest = registry.put_blob("base", LAYER)
        await proxy.knows(digest, "base")
        headers = {"Authorization": "Basic c2VjcmV0OnBhc3N3b3Jk"}
        await proxy.client.head(f"/v2/a/blobs/{digest}", headers=headers)
        location = await begin_upload(proxy, "b", headers=headers)
        await proxy.client.put(f"{location}?digest={Digest.of(CONFIG)}", content=CONFIG, headers=headers)
        await proxy.client.get("/v2/a/tags/list?token=hidden", headers=headers)
        await proxy.client.request("BREW", "/v2/")
        await proxy.client.get("/v2/../etc")
        page = (await proxy.client.get("/_crossmount/metrics")).text
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "crossmount.proxy.access"]
    assert [line["note"] for line in lines][:3] == ["mounted", "spooled", "uploaded"]
    assert lines[2]["path"] == "/v2/b/blobs/uploads/"
    said = json.dumps(lines) + caplog.text
    for secret in ("c2VjcmV0", "hidden", location.rpartition("/")[2]):
        assert secret not in said
    assert 'crossmount_proxy_blobs_total{outcome="mounted"} 1.0' in page
    assert f'crossmount_proxy_blob_bytes_total{{outcome="uploaded"}} {len(CONFIG)}.0' in page
    assert 'crossmount_proxy_requests_total{method="HEAD",route="blob",status="200"} 1.0' in page


async def test_failures_are_counted_by_cause() -> None:
    """A mount that the registry refuses is counted as a failure."""
    fault = Fault(method="POST", times=None, action=Reply(status=403))
    async with ScriptedRegistry(faults=[fault]) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", LAYER)
        await proxy.knows(digest, "base")
        await proxy.client.head(f"/v2/a/blobs/{digest}")
        page = (await proxy.client.get("/_crossmount/metrics")).text
        assert 'crossmount_proxy_failures_total{cause="denied",where="mount"} 1.0' in page
    assert cause_of(KeyError()) == "other"


async def test_more_than_can_be_recorded_is_dropped_and_counted() -> None:
    """A slow index neither delays a push nor fills the memory."""
    metrics = Metrics()
    index = MemoryMountIndex()
    recorder = ProxyRecorder(GuardedIndex(index), metrics)
    repository = Repository.on("127.0.0.1:1")
    for number in range(10_001):
        recorder.record_blob(repository, Digest.of(str(number).encode()), 1)
    assert b"crossmount_proxy_unlearnt_total 1.0" in metrics_page(metrics)
    blob = Descriptor("text/plain", Digest.of(b"x"), 1)
    recorder.record_manifest(None, repository, Manifest(blob, b"x", blobs=(blob,)))
    async with recorder.running():
        pass
    assert await index.locations(Digest.of(b"0"))


async def test_whoever_runs_it_sees_that_the_index_does_not_serve(caplog: pytest.LogCaptureFixture) -> None:
    """When the index fails, the push goes on, the log says so once, and each unserved call is counted."""
    dead = open_index("redis://127.0.0.1:1/0")
    async with ScriptedRegistry() as registry, proxy_before(registry.url, index=dead) as proxy:
        digest = registry.put_blob("base", LAYER)
        page = (await proxy.client.get("/_crossmount/metrics")).text
        assert "crossmount_proxy_index_unserved_total 0.0" in page
        assert (await proxy.client.head(f"/v2/a/blobs/{digest}")).status_code == 404
        assert (await proxy.client.head(f"/v2/b/blobs/{digest}")).status_code == 404
        page = (await proxy.client.get("/_crossmount/metrics")).text
        assert (found := re.search(r"crossmount_proxy_index_unserved_total ([0-9.]+)", page)) is not None
        assert float(found[1]) >= 2
    await dead.aclose()
    said = [(record.name, record.getMessage()) for record in caplog.records if record.levelno == logging.WARNING]
    own = [
        line for name, line in said if name != "crossmount.index"
    ]  # the library's own line, muted in the command
    assert [line.partition(":")[0] for line in own] == ["going on without the index"]


async def test_whoever_runs_it_sees_how_fast_the_registry_answers() -> None:
    """Requests without a body are timed; uploads are not, since they depend on the client."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", LAYER)
        assert (await proxy.client.head(f"/v2/base/blobs/{digest}")).status_code == 200
        location = await begin_upload(proxy, "b")
        await proxy.client.patch(location, content=CONFIG)
        page = (await proxy.client.get("/_crossmount/metrics")).text
    assert "crossmount_proxy_upstream_seconds_count 2.0" in page


@pytest.mark.parametrize("spool", [True, False])
async def test_the_room_for_uploads_is_shown(tmp_path: Path, *, spool: bool) -> None:
    """The metrics show the spool's limit beside its size; 0 means no spool."""
    folder, limits = tmp_path / "spool" if spool else None, ServerLimits(spool_bytes=1000)
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, spool=folder, limits=limits) as proxy,
    ):
        page = (await proxy.client.get("/_crossmount/metrics")).text
    assert f"crossmount_proxy_spool_limit_bytes {1000.0 if spool else 0.0}\n" in page


async def test_an_index_that_raises_is_counted() -> None:
    """An index that raises is counted, and recording goes on."""
    metrics = Metrics()
    recorder = ProxyRecorder(Broken(), metrics)
    recorder.record_proven([Sighting(Digest.of(b"x"), Repository.on("h:1"))])
    async with recorder.running():
        await recorder.flush()
    assert b'failures_total{cause="index",where="index"} 1.0' in metrics_page(metrics)


async def test_sessions_are_bounded_and_run_out() -> None:
    """Sessions are bounded in total and for each caller, and idle ones expire."""
    now = [0.0]
    sessions = ClientSessions(limit=3, limit_each=2, lifetime=10, clock=lambda: now[0])
    first = sessions.add("a", "n", "http://r/1")
    sessions.add("a", "n", "http://r/2")
    for owner, full in (("a", True), ("b", False)):
        if full:
            with pytest.raises(RequestRefusedError):
                sessions.check_capacity(owner)
        else:
            sessions.check_capacity(owner)
    sessions.add("b", "n", "http://r/3")
    with pytest.raises(RequestRefusedError):
        sessions.check_capacity("c")
    now[0] = 11
    assert not sessions.any_push_active()
    async with sessions.acquire(first.key, "a", "n"):
        assert len(sessions.take_expired()) == 2
        assert sessions.any_push_active()
    assert "http" not in repr(first)
    assert sessions.all() == [first]
    assert (sessions.is_pushing("a", "n"), sessions.is_pushing("b", "n"), sessions.any_push_active()) == (
        True,
        False,
        True,
    )
    now[0] = 17
    assert (sessions.is_pushing("a", "n"), sessions.any_push_active()) == (False, False)


async def test_agents_make_way_for_others() -> None:
    """Agents are bounded in number, and a caller without an agent may not push."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        agents = proxy.app._authenticator._agents  # type: ignore[attr-defined]  # a white-box check
        assert isinstance(agents, Agents)
        agents._limit = 2
        for name in ("a", "b", "c"):
            await proxy.client.get("/v2/", auth=(name, "x"))
        assert len(agents._agents) == 2
    nobody = Caller("k")
    assert not nobody.may_push("a")


@pytest.mark.parametrize("upstream", ["registry", "ftp://r", "http://r/path", "http://u:p@r", "http://r?x=1"])
def test_an_upstream_that_is_no_registrys_address_is_refused(upstream: str) -> None:
    """An upstream with other parts than scheme, host and port is refused, and its password is not shown."""
    with pytest.raises(ValueError, match="--upstream") as refused:
        ProxySettings(upstreams=(upstream,)).upstream_list(Policy())
    assert "u:p" not in str(refused.value)
