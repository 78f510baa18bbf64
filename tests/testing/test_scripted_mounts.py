import pytest

from crossmount.oci import Digest
from crossmount.testing import Fault, IgnoreMount, RegistryOptions
from support.scripted import code_of, finish_upload, manifest_of, push_manifest, start_upload, talk_to

DATA = b"a layer"
DIGEST = Digest.of(DATA)
MOUNT = f"?mount={DIGEST}&from=team/base"


async def test_a_mount_makes_the_blob_appear() -> None:
    """A mount from a source that has the blob is a 201, without an upload."""
    async with talk_to() as (registry, client):
        registry.put_blob("team/base", DATA)
        answer = await start_upload(client, "team/app", MOUNT)
        assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, DIGEST)
        assert (await client.get(answer.headers["location"])).content == DATA
        assert (registry.mounts(DIGEST), registry.mounts(), registry.uploads(), registry.bytes_received) == (
            1,
            1,
            0,
            0,
        )


@pytest.mark.parametrize("query", [MOUNT, f"?mount={DIGEST}&from=team/unknown", f"?mount={DIGEST}"])
async def test_a_mount_that_cannot_be_is_an_upload_session(query: str) -> None:
    """A mount that fails is a 202 and opens an upload session."""
    async with talk_to() as (registry, client):
        answer = await start_upload(client, "team/app", query)
        assert answer.status_code == 202
        assert (await finish_upload(client, answer.headers["location"], DIGEST, DATA)).status_code == 201
        assert (registry.mounts(), registry.uploads(DIGEST)) == (0, 1)


async def test_a_registry_may_find_the_source_itself() -> None:
    """With `finds`, a mount without `from` succeeds if any repository has the blob."""
    async with talk_to(RegistryOptions(finds=True)) as (registry, client):
        assert (await start_upload(client, "team/app", f"?mount={DIGEST}")).status_code == 202
        registry.put_blob("far/away", DATA)
        assert (await start_upload(client, "team/app", f"?mount={DIGEST}")).status_code == 201


async def test_a_registry_may_not_mount_at_all() -> None:
    """With `mounts=False`, every mount opens a session; a fault does the same for one mount."""
    async with talk_to(RegistryOptions(mounts=False)) as (registry, client):
        registry.put_blob("team/base", DATA)
        assert (await start_upload(client, "team/app", MOUNT)).status_code == 202
    async with talk_to(None, Fault(query="mount=*", action=IgnoreMount())) as (registry, client):
        registry.put_blob("team/base", DATA)
        assert [(await start_upload(client, "team/app", MOUNT)).status_code for _ in range(2)] == [202, 201]


async def test_a_registry_may_mount_only_after_a_manifest() -> None:
    """With `after_manifest`, a source works once a manifest there references the blob, as on ECR."""
    async with talk_to(RegistryOptions(after_manifest=True)) as (registry, client):
        registry.put_blob("team/base", DATA)
        assert (await start_upload(client, "team/app", MOUNT)).status_code == 202
        await push_manifest(client, "team/base", "v1", manifest_of([DIGEST]))
        assert (await start_upload(client, "team/app", MOUNT)).status_code == 201


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHORIZED"), (403, "DENIED")])
async def test_a_source_may_be_denied(status: int, code: str) -> None:
    """A mount from a denied source is an error and opens no session."""
    options = RegistryOptions(denied_sources=frozenset({"team/base"}), denied_status=status)
    async with talk_to(options) as (registry, client):
        registry.put_blob("team/base", DATA)
        answer = await start_upload(client, "team/app", MOUNT)
        assert (answer.status_code, code_of(answer)) == (status, code)
        assert registry.open_sessions == ()


async def test_a_mount_may_be_confirmed_and_not_carried_out() -> None:
    """With `false_mounts`, a mount of such a digest is answered 201 and the blob is absent, as on distribution."""
    digest = Digest.of(DATA, algorithm="sha512")
    async with talk_to(RegistryOptions(false_mounts=("sha512:*",))) as (registry, client):
        registry.put_blob("team/base", DATA)
        registry.put_blob("team/base", DATA, algorithm="sha512")
        answer = await start_upload(client, "team/app", f"?mount={digest}&from=team/base")
        assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, digest)
        assert (await client.head(f"/v2/team/app/blobs/{digest}")).status_code == 404
        assert registry.mounts() == 0
        assert (await start_upload(client, "team/app", MOUNT)).status_code == 201
        assert (await client.head(f"/v2/team/app/blobs/{DIGEST}")).status_code == 200
