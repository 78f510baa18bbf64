"""HEAD and POST answered by mounting."""

import asyncio
from pathlib import Path

import pytest

from crossmount.oci import Digest
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry
from support.proxies import error_code, proxy_before

DATA = b"layer" * 1000


async def test_a_head_is_answered_by_a_mount() -> None:
    """404 upstream, a source known: it is mounted, and the answer is what the registry then says."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("team/base", DATA)
        await proxy.knows(digest, "team/base")
        head = await proxy.client.head(f"/v2/team/app/blobs/{digest}")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
        assert head.headers["docker-content-digest"] == digest
        assert registry.mounts(digest) == 1
        assert await proxy.learnt(digest) == {"team/base", "team/app"}
        assert (await proxy.client.head(f"/v2/team/app/blobs/{digest}")).status_code == 200
        assert registry.mounts(digest) == 1


async def test_concurrent_heads_mount_once() -> None:
    """Thirty askers share one mount, and all are told."""
    async with ScriptedRegistry(RegistryOptions(latency=0.01)) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        answers = await asyncio.gather(*(proxy.client.head(f"/v2/app/blobs/{digest}") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        assert registry.mounts(digest) == 1


async def test_a_stale_index_is_a_404_and_leaves_no_session() -> None:
    """The source is gone: the registry opened a session, which is let go, and the source is forgotten."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = Digest.of(DATA)
        await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 404
        assert registry.open_sessions == ()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_a_mount_that_is_refused_is_a_404(status: int) -> None:
    """Whatever goes wrong, the client is told what the registry said first, and uploads."""
    fault = Fault(method="POST", times=None, action=Reply(status=status))
    async with ScriptedRegistry(faults=[fault]) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 404


async def test_only_allowed_sources_are_mounted_from() -> None:
    """`--allow-source` holds for our candidates, for the client's own `from`, and for what a registry finds."""
    async with (
        ScriptedRegistry(RegistryOptions(finds=True)) as registry,
        proxy_before(registry.url, allow_sources=("base/*",)) as proxy,
    ):
        digest = registry.put_blob("secret/x", DATA)
        await proxy.knows(digest, "secret/x")
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 404
        for query in (f"mount={digest}&from=secret/x", f"mount={digest}"):
            assert (await proxy.client.post(f"/v2/app/blobs/uploads/?{query}")).status_code == 202
        assert registry.mounts() == 0
        registry.put_blob("base/y", DATA)
        await proxy.knows(digest, "base/y")
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 200
        assert registry.mounts() == 1


async def test_a_post_without_from_is_answered_by_our_mount() -> None:
    """201 with the blob's Location instead of a session."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}")
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/v2/app/blobs/{digest}"
        assert answer.headers["docker-content-digest"] == digest
        assert registry.open_sessions == ()


async def test_the_clients_own_source_comes_first_and_ours_when_it_fails() -> None:
    """A good `from` costs one request; a bad one is followed by ours, and its session is let go."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", DATA)
        registry.put_blob("mine", DATA)
        await proxy.knows(digest, "base")
        good = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}&from=mine")
        assert good.status_code == 201
        assert len(registry.matching(method="POST")) == 1
        bad = await proxy.client.post(f"/v2/other/blobs/uploads/?mount={digest}&from=nowhere")
        assert bad.status_code == 201
        assert registry.mounts(digest) == 2
        assert registry.open_sessions == ()
        assert {"app", "mine", "base", "other"} <= await proxy.learnt(digest)


async def test_a_denied_source_is_a_session_and_not_a_failed_push() -> None:
    """A registry says 401 to a denied `from`; the client gets the 202 that it can go on with."""
    options = RegistryOptions(denied_sources=frozenset({"secret"}))
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("secret", DATA)
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}&from=secret")
        assert answer.status_code == 202
        assert answer.headers["location"].startswith("/v2/app/blobs/uploads/")


async def test_a_registry_that_finds_is_asked_without_from() -> None:
    """Nothing known here: the client's own question reaches the registry as it was."""
    async with ScriptedRegistry(RegistryOptions(finds=True)) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("somewhere", DATA)
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}")
        assert answer.status_code == 201
        assert await proxy.learnt(digest) == {"app"}


async def test_a_blob_posted_whole_is_mounted_instead(tmp_path: Path) -> None:
    """`POST ?digest=` names what comes: if it can be mounted its bytes go nowhere."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?digest={digest}", content=DATA)
        assert (answer.status_code, registry.upload_bytes) == (201, 0)
        other = await proxy.client.post(f"/v2/app/blobs/uploads/?digest={Digest.of(b'new')}", content=b"new")
        assert (other.status_code, registry.upload_bytes) == (201, 3)


async def test_must_mount_is_not_uploaded(tmp_path: Path) -> None:
    """A layer flagged must-mount whose mount fails is refused at the POST and at the last PUT; a HEAD is a 404."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        digest = Digest.of(DATA)
        await proxy.index.add_source(digest, proxy.repository("gone"), must_mount=True)
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 404
        refused = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}")
        assert (refused.status_code, error_code(refused)) == (403, "DENIED")
        location = (await proxy.client.post("/v2/app/blobs/uploads/")).headers["location"]
        put = await proxy.client.put(f"{location}?digest={digest}", content=DATA)
        assert (put.status_code, error_code(put)) == (403, "DENIED")
        assert registry.uploads() == 0
        assert proxy.app.core.spool is not None
        assert proxy.app.core.spool.taken == 0
