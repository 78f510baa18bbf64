"""The referrers of an image are copied: found by the API, by the referrers tag, and by cosign's tags."""

import json
from pathlib import Path
from typing import Any

import pytest

from crossmount.errors import CopyFailedError
from crossmount.oci import BytesBlob, Descriptor, Digest, Manifest, Reference, Repository
from crossmount.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.testing import Fault, Reply, ScriptedRegistry
from crossmount.transfer import referrers
from crossmount.transfer.copy import copy
from crossmount.transfer.push import push
from crossmount.transfer.referrers import DEPTH_MAX, with_entries
from crossmount.transfer.report import CopyReport
from support.images import MadeImage, make_layers, make_layout
from support.registries import DockerRegistry, StartRegistry

OPTIONS = ClientOptions(plain_http=True)
NO_API = Fault(path="*/referrers/*", action=Reply(status=404, code="UNSUPPORTED"), times=None)
SIGNATURE = "application/vnd.example.signature"


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An index of two platforms."""
    return make_layout(tmp_path / "image", make_layers(2), platforms=("linux/amd64", "linux/arm64"))


async def attach(address: str, subject: Descriptor | None, words: str, *, tag: str | None = None) -> Descriptor:
    """Add a manifest that refers to `subject` to team/app, and return its descriptor."""
    repository = Repository.parse(f"{address}/team/app")
    config, layer = b"{}", words.encode()

    def entry(data: bytes, kind: str) -> dict[str, Any]:
        return {"mediaType": kind, "digest": str(Digest.of(data)), "size": len(data)}

    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": SIGNATURE,
        "config": entry(config, "application/vnd.oci.empty.v1+json"),
        "layers": [entry(layer, "text/plain")],
        "annotations": {"words": words},
    }
    if subject is not None:
        document["subject"] = {
            "mediaType": subject.media_type,
            "digest": str(subject.digest),
            "size": subject.size,
        }
    manifest = Manifest.parse(json.dumps(document).encode(), where="a test's referrer")
    async with RegistryClient(address, options=OPTIONS) as client:
        for data in (config, layer):
            blob = BytesBlob(Descriptor("x", Digest.of(data), len(data)), data)
            await client.upload_blob(await client.start_upload(repository), blob)
        digest = None if tag else manifest.descriptor.digest
        await client.put_manifest(Reference(repository, tag, digest), manifest)
    return manifest.descriptor


async def list_under_tag(address: str, subject: Descriptor, *listed: Descriptor) -> None:
    """Write the referrers tag of `subject` in team/app, as clients of a registry without the API do."""
    entries = [{"mediaType": one.media_type, "digest": str(one.digest), "size": one.size} for one in listed]
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    tag = Reference.parse(f"{address}/team/app:sha256-{subject.digest.encoded}")
    async with RegistryClient(address, options=OPTIONS) as client:
        await client.put_manifest(tag, Manifest.parse(content, where="a test's list"))


def listing_of(*listed: Descriptor) -> Reply:
    """Return an answer of the referrers API."""
    entries = [{"mediaType": one.media_type, "digest": str(one.digest), "size": one.size} for one in listed]
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    return Reply(status=200, body=content, media_type=OCI_INDEX)


async def copied(source: str, dest: str, **how: Any) -> CopyReport:
    """Copy team/app:1 with its referrers."""
    return await copy(
        f"{source}/team/app:1", f"{dest}/mirror/app", **{"options": OPTIONS, "referrers": True, **how}
    )


async def listed_at(address: str, subject: Descriptor) -> set[str]:
    """Return the referrers of `subject` that mirror/app lists, by the API or by the tag."""
    repository = Repository.parse(f"{address}/mirror/app")
    async with RegistryClient(address, options=OPTIONS) as client:
        found = await client.list_referrers(repository, subject.digest)
        if found is None:
            found = (await client.get_manifest(Reference(repository, f"sha256-{subject.digest.encoded}"))).children
    return {str(one.digest) for one in found}


async def test_referrers_are_copied_unchanged(a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage) -> None:
    """Referrers of the index, of its children and of referrers are copied, and the tag is pushed last."""
    of_root = await attach(a.address, image.root, "of the index")
    of_child = await attach(a.address, image.manifests[1], "of a child")
    of_referrer = await attach(a.address, of_root, "of a referrer")
    report = await copied(a.address, b.address)
    assert set(report.copied[0].referrers) == {of_root.digest, of_child.digest, of_referrer.digest}
    assert await listed_at(b.address, image.root) == {of_root.digest}
    assert await listed_at(b.address, image.manifests[1]) == {of_child.digest}
    assert await listed_at(b.address, of_root) == {of_referrer.digest}
    puts = [record.path for record in b.matching(method="PUT", path="*/manifests/*")]
    assert puts[-1] == "/v2/mirror/app/manifests/1"
    assert set(b.holdings.find("mirror/app").tags) == {"1"}
    assert {str(blob.digest) for blob in report.copied[0].blobs} >= {Digest.of(b"of a child")}


async def test_referrers_are_not_copied_by_default(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """Without `referrers` no referrers are requested."""
    await attach(a.address, image.root, "of the index")
    await copied(a.address, b.address, referrers=False)
    assert not a.matching(path="*/referrers/*")
    assert len(b.holdings.find("mirror/app").manifests) == 3


async def test_between_registries_without_the_api_tags_list_them(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """Without the API, referrers are read from the source's tag and added to the destination's tag."""
    one = await attach(a.address, image.root, "one")
    await list_under_tag(a.address, image.root, one)
    a.play(NO_API)
    b.play(NO_API)
    await copied(a.address, b.address)
    assert await listed_at(b.address, image.root) == {one.digest}
    another = await attach(a.address, image.root, "another")
    await list_under_tag(a.address, image.root, another)
    await copied(a.address, b.address)
    assert await listed_at(b.address, image.root) == {one.digest, another.digest}


@pytest.mark.parametrize("api", [False, True])
async def test_a_tag_that_answers_with_the_subject_lists_no_referrers(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, api: bool
) -> None:
    """Where a referrers tag is answered with the manifest of that digest, its platforms are not its referrers."""
    one = await attach(a.address, image.root, "one")
    for registry in (a, b):
        if api and registry is a:
            path = f"*/referrers/{image.root.digest}"
            registry.play(Fault(path=path, action=listing_of(one, image.root), times=None))
        registry.play(NO_API)
        for manifest in (image.root, *image.manifests):
            content = image.blob_path(manifest.digest).read_bytes()
            answer = Reply(status=200, body=content, media_type=manifest.media_type)
            for method, suffix in (("GET", ""), ("HEAD", ""), ("GET", ".sig"), ("HEAD", ".sig")):
                path = f"*/manifests/sha256-{manifest.digest.encoded}{suffix}"
                registry.play(Fault(method=method, path=path, action=answer, times=None))
    report = await copied(a.address, b.address)
    assert set(report.copied[0].referrers) == ({one.digest} if api else set())
    tags = set(b.holdings.find("mirror/app").tags)
    assert tags == {"1"} | ({f"sha256-{image.root.digest.encoded}"} if api else set())
    assert len(report.copied[0].blobs) == len(image.blobs) + (2 if api else 0)


async def test_the_tag_is_written_only_if_something_is_new(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """A second copy does not write the destination's referrers tag again."""
    await attach(a.address, image.root, "one")
    b.play(NO_API)
    await copied(a.address, b.address)
    tag = f"*/manifests/sha256-{image.root.digest.encoded}"
    assert len(b.matching(method="PUT", path=tag)) == 1
    await copied(a.address, b.address)
    assert len(b.matching(method="PUT", path=tag)) == 1


async def test_cosigns_tags_are_copied(a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage) -> None:
    """Cosign's signature, attestation and SBOM tags are copied for the index and its children."""
    tags = {
        f"sha256-{image.root.digest.encoded}.sig",
        f"sha256-{image.root.digest.encoded}.att",
        f"sha256-{image.manifests[0].digest.encoded}.sbom",
    }
    for tag in tags:
        await attach(a.address, None, tag, tag=tag)
    report = await copied(a.address, b.address)
    assert set(b.holdings.find("mirror/app").tags) == {"1", *tags}
    assert len(report.copied[0].referrers) == 3


async def test_a_chain_within_the_limit_is_copied(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """The number of referrers of one image is limited."""
    subject = image.root
    for number in range(DEPTH_MAX):
        subject = await attach(a.address, subject, str(number))
    report = await copied(a.address, b.address)
    assert len(report.copied[0].referrers) == DEPTH_MAX
    assert set(b.holdings.find("mirror/app").tags) == {"1"}


async def test_a_chain_that_does_not_end_is_refused(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """Referrers that are nested too deep fail the copy, and no tag is created."""
    subject = image.root
    for number in range(6):
        subject = await attach(a.address, subject, str(number))
    with pytest.raises(CopyFailedError, match="deep"):
        await copied(a.address, b.address)
    assert b.holdings.find("mirror/app").tags == {}


async def test_referrers_are_counted_before_they_are_read(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of referrers counts for the whole image, not for each of its manifests."""
    monkeypatch.setattr(referrers, "REFERRERS_MAX", 10)
    for subject in (image.root, *image.manifests):
        for number in range(9):
            await attach(a.address, subject, f"{number} of {subject.digest}")
    a.requests.clear()
    with pytest.raises(CopyFailedError, match="more than 10 manifests refer"):
        await copied(a.address, b.address)
    assert len(a.matching(method="GET", path="*/manifests/*")) <= 10 + 3


async def test_real_registries_without_the_api(
    docker_registry: DockerRegistry, start_docker_registry: StartRegistry, image: MadeImage
) -> None:
    """Between two docker-registry 2.8 the referrers tag is read and written, and digests stay the same."""
    other = start_docker_registry()
    await push(image.path, f"{docker_registry.address}/team/app:1", options=OPTIONS)
    one = await attach(docker_registry.address, image.root, "one")
    await list_under_tag(docker_registry.address, image.root, one)
    await copied(docker_registry.address, other.address)
    assert await listed_at(other.address, image.root) == {one.digest}


def test_a_list_of_referrers_keeps_its_entries() -> None:
    """Entries are added once; without a new one nothing is written; an invalid index is replaced."""
    first = with_entries(None, [{"digest": "a"}])
    assert first is not None
    assert with_entries(first, [{"digest": "a"}]) is None
    second = with_entries(first, [{"digest": "b", "size": 1}])
    assert second is not None
    assert json.loads(second)["manifests"] == [{"digest": "a"}, {"digest": "b", "size": 1}]
    assert with_entries(b"[]", [{"digest": "a"}]) == first
