"""Text of others is checked by grammar and by length before it is used: digests (CVE-2024-3727), bodies."""

import json

import httpx
import pytest

from crossmount.errors import InvalidAnswerError, InvalidDigestError, InvalidReferenceError, RegistryRefusedError
from crossmount.oci import Descriptor, Manifest, Reference, Repository
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.registry.http.transport import ERROR_BYTES_MAX
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from support.hostile import DIGEST, EVIL, SECRET, given
from support.registry_kit import DATA, DEST, HOST, SOURCE, client_of, recorded


@pytest.mark.parametrize(
    "digest", ["sha256:../../x", "sha256:" + "a" * 63, "md5:" + "a" * 32, "", "sha256:" + "A" * 64]
)
async def test_no_digest_reaches_a_url_unchecked(digest: str) -> None:
    """A text that is no digest is refused even if the type checker was bypassed (CVE-2024-3727)."""
    client, transport = recorded(lambda _: httpx.Response(200))
    async with client:
        with pytest.raises(InvalidDigestError):
            await client.head_blob(DEST, digest)
        with pytest.raises(InvalidDigestError):
            await client.mount_blob(DEST, digest, None)
    assert transport.requests == []


@pytest.mark.parametrize("name", ["../etc", "a//b", "a/../b", "a?mount=x", "a%2fb", "a b", "A", "a/", "a\n"])
def test_no_name_reaches_a_url_unchecked(name: str) -> None:
    """A repository's name is checked when the value is made."""
    with pytest.raises(InvalidReferenceError):
        Repository(HOST, name)


async def test_from_is_percent_encoded() -> None:
    """The query of a mount has the given values and nothing else."""
    client, transport = recorded(lambda _: httpx.Response(201))
    async with client:
        await client.mount_blob(DEST, DIGEST, SOURCE)
        await client.mount_blob(DEST, DIGEST, None)
    named, found = (request.url.query.decode() for request in transport.requests)
    assert named == f"mount=sha256%3A{DIGEST.encoded}&from=team%2Fbase"
    assert found == f"mount=sha256%3A{DIGEST.encoded}"


@pytest.mark.parametrize("text", ["sha256:zz", "x", "sha256:" + "a" * 64 + "/../x"])
async def test_a_digest_in_an_answer_is_checked(text: str) -> None:
    """A digest in an answer that breaks the grammar makes the answer invalid."""
    client, _ = recorded(lambda _: httpx.Response(200, headers={"Docker-Content-Digest": text}))
    async with client:
        with pytest.raises(InvalidAnswerError, match="Docker-Content-Digest"):
            await client.get_manifest(Reference(DEST, tag="v1"))


async def test_foreign_urls_of_a_layer_are_never_fetched() -> None:
    """The `urls` in a manifest are never requested."""
    layer = {"mediaType": "x/y", "digest": DIGEST, "size": len(DATA), "urls": [f"https://{EVIL}/layer"]}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer, "layers": [layer]}
    content = json.dumps(document).encode()

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=content if "manifests" in request.url.path else DATA)

    client, transport = recorded(handler)
    async with client:
        fetched: Manifest = await client.get_manifest(Reference(DEST, tag="v1"))
        for item in fetched.blobs:
            assert isinstance(item, Descriptor)
            assert item.urls
            async with client.stream_blob(DEST, item.digest) as stream:
                assert [part async for part in stream] == [DATA]
    assert {request.url.host for request in transport.requests} == {HOST}


# Limits


async def test_a_token_answer_over_64_kib_is_refused() -> None:
    """A realm's answer is read up to 64 KiB."""
    auth = TokenAuth(users={"ci": SECRET})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        huge = json.dumps({"token": "x" * ERROR_BYTES_MAX}).encode()
        registry.play(Fault(path="/token*", action=Reply(status=200, body=huge, media_type="application/json")))
        async with client_of(registry.address, credentials=given(registry.address)) as client:
            with pytest.raises(InvalidAnswerError, match="more than 65536 bytes"):
                await client.start_upload(Repository(registry.address, "team/app"))


async def test_an_error_body_over_64_kib_is_not_read_further() -> None:
    """A refusal with a long body has its status and none of its words."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        registry.play(Fault(action=Reply(status=400, body=b"x" * (ERROR_BYTES_MAX + 1))))
        with pytest.raises(RegistryRefusedError, match="too long to read") as caught:
            await client.start_upload(Repository(registry.address, "team/app"))
        assert caught.value.status == 400
