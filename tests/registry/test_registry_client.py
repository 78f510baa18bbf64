"""The client against a real registry, Debian's docker-registry."""

import hashlib
from pathlib import Path

import pytest

from crossmount.errors import (
    AccessDeniedError,
    BlobUnknownError,
    InvalidInputError,
    InvalidReferenceError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.oci import BytesBlob, Descriptor, Digest, FileBlob, Reference, Repository
from crossmount.registry import Credential, GivenCredentials, Mounted, RegistryClient, UploadSession
from support.registries import PASSWORD, USER, DockerRegistry, StartRegistry, TokenRegistry
from support.registry_kit import DATA, blob, client_of, manifest

ABSENT = Digest.of(b"absent")


def given(registry: DockerRegistry, password: str = PASSWORD) -> GivenCredentials:
    """Return the credentials for a registry."""
    return GivenCredentials(registry.address, Credential(USER, password, origin="the test"))


async def push_blob(client: RegistryClient, repository: Repository, data: bytes = DATA) -> Digest:
    """Upload a blob."""
    item = blob(data)
    await client.upload_blob(await client.start_upload(repository), item)
    return item.descriptor.digest


@pytest.mark.parametrize("relative", [False, True])
async def test_a_blob_is_uploaded_found_mounted_and_read(
    start_docker_registry: StartRegistry, relative: bool
) -> None:
    """Upload, HEAD, mount and GET work with absolute and with relative Locations."""
    registry = start_docker_registry(relative=relative)
    one, two = (Repository(registry.address, name) for name in ("team/one", "team/two"))
    async with client_of(registry.address) as client:
        assert await client.head_blob(one, blob().descriptor.digest) is None
        sent: list[int] = []
        session = await client.mount_blob(one, blob().descriptor.digest, two)
        assert isinstance(session, UploadSession)
        await client.upload_blob(session, blob(), on_progress=sent.append)
        assert sent == [len(DATA)]
        digest = blob().descriptor.digest
        assert await client.head_blob(one, digest) == len(DATA)
        assert await client.mount_blob(two, digest, one) == Mounted()
        async with client.stream_blob(two, digest) as stream:
            assert stream.size == len(DATA)
            assert b"".join([part async for part in stream]) == DATA
        async with client.stream_blob(two, digest, offset=1000) as stream:
            assert stream.size == len(DATA)
            assert b"".join([part async for part in stream]) == DATA[1000:]
    assert registry.uploads(digest) == 1
    assert registry.mounts(digest) == 1


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000])
async def test_chunks_arrive_whole(docker_registry: DockerRegistry, size: int) -> None:
    """Blobs of any size, also of one byte and of none, are uploaded in chunks."""
    item = blob(DATA[:1] * size)
    repository = Repository(docker_registry.address, "team/app")
    async with client_of(docker_registry.address) as client:
        session = await client.start_upload(repository)
        await client.upload_blob(session, item, chunk_size=1000)
        assert await client.head_blob(repository, item.descriptor.digest) == size


async def test_a_file_is_uploaded_piece_by_piece(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    """Many MiB of a file are read piece by piece, and the progress is reported piece by piece."""
    data = b"layer" * 1_000_000
    (tmp_path / "file").write_bytes(data)
    item = FileBlob(Descriptor("x/y", Digest.of(data), len(data)), tmp_path / "file")
    repository = Repository(docker_registry.address, "team/app")
    sent: list[int] = []
    async with client_of(docker_registry.address) as client:
        await client.upload_blob(await client.start_upload(repository), item, on_progress=sent.append)
        assert len(sent) > 3
        assert sent == sorted(sent)
        assert sent[-1] == len(data)
        hasher = hashlib.sha256()
        async with client.stream_blob(repository, item.descriptor.digest) as stream:
            async for part in stream:
                hasher.update(part)
    assert item.descriptor.digest.matches(hasher)


async def test_manifests_by_tag_and_by_digest(docker_registry: DockerRegistry) -> None:
    """A manifest is put, found, fetched and listed; an absent one is None or a 404."""
    repository = Repository(docker_registry.address, "team/app")
    tagged = Reference(repository, tag="v1")
    item = manifest(blob())
    digest = item.descriptor.digest
    async with client_of(docker_registry.address) as client:
        assert await client.head_manifest(tagged) is None
        await push_blob(client, repository)
        assert await client.put_manifest(Reference(repository, tag="v1", digest=digest), item) == digest
        assert await client.put_manifest(Reference(repository, tag="v2"), item) == digest
        assert await client.put_manifest(Reference(repository), item) == digest
        assert await client.head_manifest(tagged) == item.descriptor
        assert await client.get_manifest(tagged) == item
        assert await client.get_manifest(Reference(repository, digest=digest)) == item
        assert [tag async for tag in client.list_tags(repository)] == ["v1", "v2"]
        assert [name async for name in client.catalog()] == ["team/app"]
        with pytest.raises(RegistryRefusedError, match="MANIFEST_UNKNOWN") as caught:
            await client.get_manifest(Reference(repository, tag="absent"))
        assert caught.value.status == 404


async def test_a_manifest_whose_blob_is_missing(docker_registry: DockerRegistry) -> None:
    """The refusal of a manifest with an absent blob is BlobUnknownError with the registry's words."""
    reference = Reference(Repository(docker_registry.address, "team/app"), tag="v1")
    async with client_of(docker_registry.address) as client:
        with pytest.raises(BlobUnknownError, match="MANIFEST_BLOB_UNKNOWN"):
            await client.put_manifest(reference, manifest(blob()))


async def test_wrong_bytes_are_refused_with_the_registrys_words(docker_registry: DockerRegistry) -> None:
    """Bytes with another digest are refused with DIGEST_INVALID, and nothing is stored."""
    item = BytesBlob(Descriptor("x/y", ABSENT, 11), b"other bytes")
    repository = Repository(docker_registry.address, "team/app")
    async with client_of(docker_registry.address) as client:
        session = await client.start_upload(repository)
        with pytest.raises(RegistryRefusedError, match="DIGEST_INVALID"):
            await client.upload_blob(session, item)
        assert await client.head_blob(repository, ABSENT) is None


async def test_a_cancelled_session_is_gone_and_a_cancel_never_fails(docker_registry: DockerRegistry) -> None:
    """A cancelled session is gone; a second cancel, or one at an absent registry, is no error."""
    repository = Repository(docker_registry.address, "team/app")
    async with client_of(docker_registry.address) as client:
        session = await client.start_upload(repository)
        await client.cancel_upload(session)
        await client.cancel_upload(session)
        dead = UploadSession(repository=repository, location="http://127.0.0.1:9/nothing")
        await client.cancel_upload(dead)
    assert [a.status for a in docker_registry.accesses() if a.method == "DELETE"] == [204, 404]


async def test_an_open_registry_takes_one_round_trip(docker_registry: DockerRegistry) -> None:
    """On a registry without auth a request is one round trip."""
    async with client_of(docker_registry.address) as client:
        await client.head_blob(Repository(docker_registry.address, "team/app"), ABSENT)
    assert [(a.method, a.status) for a in docker_registry.accesses()] == [("HEAD", 404)]


async def test_basic_auth(htpasswd_registry: DockerRegistry) -> None:
    """After one challenge each request is sent with user name and password."""
    repository = Repository(htpasswd_registry.address, "team/app")
    async with client_of(htpasswd_registry.address, credentials=given(htpasswd_registry)) as client:
        assert (await client.ping()).scheme == "basic"
        assert await client.credential_origin(repository) == "the test"
        await push_blob(client, repository)
        assert (await client.prepare(repository, [repository])).refused == frozenset()
    statuses = [access.status for access in htpasswd_registry.accesses()]
    assert statuses == [401, 202, 201]


@pytest.mark.parametrize("password", ["wrong", None])
async def test_denied_by_basic_auth(htpasswd_registry: DockerRegistry, password: str | None) -> None:
    """Wrong or no credentials raise AccessDeniedError with their origin, after one repetition at most."""
    repository = Repository(htpasswd_registry.address, "team/app")
    more = {} if password is None else {"credentials": given(htpasswd_registry, password)}
    async with client_of(htpasswd_registry.address, **more) as client:
        assert (await client.credential_origin() is None) is (password is None)
        words = "no credentials" if password is None else "credentials from the test"
        with pytest.raises(AccessDeniedError, match=words) as caught:
            await client.start_upload(repository)
    assert caught.value.status == 401
    assert len(htpasswd_registry.accesses()) == (1 if password is None else 2)


async def test_ping(docker_registry: DockerRegistry, token_registry: TokenRegistry) -> None:
    """`ping` returns the registry's version and its kind of auth."""
    async with client_of(docker_registry.address) as client:
        greeting = await client.ping()
        assert (greeting.status, greeting.version, greeting.scheme) == (200, "registry/2.0", "none")
    async with client_of(token_registry.registry.address) as client:
        greeting = await client.ping()
        assert (greeting.status, greeting.scheme, greeting.realm_host) == (401, "bearer", "127.0.0.1")
    assert token_registry.tokens.requests == []


async def test_no_answer() -> None:
    """A port without a listener raises RegistryUnreachableError with the address."""
    async with client_of("127.0.0.1:9") as client:
        with pytest.raises(RegistryUnreachableError, match=r"^GET http://127\.0\.0\.1:9/v2/: "):
            await client.ping()


async def test_a_repository_on_another_registry_is_refused(docker_registry: DockerRegistry) -> None:
    """A client refuses repositories on other registries, also as a mount's source."""
    here, there = Repository(docker_registry.address, "a"), Repository("other.example.org", "a")
    async with client_of(docker_registry.address) as client:
        with pytest.raises(InvalidInputError, match="is not on"):
            await client.mount_blob(here, ABSENT, there)
        with pytest.raises(InvalidInputError, match="is not on"):
            await client.prepare(here, [there])
        with pytest.raises(InvalidInputError, match="is not on"):
            await client.head_blob(there, ABSENT)
        with pytest.raises(InvalidInputError, match="name a tag or a digest"):
            await client.get_manifest(Reference(here))
        with pytest.raises(InvalidInputError, match="the manifest to put has the digest"):
            await client.put_manifest(Reference(here, digest=ABSENT), manifest(blob()))
    assert docker_registry.accesses() == []
    with pytest.raises(InvalidReferenceError):
        RegistryClient("not a registry")


async def test_docker_hub_is_reached_at_its_address() -> None:
    """Requests to docker.io are sent to registry-1.docker.io."""
    async with RegistryClient("docker.io") as client:
        assert client.registry == "docker.io"
        assert client._endpoints.base == "https://registry-1.docker.io"
    async with RegistryClient(Reference.parse("alpine")) as client:
        assert client._endpoints.base == "https://registry-1.docker.io"
