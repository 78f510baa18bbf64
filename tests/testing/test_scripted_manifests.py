import json

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from crossmount.testing import RegistryOptions, ScriptedRegistry
from support.scripted import code_of, manifest_of, push_manifest, talk_to

NAME = "team/app"


async def put(client: httpx.AsyncClient, registry: ScriptedRegistry, target: str, **more: object) -> Digest:
    """Push a manifest of one blob."""
    content = manifest_of([registry.put_blob(NAME, b"config")], **more)
    answer = await push_manifest(client, NAME, target, content)
    assert answer.status_code == 201, answer.text
    return Digest.of(content)


async def test_a_manifest_is_found_by_tag_and_digest() -> None:
    """Tag and digest both return the exact bytes, the media type and the digest."""
    async with talk_to() as (registry, client):
        digest = await put(client, registry, "v1")
        for target in ("v1", digest):
            answer = await client.get(f"/v2/{NAME}/manifests/{target}")
            assert Digest.of(answer.content) == answer.headers["docker-content-digest"] == digest
            assert answer.headers["content-type"] == OCI_MANIFEST
            head = await client.head(f"/v2/{NAME}/manifests/{target}")
            assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))
        missing = await client.get(f"/v2/{NAME}/manifests/v2")
        assert (missing.status_code, code_of(missing)) == (404, "MANIFEST_UNKNOWN")


async def test_a_manifest_by_digest_may_bring_tags() -> None:
    """PUT by digest with ?tag= sets the tags and lists them; a wrong digest is refused."""
    async with talk_to() as (registry, client):
        content = manifest_of([registry.put_blob(NAME, b"config")])
        digest = Digest.of(content, algorithm="sha512")
        answer = await push_manifest(client, NAME, f"{digest}?tag=a&tag=b", content)
        assert answer.headers.get_list("oci-tag") == ["a", "b"]
        assert (await client.get(f"/v2/{NAME}/tags/list")).json() == {"name": NAME, "tags": ["a", "b"]}
        wrong = await push_manifest(client, NAME, Digest.of(b"other"), content)
        assert (wrong.status_code, code_of(wrong)) == (400, "DIGEST_INVALID")


async def test_a_manifest_needs_its_blobs_and_an_index_its_manifests() -> None:
    """MANIFEST_BLOB_UNKNOWN names the absent blobs; non-distributable layers may be absent."""
    async with talk_to() as (registry, client):
        config, absent = registry.put_blob(NAME, b"config"), Digest.of(b"absent")
        answer = await push_manifest(client, NAME, "v1", manifest_of([config, absent]))
        assert (answer.status_code, code_of(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")
        assert absent in answer.text
        descriptor = {"mediaType": OCI_MANIFEST, "digest": absent, "size": 1}
        index = json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode()
        assert code_of(await push_manifest(client, NAME, "v1", index, OCI_INDEX)) == "MANIFEST_BLOB_UNKNOWN"
        foreign = {
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": absent,
            "size": 1,
        }
        assert (
            await push_manifest(client, NAME, "v1", manifest_of([config], layers=[foreign]))
        ).status_code == 201
    async with talk_to(RegistryOptions(checks_references=False)) as (_, client):
        assert (await push_manifest(client, NAME, "v1", index, OCI_INDEX)).status_code == 201


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"schemaVersion":2,"mediaType":"another/type"}',
        b'{"schemaVersion":2,"layers":{}}',
        b'{"schemaVersion":2,"layers":[{"mediaType":"a","digest":"bad","size":1}]}',
    ],
)
async def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    """Bytes that are no manifest are MANIFEST_INVALID."""
    async with talk_to() as (_, client):
        answer = await push_manifest(client, NAME, "v1", content)
        assert (answer.status_code, code_of(answer)) == (400, "MANIFEST_INVALID")


async def test_a_manifest_has_at_most_4_mib() -> None:
    """A manifest of one byte more than the limit is a 413."""
    async with talk_to() as (registry, client):
        config = registry.put_blob(NAME, b"config")
        bare = len(manifest_of([config], annotations={"pad": ""}))
        for pad, status in ((4 * 1024 * 1024 - bare, 201), (4 * 1024 * 1024 - bare + 1, 413)):
            content = manifest_of([config], annotations={"pad": "x" * pad})
            assert (await push_manifest(client, NAME, "v1", content)).status_code == status


async def test_deleting_a_tag_keeps_the_manifest_and_deleting_the_manifest_its_tags_not() -> None:
    """Deleting a tag leaves its manifest; deleting a manifest removes its tags."""
    async with talk_to() as (registry, client):
        digest = await put(client, registry, "a")
        await put(client, registry, "b")
        url = f"/v2/{NAME}/manifests/"
        assert (await client.delete(f"{url}a")).status_code == 202
        assert (await client.delete(f"{url}a")).status_code == 404
        assert (await client.get(f"{url}b")).status_code == 200
        assert (await client.delete(f"{url}{digest}")).status_code == 202
        assert (await client.delete(f"{url}{digest}")).status_code == 404
        assert (await client.get(f"{url}b")).status_code == 404
        assert (await client.get(f"/v2/{NAME}/tags/list")).json()["tags"] == []


async def test_tags_come_in_pages() -> None:
    """The Links lead through every tag once, in order; n=0 returns none."""
    async with talk_to(RegistryOptions(page_size=2)) as (registry, client):
        for tag in ("c", "a", "e", "b", "d"):
            await put(client, registry, tag)
        seen: list[str] = []
        url: str | None = f"/v2/{NAME}/tags/list?n=100"
        while url:
            page = await client.get(url)
            seen += page.json()["tags"]
            url = page.links.get("next", {}).get("url")
        assert seen == ["a", "b", "c", "d", "e"]
        assert len(registry.matching(path="*/tags/list")) == 3
        none = await client.get(f"/v2/{NAME}/tags/list?n=0")
        assert (none.json()["tags"], none.links) == ([], {})
        assert (await client.get("/v2/unknown/tags/list")).status_code == 404


async def test_repositories_are_listed() -> None:
    """The catalogue lists every repository with blobs or manifests, in pages."""
    async with talk_to() as (registry, client):
        for name in ("b/x", "a", "c"):
            registry.put_blob(name, b"x")
        first = await client.get("/v2/_catalog?n=2")
        assert first.json() == {"repositories": ["a", "b/x"]}
        assert (await client.get(first.links["next"]["url"])).json() == {"repositories": ["c"]}


async def test_referrers_are_listed_and_filtered() -> None:
    """Referrers are listed by subject, also before the subject exists, and can be filtered by artifact type."""
    async with talk_to() as (registry, client):
        subject = Digest.of(b"not pushed")
        descriptor = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
        content = manifest_of([registry.put_blob(NAME, b"config")], subject=descriptor, artifactType="a/b")
        answer = await push_manifest(client, NAME, "signature", content)
        assert answer.headers["oci-subject"] == subject
        await put(client, registry, "other", subject=descriptor, annotations={"k": "v"})
        url = f"/v2/{NAME}/referrers/{subject}"
        all_of_them = await client.get(url)
        assert all_of_them.headers["content-type"] == OCI_INDEX
        entries = all_of_them.json()["manifests"]
        assert [entry["artifactType"] for entry in entries] == ["a/b", "application/vnd.tests.0"]
        assert entries[1]["annotations"] == {"k": "v"}
        some = await client.get(url, params={"artifactType": "a/b"})
        assert [entry["digest"] for entry in some.json()["manifests"]] == [Digest.of(content)]
        assert some.headers["oci-filters-applied"] == "artifactType"
        nobody = await client.get(f"/v2/nobody/referrers/{subject}")
        assert nobody.json()["manifests"] == []
