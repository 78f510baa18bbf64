"""Copies between two or three in-process registries."""

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossmount import events
from crossmount.errors import CopyFailedError, InvalidInputError, MountRequiredError, RegistryUnreachableError
from crossmount.fleet import Patience
from crossmount.index import MemoryMountIndex, Sighting
from crossmount.oci import Digest, Reference, Repository
from crossmount.registry.http.transport import HttpClient
from crossmount.testing import (
    BasicAuth,
    Fault,
    Grant,
    LoseAnswer,
    RegistryOptions,
    Reply,
    ScriptedRegistry,
    TokenAuth,
)
from crossmount.transfer.copy import copy
from crossmount.transfer.push import push
from crossmount.transfer.registries import Registries
from support.copies import OPTIONS, copied, gets, is_whole
from support.images import MadeImage, make_layers, make_layout
from support.layouts import named, write, write_manifest, write_root
from support.waiting import PATIENCE

EAGER = Patience(small=100, limit=20)


async def test_an_image_is_copied_byte_for_byte(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """The destination gets the source's tag and digest, and each blob is fetched once."""
    report = await copied(a, b)
    assert is_whole(b, "mirror/app", image)
    assert (report.copied[0].digest, report.copied[0].reference.tag) == (image.root.digest, "1")
    assert [gets(a, blob.digest) for blob in image.blobs] == [1] * len(image.blobs)
    assert {blob.fetched_from for blob in report.copied[0].blobs} == {f"{a.address}/team/app"}
    assert report.fetched == report.bytes("uploaded") == sum(blob.size for blob in image.blobs)
    assert b.requests[-1].path == "/v2/mirror/app/manifests/1"
    assert b.open_sessions == ()


async def test_the_report_is_what_the_command_prints(a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """The JSON of each image is that of a push, and says where its bytes were fetched from."""
    document = (await copied(a, b, index=MemoryMountIndex())).to_json()
    assert set(document) == {"images", "bytes", "saved", "index", "seconds"}
    (one,) = document["images"]
    pushed = {"reference", "digest", "blobs", "bytes", "saved", "index", "seconds"}
    assert set(one) == pushed | {"source", "referrers"}
    assert set(one["blobs"][0]) >= {"digest", "size", "outcome", "source", "attempts", "fetched_from", "fetched"}
    assert set(one["bytes"]) == {"existing", "mounted", "uploaded", "fetched"}
    assert document["index"] == "ok"


async def test_a_second_copy_mounts(a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage) -> None:
    """A blob in another repository of the destination's registry is mounted, and nothing is fetched."""
    index = MemoryMountIndex()
    await copied(a, b, index=index)
    asked = gets(a)
    report = await copy(f"{a.address}/team/app:1", f"{b.address}/other/app:2", index=index, options=OPTIONS)
    assert {blob.outcome for blob in report.copied[0].blobs} == {"mounted"}
    assert gets(a) == asked
    assert is_whole(b, "other/app", image, "2")


async def test_the_repository_that_a_copy_reads_from_comes_before_all_that_the_index_names(
    image: MadeImage,
) -> None:
    """Fifty unreadable sources do not make a copy within one registry fetch what it can mount."""
    rights = TokenAuth(
        users={"ci": "pw"}, refuses_whole=True, grants={"ci": (Grant("team/*"), Grant("mirror/app"))}
    )
    index = MemoryMountIndex()
    async with ScriptedRegistry(RegistryOptions(auth=rights)) as registry:
        login = {registry.address: ("ci", "pw")}
        async with Registries(replace(OPTIONS, credentials=login)) as registries:
            await push(image.path, f"{registry.address}/team/app:1", registries=registries)
            private = [Repository.parse(f"{registry.address}/mirror/private-{number}") for number in range(50)]
            await index.record([Sighting(blob.digest, source) for blob in image.blobs for source in private])
            registry.requests.clear()
            await copy(
                f"{registry.address}/team/app:1",
                f"{registry.address}/mirror/app:1",
                index=index,
                registries=registries,
            )
        assert [registry.mounts(blob.digest) for blob in image.blobs] == [1] * len(image.blobs)
        assert not registry.matching(method="GET", path="*/blobs/*")


async def test_within_one_registry_the_source_is_mounted_from(a: ScriptedRegistry, image: MadeImage) -> None:
    """Without an index, blobs are mounted from the source on the same registry."""
    report = await copied(a, a)
    assert {blob.outcome for blob in report.copied[0].blobs} == {"mounted"}
    assert gets(a) == 0
    assert is_whole(a, "mirror/app", image)


async def test_a_new_tag_in_the_same_repository(a: ScriptedRegistry, image: MadeImage) -> None:
    """Copying to the source's own repository uploads nothing, and creates the tag."""
    report = await copy(f"{a.address}/team/app:1", f"{a.address}/team/app:stable", options=OPTIONS)
    assert {blob.outcome for blob in report.copied[0].blobs} == {"existing"}
    assert a.holdings.find("team/app").tags["stable"] == image.root.digest


async def test_without_a_tag_it_is_latest_and_by_digest_no_tag_is_made(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """A digest is copied as a digest; a reference without tag and digest is `latest`."""
    digest = image.root.digest
    await copy(f"{a.address}/team/app@{digest}", f"{b.address}/mirror/app", options=OPTIONS)
    assert b.holdings.find("mirror/app").tags == {}
    assert digest in b.holdings.find("mirror/app").manifests
    with pytest.raises(CopyFailedError, match="latest"):
        await copy(f"{a.address}/team/app", f"{b.address}/mirror/app", options=OPTIONS)
    other = Digest.of(b"other")
    with pytest.raises(InvalidInputError, match="has the digest of its source"):
        await copy(f"{a.address}/team/app@{digest}", f"{b.address}/mirror/app@{other}", options=OPTIONS)
    with pytest.raises(CopyFailedError, match="give that one"):
        await copy(f"{a.address}/team/app:1", f"{b.address}/mirror/app@{other}", options=OPTIONS)


async def test_a_multi_platform_image_is_copied_with_all_children(
    a: ScriptedRegistry, b: ScriptedRegistry, tmp_path: Path
) -> None:
    """Children are pushed before their index, the tag last, and digests stay the same."""
    image = make_layout(tmp_path / "many", make_layers(3), platforms=("linux/amd64", "linux/arm64"))
    await push(image.path, f"{a.address}/team/many:1", options=OPTIONS)
    await copy(f"{a.address}/team/many:1", f"{b.address}/team/many", options=OPTIONS)
    assert is_whole(b, "team/many", image)
    assert set(b.holdings.find("team/many").manifests) == {
        image.root.digest,
        *(manifest.digest for manifest in image.manifests),
    }


async def test_all_tags_are_copied(b: ScriptedRegistry, image: MadeImage) -> None:
    """All tags of a repository are copied, each layer fetched once, also without an index."""
    async with ScriptedRegistry(RegistryOptions(page_size=2)) as paged:
        for number in range(1, 8):
            await push(image.path, f"{paged.address}/team/app:{number}", options=OPTIONS)
        source, dest = f"{paged.address}/team/app", f"{b.address}/mirror/app"
        report = await copy(source, dest, all_tags=True, options=OPTIONS, patience=EAGER)
        assert [gets(paged, layer.digest) for layer in image.layers] == [1] * 4
        assert len(paged.matching(path="*/tags/list")) == 4
    assert [str(one.reference.tag) for one in report.copied] == list("1234567")
    assert set(b.holdings.find("mirror/app").tags) == set("1234567")
    assert report.index == "off"


async def test_a_repository_without_tags_fails(a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """A repository without tags fails and is named; a tag together with all tags is refused at once."""
    with pytest.raises(CopyFailedError, match="nothing/here"):
        await copy(f"{a.address}/nothing/here", f"{b.address}/x", all_tags=True, options=OPTIONS)
    with pytest.raises(InvalidInputError, match="give the repository alone"):
        await copy(f"{a.address}/team/app:1", f"{b.address}/x", all_tags=True, options=OPTIONS)


async def test_several_destinations_at_once(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage
) -> None:
    """Several destinations share one read of the manifests, and each has its own report."""
    dests = [f"{b.address}/one/app:x", f"{b.address}/two/app", f"{c.address}/app"]
    report = await copy(f"{a.address}/team/app:1", *dests, options=OPTIONS, patience=EAGER)
    assert is_whole(b, "one/app", image, "x")
    assert is_whole(b, "two/app", image)
    assert is_whole(c, "app", image)
    assert [b.uploads(layer.digest) for layer in image.layers] == [1] * 4
    assert [one.reference.registry for one in report.copied] == [b.address, b.address, c.address]
    assert len(a.matching(path="*/manifests/*")) == 1


async def test_one_failed_image_does_not_stop_the_others(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, closed_port: int
) -> None:
    """The error names the image that failed, its report has the others, and observers receive both."""
    seen: list[events.Event] = []
    nowhere = f"127.0.0.1:{closed_port}/app"
    with pytest.raises(CopyFailedError, match="1 of 2 images") as raised:
        await copy(f"{a.address}/team/app:1", nowhere, f"{b.address}/app", options=OPTIONS, observer=seen.append)
    report = raised.value.report
    assert isinstance(report.failures[0].error, RegistryUnreachableError)
    assert str(report.failures[0].reference) == f"{nowhere}:1"
    assert is_whole(b, "app", image)
    assert report.to_json()["images"][0]["error"]
    assert [type(event) for event in seen if isinstance(event, events.ImageCopied | events.ImageFailed)] in (
        [events.ImageCopied, events.ImageFailed],
        [events.ImageFailed, events.ImageCopied],
    )


@pytest.mark.parametrize("action", [LoseAnswer(), Reply(status=503)])
async def test_a_resumed_upload_gets_the_right_bytes(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, action: Any
) -> None:
    """A blob that must be uploaded again is fetched again and verified completely."""
    b.play(Fault(method="PUT", path="*/blobs/*", action=action, times=2))
    await copied(a, b)
    assert is_whole(b, "mirror/app", image)


@pytest.mark.parametrize("kind", [BasicAuth, TokenAuth])
async def test_credentials_stay_with_their_registry(
    image: MadeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BasicAuth | TokenAuth]
) -> None:
    """The source and the destination receive only their own passwords and tokens."""
    sent: list[tuple[str, str]] = []
    plain = HttpClient.handle_async_request

    async def watched(client: HttpClient, request: httpx.Request) -> httpx.Response:
        if "authorization" in request.headers:
            sent.append((request.url.netloc.decode(), request.headers["authorization"]))
        return await plain(client, request)

    def pair(user: str) -> str:
        return base64.b64encode(f"{user}:secret-{user}".encode()).decode()

    async with (
        ScriptedRegistry(RegistryOptions(auth=kind(users={"one": "secret-one"}))) as a,
        ScriptedRegistry(RegistryOptions(auth=kind(users={"two": "secret-two"}))) as b,
    ):
        authfile = tmp_path / "auth.json"
        auths = {a.address: {"auth": pair("one")}, b.address: {"auth": pair("two")}}
        authfile.write_text(json.dumps({"auths": auths}))
        options = replace(OPTIONS, authfile=authfile)
        await push(image.path, f"{a.address}/team/app:1", options=options)
        monkeypatch.setattr(HttpClient, "handle_async_request", watched)
        await copied(a, b, options=options)
        assert is_whole(b, "mirror/app", image)
    for_a = {header for place, header in sent if place == a.address}
    for_b = {header for place, header in sent if place == b.address}
    assert for_a
    assert for_b
    assert not for_a & for_b
    assert f"Basic {pair('one')}" in for_a
    assert f"Basic {pair('two')}" in for_b


@pytest.mark.parametrize("connections", [1, 2])
async def test_a_copy_within_a_registry_that_mounts_nothing_ends(image: MadeImage, connections: int) -> None:
    """However few connections are allowed, the blobs that are fetched leave some to those that are sent."""
    async with ScriptedRegistry(RegistryOptions(mounts=False)) as registry:
        await push(image.path, f"{registry.address}/team/app:1", options=OPTIONS)
        options = replace(OPTIONS, max_connections=connections)
        async with asyncio.timeout(PATIENCE):
            await copied(registry, registry, options=options)
        assert is_whole(registry, "mirror/app", image)


async def test_must_mount_is_not_transferred_unless_allowed(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """A must-mount layer fails the copy; with `allow_transfer` it is uploaded, and stays must-mount."""
    index = MemoryMountIndex()
    flagged = image.layers[1].digest
    await index.add_source(flagged, Repository.parse(f"{b.address}/gone"), must_mount=True)
    with pytest.raises(CopyFailedError) as raised:
        await copied(a, b, index=index)
    assert isinstance(raised.value.report.failures[0].error, MountRequiredError)
    assert b.uploads(flagged) == 0
    await copied(a, b, index=index, allow_transfer=True)
    assert is_whole(b, "mirror/app", image)
    assert await index.must_mount(flagged)


async def test_foreign_layers_are_never_fetched(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, tmp_path: Path
) -> None:
    """A foreign layer that the source lacks is left out, its urls are not followed, and the copy succeeds."""
    layout = tmp_path / "foreign"
    mine = write(layout, b"mine")
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    foreign = {
        "mediaType": kind,
        "digest": str(Digest.of(b"theirs")),
        "size": 6,
        "urls": [f"{c.url}/theirs"],
    }
    write_root(layout, named(write_manifest(layout, mine, foreign), "1"))
    await push(layout, f"{a.address}/team/foreign:1", options=OPTIONS)
    report = await copy(f"{a.address}/team/foreign:1", f"{b.address}/foreign", options=OPTIONS)
    assert len(report.copied[0].blobs) == 2
    assert c.requests == []
    assert "1" in b.holdings.find("foreign").tags


async def test_a_cancelled_copy_leaves_no_session_and_no_tag(a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """Ctrl-C during a copy cancels the upload sessions, and creates no tag."""
    uploading = asyncio.Event()

    def watch(event: events.Event) -> None:
        if isinstance(event, events.BlobProgress):
            uploading.set()

    b.play(Fault(method="PUT", path="*/blobs/*", delay=30.0, times=None))
    task = asyncio.create_task(copied(a, b, observer=watch))
    await uploading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b.open_sessions == ()
    assert not b.matching(path="*/manifests/*")


async def test_a_copy_records_both_repositories(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """After a copy the index has each layer at the source and at the destination."""
    index = MemoryMountIndex()
    await copied(a, b, index=index)
    expected = sorted(Repository.parse(f"{r.address}/{n}") for r, n in ((a, "team/app"), (b, "mirror/app")))
    for blob in image.blobs:
        assert list(await index.locations(blob.digest)) == expected


async def test_registries_are_reused(a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """A process that shares its `Registries` between copies connects once."""
    async with Registries(OPTIONS) as registries:
        for name in ("one", "two"):
            await copy(f"{a.address}/team/app:1", f"{b.address}/{name}", registries=registries)
        client = registries.client(Repository.parse(f"{b.address}/one"))
        assert await client.head_manifest(Reference.parse(f"{b.address}/two:1"))
