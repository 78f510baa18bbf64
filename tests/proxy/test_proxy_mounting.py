"""HEAD and POST requests that a mount answers."""

import asyncio
from pathlib import Path

import httpx
import pytest

from crossmount.index.protocol import RegistryTraits, Sighting
from crossmount.oci import Digest
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry
from support.proxies import error_code, proxy_before

DATA = b"layer" * 1000


async def test_a_head_is_answered_by_a_mount() -> None:
    """After a 404 a known source is mounted, and the HEAD gets the registry's second answer."""
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
    """Thirty HEADs at once share one mount, and all get its result."""
    async with ScriptedRegistry(RegistryOptions(latency=0.01)) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        answers = await asyncio.gather(*(proxy.client.head(f"/v2/app/blobs/{digest}") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        assert registry.mounts(digest) == 1


async def test_a_stale_index_is_a_404_and_leaves_no_session() -> None:
    """When the source is gone, the registry's session is cancelled and the source is removed from the index."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = Digest.of(DATA)
        await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 404
        assert registry.open_sessions == ()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_a_mount_that_is_refused_is_a_404(status: int) -> None:
    """When a mount fails, the client gets the registry's first answer, and uploads."""
    fault = Fault(method="POST", times=None, action=Reply(status=status))
    async with ScriptedRegistry(faults=[fault]) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 404


async def test_only_allowed_sources_are_mounted_from() -> None:
    """`--allow-source` applies to the index's sources, the client's `from`, and sources that a registry finds."""
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
    """A POST with `mount` and without `from` gets a 201 with the blob's Location, not a session."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}")
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/v2/app/blobs/{digest}"
        assert answer.headers["docker-content-digest"] == digest
        assert registry.open_sessions == ()


async def test_the_clients_own_source_comes_first_and_ours_when_it_fails() -> None:
    """A valid `from` takes one request; after a failed one the index's sources are tried."""
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
    """When the registry answers 401 for a `from`, the client gets a 202 and can upload."""
    options = RegistryOptions(denied_sources=frozenset({"secret"}))
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("secret", DATA)
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}&from=secret")
        assert answer.status_code == 202
        assert answer.headers["location"].startswith("/v2/app/blobs/uploads/")


async def test_a_registry_that_finds_is_asked_without_from() -> None:
    """Without a known source the client's own request reaches the registry unchanged."""
    async with ScriptedRegistry(RegistryOptions(finds=True)) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("somewhere", DATA)
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}")
        assert answer.status_code == 201
        assert await proxy.learnt(digest) == {"app"}


async def test_a_blob_posted_whole_is_mounted_instead(tmp_path: Path) -> None:
    """A blob in the body of `POST ?digest=` is not read if it can be mounted."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?digest={digest}", content=DATA)
        assert (answer.status_code, registry.upload_bytes) == (201, 0)
        other = await proxy.client.post(f"/v2/app/blobs/uploads/?digest={Digest.of(b'new')}", content=b"new")
        assert (other.status_code, registry.upload_bytes) == (201, 3)


async def test_must_mount_is_not_uploaded(tmp_path: Path) -> None:
    """A must-mount layer whose mount fails is refused at the POST and at the last PUT; a HEAD is a 404."""
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


LIES = RegistryOptions(false_mounts=("sha512:*",))


@pytest.mark.parametrize("query", ["?mount={digest}&from=base", "?mount={digest}"])
async def test_a_mount_that_the_registry_only_claims_is_a_session(query: str) -> None:
    """A 201 without the blob, to the client's request or to ours, ends in a 202, and dest becomes no source."""
    async with ScriptedRegistry(LIES) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", DATA, algorithm="sha512")
        await proxy.knows(digest, "base")
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/{query.format(digest=digest)}")
        assert answer.status_code == 202
        assert await proxy.learnt(digest) == {"base"}


async def test_a_claimed_mount_without_source_is_a_session() -> None:
    """Where the registry claims to have found the blob and lacks it, the client gets a session."""
    options = RegistryOptions(false_mounts=("sha512:*",), finds=True)
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("somewhere", DATA, algorithm="sha512")
        answer = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={digest}")
        assert answer.status_code == 202
        assert await proxy.learnt(digest) == set()


async def test_a_head_after_a_false_mount_is_a_404_and_makes_the_registry_untruthful() -> None:
    """A sha256 mount that was believed and is absent is asked for from then on."""
    digest = Digest.of(DATA)
    options = RegistryOptions(false_mounts=(digest,))
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 404
        knowledge = await proxy.index.look_up([], proxy.repository("app"))
        assert knowledge.traits.truthful is False


async def test_the_indexs_word_that_mounts_are_true_is_no_proof() -> None:
    """Whoever writes the index cannot make a registry's false 201 the answer to a HEAD."""
    digest = Digest.of(DATA)
    options = RegistryOptions(false_mounts=(digest,))
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        await proxy.index.record_traits(proxy.registry, RegistryTraits(mounts=True, truthful=True))
        assert (await proxy.client.head("/v2/app/manifests/v1")).status_code == 404
        for each in (Digest.of(b"another"), digest):
            assert (await proxy.client.head(f"/v2/app/blobs/{each}")).status_code == 404


async def test_a_push_mounts_its_further_layers_without_asking_first(tmp_path: Path) -> None:
    """Once a push mounts and its mount was proved, a HEAD is one mount and one HEAD of the source for the size."""
    layers = [DATA + bytes([number]) for number in range(3)]
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        digests = [registry.put_blob("base", data) for data in layers]
        for digest in digests:
            await proxy.knows(digest, "base")
        for data, digest in zip(layers, digests, strict=True):
            before = len(registry.requests)
            answer = await proxy.client.head(f"/v2/app/blobs/{digest}")
            assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(data)))
            assert answer.headers["docker-content-digest"] == digest
            sent = {(each.method, each.path.split("/")[2]) for each in registry.requests[before:]}
            first = digest == digests[0]
            assert sent == ({("HEAD", "app"), ("POST", "app")} if first else {("POST", "app"), ("HEAD", "base")})
        assert registry.mounts() == 3


@pytest.mark.parametrize("dest_has_it", [True, False])
async def test_a_mount_that_fails_is_no_answer(tmp_path: Path, dest_has_it: bool) -> None:
    """If a mount that was tried first fails, the repository is asked, and its answer counts."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        first, gone = registry.put_blob("base", b"first"), Digest.of(b"gone")
        await proxy.knows(first, "base")
        await proxy.knows(gone, "base")
        if dest_has_it:
            registry.put_blob("app", b"gone")
        assert (await proxy.client.head(f"/v2/app/blobs/{first}")).status_code == 200
        answer = await proxy.client.head(f"/v2/app/blobs/{gone}")
        assert answer.status_code == (200 if dest_has_it else 404)
        assert registry.matching(method="HEAD", path=f"/v2/app/blobs/{gone}")


async def test_a_deleted_layer_is_not_mounted_first(tmp_path: Path) -> None:
    """A layer that a client deleted from a repository stays deleted, also while that client pushes there."""
    async with (
        ScriptedRegistry(RegistryOptions(deletes=True)) as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
    ):
        first, second = registry.put_blob("base", b"1"), registry.put_blob("base", b"2")
        for digest in (first, second):
            await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/app/blobs/{second}")).status_code == 200
        assert (await proxy.client.delete(f"/v2/app/blobs/{second}")).status_code == 202
        assert (await proxy.client.head(f"/v2/app/blobs/{first}")).status_code == 200
        assert (await proxy.client.head(f"/v2/app/blobs/{second}")).status_code == 404


async def test_a_caller_that_found_no_manifest_mounts_its_first_layer_without_asking(tmp_path: Path) -> None:
    """After a HEAD of a manifest that is not there, the first HEAD of a blob is one mount, as in a push."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        first, second = registry.put_blob("base", b"1"), registry.put_blob("base", b"2")
        for digest in (first, second):
            await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/proof/blobs/{first}")).status_code == 200
        assert (await proxy.client.head("/v2/app/manifests/v1")).status_code == 404
        before = len(registry.requests)
        assert (await proxy.client.head(f"/v2/app/blobs/{second}")).status_code == 200
        sent = {(each.method, each.path.split("/")[2]) for each in registry.requests[before:]}
        assert sent == {("POST", "app"), ("HEAD", "base")}


async def test_a_first_layer_is_not_asked_for_again_where_mounts_are_true(tmp_path: Path) -> None:
    """A caller that was not seen to push gets its first layer with one HEAD less, once a mount was proved."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        first, second = registry.put_blob("base", b"1"), registry.put_blob("base", b"22")
        for digest in (first, second):
            await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/proof/blobs/{first}")).status_code == 200
        answer = await proxy.client.head(f"/v2/app/blobs/{second}")
        assert (answer.status_code, answer.headers["content-length"]) == (200, "2")
        assert len(registry.matching(method="HEAD", path="/v2/app/*")) == 1


async def test_heads_that_repeat_are_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many HEADs of one blob are one record in the index; after a deletion the next one is recorded anew."""
    async with ScriptedRegistry(RegistryOptions(deletes=True)) as registry, proxy_before(registry.url) as proxy:
        digest, recorder = registry.put_blob("app", DATA), proxy.app.core.recorder
        seen: list[Sighting] = []
        monkeypatch.setattr(recorder, "_put", seen.append)
        for _ in range(5):
            assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 200
        assert [sighting.layer for sighting in seen] == [digest]
        assert (await proxy.client.delete(f"/v2/app/blobs/{digest}")).status_code == 202
        registry.put_blob("app", DATA)
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 200
        assert len(seen) == 2


async def test_the_size_of_a_blob_is_asked_for_once(tmp_path: Path) -> None:
    """A caller that was told a blob's size gets the blob in other repositories by one mount alone."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        proof, digest = registry.put_blob("base", b"proof"), registry.put_blob("base", DATA)
        await proxy.knows(proof, "base")
        await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/app/blobs/{proof}")).status_code == 200
        assert (await proxy.client.head(f"/v2/app/blobs/{digest}")).status_code == 200
        for name in ("one", "two"):
            assert (await proxy.client.head(f"/v2/{name}/manifests/v1")).status_code == 404
            before = len(registry.requests)
            answer = await proxy.client.head(f"/v2/{name}/blobs/{digest}")
            assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(DATA)))
            assert [each.method for each in registry.requests[before:]] == ["POST"]


async def test_a_size_that_another_caller_was_told_is_asked_for(tmp_path: Path) -> None:
    """What one caller learnt of a blob, not even its size, is no other caller's answer."""
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
        httpx.AsyncClient(base_url=proxy.url, auth=("other", "secret")) as other,
    ):
        proof, digest = registry.put_blob("base", b"proof"), registry.put_blob("base", DATA)
        await proxy.knows(proof, "base")
        await proxy.knows(digest, "base")
        for each in (proof, digest):
            assert (await proxy.client.head(f"/v2/app/blobs/{each}")).status_code == 200
        assert (await other.head(f"/v2/base/blobs/{proof}")).status_code == 200
        assert (await other.head("/v2/two/manifests/v1")).status_code == 404
        before = len(registry.requests)
        assert (await other.head(f"/v2/two/blobs/{digest}")).status_code == 200
        assert ("HEAD", f"/v2/base/blobs/{digest}") in [
            (each.method, each.path) for each in registry.requests[before:]
        ]
