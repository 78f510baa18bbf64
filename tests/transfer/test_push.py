import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from crossmount import events
from crossmount.errors import (
    AccessDeniedError,
    BlobUnknownError,
    InvalidAnswerError,
    InvalidInputError,
    InvalidLayoutError,
    MountRequiredError,
    RegistryUnreachableError,
)
from crossmount.index import MemoryMountIndex, MountableLayers
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RegistryClient, RetryPolicy
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, blob_unknown, html
from crossmount.transfer.image_pusher import Limits
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.images import MadeImage, make_layers, make_layout

SHORT = Reply(status=200, body=b"short", media_type="application/octet-stream")
OPTIONS = ClientOptions(
    plain_http=True, retry=RetryPolicy(attempts=3, outage=0.0, wait_initial=0.01, wait_max=0.02)
)


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of four layers."""
    return make_layout(tmp_path / "image", make_layers(4, size=5000))


async def push_to(
    registry: ScriptedRegistry,
    name: str,
    image: MadeImage,
    index: MountableLayers | None = None,
    observer: Callable[[events.Event], None] = events.ignore,
    limits: Limits = Limits(),  # noqa: B008 a frozen value
) -> PushReport:
    """Push `image` to a repository of `registry`."""
    return await push(
        image.path, f"{registry.address}/{name}", index=index, options=OPTIONS, observer=observer, limits=limits
    )


def outcomes(report: PushReport) -> set[str]:
    """Return the set of the blobs' outcomes."""
    return {blob.outcome for blob in report.blobs}


async def test_a_first_push_uploads_and_a_second_one_mounts(
    scripted_registry: ScriptedRegistry, image: MadeImage
) -> None:
    """Blobs that one push uploaded are mounted by the next push elsewhere; one HEAD proves the first mount."""
    index = MemoryMountIndex()
    first = await push_to(scripted_registry, "team/a:1", image, index)
    asked = len(scripted_registry.requests)
    second = await push_to(scripted_registry, "team/b:1", image, index)
    assert outcomes(first) == {"uploaded"}
    assert outcomes(second) == {"mounted"}
    assert {str(blob.source) for blob in second.blobs} == {f"{scripted_registry.address}/team/a"}
    assert len(scripted_registry.requests) - asked == len(image.blobs) + 2
    asked = len(scripted_registry.requests)
    await push_to(scripted_registry, "team/c:1", image, index)
    assert len(scripted_registry.requests) - asked == len(image.blobs) + 1
    assert scripted_registry.uploads() == len(image.blobs)


async def test_existing_blobs_are_not_uploaded(scripted_registry: ScriptedRegistry, image: MadeImage) -> None:
    """Without an index a second push to the same repository finds every blob by HEAD."""
    await push_to(scripted_registry, "team/a:1", image)
    again = await push_to(scripted_registry, "team/a:2", image)
    assert outcomes(again) == {"existing"}
    assert again.index == "off"


async def test_the_report_is_what_the_command_prints(
    scripted_registry: ScriptedRegistry, image: MadeImage
) -> None:
    """The JSON report has the documented keys, and its sums agree with its blobs."""
    report = await push_to(scripted_registry, "team/a:1", image, MemoryMountIndex())
    document = report.to_json()
    assert set(document) == {"reference", "digest", "blobs", "bytes", "saved", "index", "seconds"}
    assert set(document["blobs"][0]) == {"digest", "size", "outcome", "source", "attempts"}
    assert document["bytes"] == {"existing": 0, "mounted": 0, "uploaded": sum(blob.size for blob in image.blobs)}
    assert document["digest"] == image.root.digest
    assert [blob["digest"] for blob in document["blobs"]] == [blob.digest for blob in image.blobs]
    assert document["index"] == "ok"


async def test_without_a_tag_it_is_latest(scripted_registry: ScriptedRegistry, image: MadeImage) -> None:
    """A reference without a tag is pushed as `latest`."""
    report = await push_to(scripted_registry, "team/a", image)
    assert report.reference.tag == "latest"


async def test_by_digest_no_tag_is_made(scripted_registry: ScriptedRegistry, image: MadeImage) -> None:
    """A reference with a digest pushes the manifest by digest; a wrong digest is refused before any request."""
    await push_to(scripted_registry, f"team/a@{image.root.digest}", image)
    assert scripted_registry.matching(method="PUT", path=f"*/manifests/{image.root.digest}")
    with pytest.raises(InvalidInputError, match="has the digest"):
        await push_to(scripted_registry, f"team/b@{Digest.of(b'other')}", image)
    assert not scripted_registry.matching(path="*/team/b/*")


async def test_a_multi_platform_image_is_tagged_last(scripted_registry: ScriptedRegistry, tmp_path: Path) -> None:
    """Blobs are pushed first, then the platforms' manifests by digest, then the index by tag."""
    image = make_layout(tmp_path / "image", make_layers(3), platforms=("linux/amd64", "linux/arm64"))
    await push_to(scripted_registry, "team/a:1", image)
    puts = [record.path for record in scripted_registry.matching(method="PUT", path="*/manifests/*")]
    assert puts[-1] == "/v2/team/a/manifests/1"
    assert {path.rpartition("/")[2] for path in puts[:-1]} == {manifest.digest for manifest in image.manifests}


async def test_nothing_is_sent_of_a_broken_layout(scripted_registry: ScriptedRegistry, image: MadeImage) -> None:
    """A missing blob that dest lacks too is reported before anything is uploaded."""
    lost = image.layers[2].digest
    image.blob_path(lost).unlink()
    with pytest.raises(InvalidLayoutError, match=lost):
        await push_to(scripted_registry, "team/a:1", image)
    assert {request.method for request in scripted_registry.requests} == {"HEAD"}


async def test_an_index_with_only_wrong_sources_costs_round_trips_and_no_byte(
    scripted_registry: ScriptedRegistry, image: MadeImage
) -> None:
    """With wrong sources the push succeeds, uploads each byte once, and removes them from the index."""
    index = MemoryMountIndex()
    for blob in image.blobs:
        for number in range(3):
            wrong = Repository.parse(f"{scripted_registry.address}/wrong/{number}")
            await index.add_source(blob.digest, wrong)
    report = await push_to(scripted_registry, "team/a:1", image, index)
    assert outcomes(report) == {"uploaded"}
    assert scripted_registry.upload_bytes == sum(blob.size for blob in image.blobs)
    assert scripted_registry.open_sessions == ()
    tried = {blob.digest: blob.attempts for blob in report.blobs}
    another = Repository.parse(f"{scripted_registry.address}/team/b")
    for blob in image.blobs:
        left = await index.sources(blob.digest, another)
        assert len(left) == 1 + 3 - tried[blob.digest]


async def test_the_index_is_not_believed_about_dest(scripted_registry: ScriptedRegistry, image: MadeImage) -> None:
    """If the index lists dest as a holder, HEAD verifies it."""
    index = MemoryMountIndex()
    dest = Repository.parse(f"{scripted_registry.address}/team/a")
    for blob in image.blobs:
        await index.add_source(blob.digest, dest)
    report = await push_to(scripted_registry, "team/a:1", image, index)
    assert outcomes(report) == {"uploaded"}


async def test_a_blob_that_is_unknown_after_all_is_uploaded(image: MadeImage) -> None:
    """After a manifest is refused, missing blobs are uploaded, stale sources removed, and the push succeeds."""
    async with ScriptedRegistry() as registry:
        index = MemoryMountIndex()
        await push_to(registry, "team/a:1", image, index)
        lying = image.layers[0].digest
        registry.play(
            Fault(method="POST", path="*/team/b/*", query=f"*{lying[7:]}*", action=Reply(status=201)),
        )
        report = await push_to(registry, "team/b:1", image, index)
        ended = {blob.digest: blob.outcome for blob in report.blobs}
        assert ended[lying] == "uploaded"
        assert set(ended.values()) == {"uploaded", "mounted"}
        source = Repository.parse(f"{registry.address}/team/a")
        assert source not in await index.sources(lying, Repository.parse(f"{registry.address}/team/c"))


async def test_the_push_repairs_itself_once_only(image: MadeImage) -> None:
    """A registry that keeps refusing the manifest fails the push with its message, and nothing is recorded."""
    refusals = Fault(method="PUT", path="*/manifests/*", action=blob_unknown(), times=None)
    async with ScriptedRegistry(faults=[refusals]) as registry:
        index = MemoryMountIndex()
        with pytest.raises(BlobUnknownError):
            await push_to(registry, "team/a:1", image, index)
        assert len(registry.matching(method="PUT", path="*/manifests/*")) == 2
        assert await index.locations(image.layers[0].digest) == ()


async def test_must_mount_is_not_uploaded(scripted_registry: ScriptedRegistry, image: MadeImage) -> None:
    """A must-mount layer that cannot be mounted fails the push without a tag; the error names layer and dest."""
    index = MemoryMountIndex()
    flagged = image.layers[1].digest
    source = Repository.parse(f"{scripted_registry.address}/base/image")
    await index.add_source(flagged, source, must_mount=True)
    with pytest.raises(MountRequiredError, match=flagged):
        await push_to(scripted_registry, "team/a:1", image, index)
    assert scripted_registry.uploads(flagged) == 0
    assert not scripted_registry.matching(method="PUT", path="*/manifests/*")
    assert scripted_registry.open_sessions == ()


async def test_a_mount_satisfies_must_mount(scripted_registry: ScriptedRegistry, image: MadeImage) -> None:
    """A must-mount layer that is mounted, or that dest has, does not fail the push."""
    index = MemoryMountIndex()
    flagged = image.layers[1]
    content = image.blob_path(flagged.digest).read_bytes()
    scripted_registry.put_blob("base/image", content)
    await index.add_source(
        flagged.digest, Repository.parse(f"{scripted_registry.address}/base/image"), must_mount=True
    )
    for expected in ("mounted", "existing"):
        report = await push_to(scripted_registry, "team/a:1", image, index)
        assert {blob.digest: blob.outcome for blob in report.blobs}[flagged.digest] == expected


async def test_a_registry_that_does_not_allow_it_says_so(image: MadeImage) -> None:
    """403 raises an AccessDeniedError, and the index is not changed."""
    async with ScriptedRegistry(faults=[Fault(method="POST", action=Reply(status=403), times=None)]) as registry:
        index = MemoryMountIndex()
        with pytest.raises(AccessDeniedError):
            await push_to(registry, "team/a:1", image, index)
        assert await index.locations(image.layers[0].digest) == ()


async def test_a_mount_that_cannot_be_carried_out_is_an_upload(image: MadeImage) -> None:
    """When every mount request fails, the push uploads."""
    broken = Fault(method="POST", query="*mount=*", action=Reply(status=500), times=None)
    async with ScriptedRegistry(faults=[broken]) as registry:
        index = MemoryMountIndex()
        for blob in image.blobs:
            await index.add_source(blob.digest, Repository.parse(f"{registry.address}/base/image"))
        report = await push_to(registry, "team/a:1", image, index)
        assert outcomes(report) == {"uploaded"}


async def test_a_registry_that_does_not_answer(image: MadeImage, closed_port: int) -> None:
    """No answer raises a RegistryUnreachableError that names the registry."""
    with pytest.raises(RegistryUnreachableError, match=str(closed_port)):
        await push(image.path, f"127.0.0.1:{closed_port}/team/a:1", options=OPTIONS)


async def test_uploads_and_requests_have_separate_limits(image: MadeImage) -> None:
    """There are never more concurrent uploads than `uploads`, while HEADs run concurrently."""
    slow = Fault(method="PUT", path="*/blobs/*", delay=0.02, times=None)
    underway, most = 0, 0

    def watch(event: events.Event) -> None:
        nonlocal underway, most
        if isinstance(event, events.BlobProgress):
            underway += 1
            most = max(most, underway)
        elif isinstance(event, events.BlobFinished):
            underway -= 1

    async with ScriptedRegistry(RegistryOptions(), faults=[slow]) as registry:
        await push_to(registry, "team/a:1", image, observer=watch, limits=Limits(requests=8, uploads=2))
    assert most == 2


async def test_observers_see_every_blob_start_and_finish(
    scripted_registry: ScriptedRegistry, image: MadeImage
) -> None:
    """Observers receive each blob's start and end once, then the manifest with its tag."""
    seen: list[events.Event] = []
    await push_to(scripted_registry, "team/a:1", image, observer=seen.append)
    digests = {blob.digest for blob in image.blobs}
    assert {event.digest for event in seen if isinstance(event, events.BlobStarted)} == digests
    assert {event.digest for event in seen if isinstance(event, events.BlobFinished)} == digests
    assert seen[-1] == events.ManifestPushed(digest=image.root.digest, tag="1")


async def test_a_push_that_is_cancelled_leaves_no_session_no_tag_and_the_index_as_it_was(
    image: MadeImage,
) -> None:
    """Ctrl-C during an upload cancels the sessions, creates no tag, and records nothing."""
    held = Fault(method="PUT", path="*/blobs/*", delay=30.0, times=None)
    index = MemoryMountIndex()
    uploading = asyncio.Event()

    def watch(event: events.Event) -> None:
        if isinstance(event, events.BlobProgress):
            uploading.set()

    async with ScriptedRegistry(faults=[held]) as registry:
        task = asyncio.create_task(push_to(registry, "team/a:1", image, index, observer=watch))
        await uploading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert registry.open_sessions == ()
        assert not registry.matching(method="PUT", path="*/manifests/*")
    assert await index.locations(image.layers[0].digest) == ()


async def test_a_given_client_is_used_and_stays_open(
    scripted_registry: ScriptedRegistry, image: MadeImage
) -> None:
    """One client can be used for several pushes."""
    async with RegistryClient(scripted_registry.address, options=OPTIONS) as client:
        for tag in ("1", "2"):
            report = await push(image.path, f"{scripted_registry.address}/team/a:{tag}", client=client)
        assert (await client.get_manifest(report.reference)).descriptor.digest == image.root.digest


async def test_a_web_server_is_not_a_registry(image: MadeImage) -> None:
    """A web page with status 200 is an error that says so, and never an existing blob."""
    async with ScriptedRegistry(faults=[Fault(action=html(), times=None)]) as registry:
        with pytest.raises(InvalidAnswerError, match="web page"):
            await push_to(registry, "team/a:1", image)


async def test_a_blob_of_another_size_is_not_there(image: MadeImage) -> None:
    """If HEAD gives another size than the blob's, the blob is uploaded."""
    lie = Fault(method="HEAD", path="*/blobs/*", action=SHORT, times=None)
    async with ScriptedRegistry(faults=[lie]) as registry:
        assert outcomes(await push_to(registry, "team/a:1", image)) == {"uploaded"}


async def test_damaged_bytes_in_the_layout_are_reported(
    scripted_registry: ScriptedRegistry, image: MadeImage
) -> None:
    """For a blob with wrong bytes the error names the blob, and says that the layout is damaged."""
    damaged = image.layers[1]
    image.blob_path(damaged.digest).write_bytes(bytes(damaged.size))
    with pytest.raises(InvalidLayoutError, match=f"{damaged.digest}.*damaged"):
        await push_to(scripted_registry, "team/a:1", image)
    assert not scripted_registry.matching(method="PUT", path="*/manifests/*")


@pytest.mark.parametrize("index", ["redis://localhost", 5])
async def test_something_else_than_an_index_is_refused(image: MadeImage, index: object) -> None:
    """Something that is not an index, such as a URL, raises an error that names open_index."""
    with pytest.raises(InvalidInputError, match="open_index"):
        await push(image.path, "r.example/a", index=index)  # type: ignore[arg-type]  # that is the point
