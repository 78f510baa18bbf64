"""A copy fetches from the nearest registry that has the bytes, and from the next one after a failure."""

from typing import Any

import pytest

from crossmount import events
from crossmount.errors import CopyFailedError
from crossmount.index import MemoryMountIndex, Sighting
from crossmount.oci import Digest, Repository
from crossmount.testing import Alter, CutSending, Fault, RegistryOptions, Reply, ScriptedRegistry
from crossmount.transfer.push import push
from crossmount.transfer.registries import Registries
from support.copies import OPTIONS, copied, gets, is_whole
from support.images import MadeImage


async def test_wrong_bytes_fail_the_copy(a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage) -> None:
    """A source that sends wrong bytes fails the image; the error names registry, repository and layer."""
    layer = image.layers[2].digest
    a.play(Fault(method="GET", path=f"*/blobs/{layer}", action=Alter(corrupt=True), times=None))
    with pytest.raises(CopyFailedError) as raised:
        await copied(a, b)
    said = str(raised.value)
    assert f"{a.address}/team/app sent bytes that do not have the digest {layer}" in said
    assert b.holdings.find("mirror/app").tags == {}
    assert b.holdings.blob("mirror/app", layer) is None
    assert b.uploads(layer) == 0
    assert b.open_sessions == ()


async def both_hold_it(
    a: ScriptedRegistry, b: ScriptedRegistry, index: MemoryMountIndex, image: MadeImage
) -> None:
    """Push the image to B too, and record it in the index."""
    await push(image.path, f"{b.address}/mirror/app:1", options=OPTIONS, index=index)
    await index.record(
        [Sighting(blob.digest, Repository.parse(f"{a.address}/team/app"), blob.size) for blob in image.blobs]
    )
    b.requests.clear()


@pytest.mark.parametrize(
    "trouble",
    [
        Alter(corrupt=True),
        CutSending(70_000),
        Reply(status=404, code="BLOB_UNKNOWN"),
        Reply(status=403),
        Reply(status=500),
    ],
    ids=["wrong", "cut", "gone", "denied", "broken"],
)
async def test_another_registry_replaces_a_failing_source(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage, trouble: Any
) -> None:
    """After any failure of a layer's source the layer is fetched from the next one, and is correct."""
    index = MemoryMountIndex()
    await both_hold_it(a, b, index, image)
    a.play(Fault(method="GET", path="*/blobs/*", action=trouble, times=None))
    async with Registries(OPTIONS) as registries:
        registries.name(b.address)
        report = await copied(a, c, index=index, registries=registries, prefer=[a.address])
    assert is_whole(c, "mirror/app", image)
    assert report.bytes("uploaded") == c.upload_bytes == sum(blob.size for blob in image.blobs)
    assert c.open_sessions == ()


def dies_in_the_middle(registry: ScriptedRegistry, layer: Digest) -> None:
    """Make a registry cut a layer once, and then refuse it."""
    registry.play(
        Fault(method="GET", path=f"*/blobs/{layer}", action=CutSending(70_000)),
        Fault(method="GET", path=f"*/blobs/{layer}", action=Reply(status=503), times=None),
    )


async def test_a_source_that_dies_in_the_middle_is_resumed_elsewhere(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage
) -> None:
    """After a cut the upload continues with the remaining bytes from the other registry."""
    index = MemoryMountIndex()
    await both_hold_it(a, b, index, image)
    layer = image.layers[0].digest
    dies_in_the_middle(a, layer)
    await copied(a, c, index=index, prefer=[a.address, b.address])
    assert is_whole(c, "mirror/app", image)
    (rest,) = b.matching(method="GET", path=f"*/blobs/{layer}")
    assert rest.headers["range"] == f"bytes={image.layers[0].size - rest.sent}-"
    assert 0 < rest.sent < image.layers[0].size
    assert len(c.matching(method="PUT", path="*/blobs/*")) == len(image.blobs)


async def test_the_origin_of_wrong_bytes_is_found(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage
) -> None:
    """If bytes of two origins together are wrong, each is read alone, and the correct one is used."""
    index = MemoryMountIndex()
    await both_hold_it(a, b, index, image)
    layer = image.layers[0].digest
    dies_in_the_middle(a, layer)
    b.play(Fault(method="GET", path=f"*/blobs/{layer}", action=Alter(corrupt=True)))
    await copied(a, c, index=index, prefer=[a.address, b.address])
    assert is_whole(c, "mirror/app", image)
    assert c.open_sessions == ()


async def test_the_nearest_is_fetched_from(b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage) -> None:
    """A registry that only the index names is used if it answers sooner than the source."""
    index = MemoryMountIndex()
    async with ScriptedRegistry(RegistryOptions(latency=0.5)) as far:
        await push(image.path, f"{far.address}/team/app:1", options=OPTIONS)
        await both_hold_it(far, b, index, image)
        far.requests.clear()
        async with Registries(OPTIONS, special={b.address: OPTIONS}) as registries:
            report = await copied(far, c, index=index, registries=registries)
        assert gets(far) == 0
    assert {blob.fetched_from for blob in report.copied[0].blobs} == {f"{b.address}/mirror/app"}
    assert is_whole(c, "mirror/app", image)


async def test_a_preferred_registry_is_used_however_far_away(
    a: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage
) -> None:
    """A preferred registry is used even if another one is nearer."""
    index = MemoryMountIndex()
    async with ScriptedRegistry(RegistryOptions(latency=0.05)) as far:
        await both_hold_it(a, far, index, image)
        report = await copied(a, c, index=index, prefer=[far.address])
    assert {blob.fetched_from for blob in report.copied[0].blobs} == {f"{far.address}/mirror/app"}


async def test_a_registry_of_the_index_is_never_asked_over_plain_http(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage
) -> None:
    """A registry of the index is never asked over plain http; that it does not answer is reported once."""
    index = MemoryMountIndex()
    await both_hold_it(a, b, index, image)
    said: list[events.Event] = []
    await copied(a, c, index=index, observer=said.append)
    assert b.requests == []
    assert is_whole(c, "mirror/app", image)
    (dropped,) = [event for event in said if isinstance(event, events.SourceDropped)]
    assert (dropped.source, dropped.reason) == (Repository.parse(f"{b.address}/mirror/app"), "unreachable")
    assert dropped.cause == "asked over https, as only the index names it"


async def test_a_wrong_hint_is_removed_from_the_index(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage
) -> None:
    """A repository that lacks the layer costs a round trip, and is removed from the index."""
    index = MemoryMountIndex()
    empty = Repository.parse(f"{b.address}/empty")
    b.put_blob("empty", b"something else")
    await index.record([Sighting(blob.digest, empty, blob.size) for blob in image.blobs])
    await copied(a, c, index=index, prefer=[b.address])
    assert is_whole(c, "mirror/app", image)
    assert empty not in await index.locations(image.layers[0].digest)


async def test_a_layer_that_is_not_mounted_is_fetched_from_the_same_registry(
    a: ScriptedRegistry, image: MadeImage
) -> None:
    """A layer that the destination's registry does not mount can still be fetched from it."""
    index = MemoryMountIndex()
    async with ScriptedRegistry(RegistryOptions(mounts=False)) as registry:
        await push(image.path, f"{registry.address}/base/app:1", options=OPTIONS, index=index)
        a.requests.clear()
        report = await copied(a, registry, index=index, prefer=[registry.address])
        assert is_whole(registry, "mirror/app", image)
    assert gets(a) == 0
    assert {blob.fetched_from for blob in report.copied[0].blobs} == {f"{registry.address}/base/app"}
