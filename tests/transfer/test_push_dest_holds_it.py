from pathlib import Path

from crossmount.fleet.waiting import SMALL
from crossmount.index import MemoryMountIndex
from crossmount.oci import Repository
from crossmount.registry import ClientOptions
from crossmount.testing import ScriptedRegistry
from crossmount.transfer.push import push
from support.images import make_layers, make_layout

OPTIONS = ClientOptions(plain_http=True)


async def test_wrong_sources_do_not_cause_an_upload_of_an_existing_blob(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A blob that the destination has is not uploaded again when all sources in the index are wrong."""
    image = make_layout(tmp_path / "image", make_layers(4, size=5000))
    dest = f"{scripted_registry.address}/team/a"
    await push(image.path, f"{dest}:1", options=OPTIONS)
    index = MemoryMountIndex()
    reference = f"{scripted_registry.address}/team/gone"

    for blob in image.blobs:
        await index.add_source(blob.digest, Repository.parse(reference))
    report = await push(image.path, f"{dest}:2", index=index, options=OPTIONS)
    assert report.bytes("uploaded") == 0
    assert report.count("existing") == len(image.blobs)
    assert scripted_registry.open_sessions == ()


async def test_an_existing_must_mount_layer_fails_no_push(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A must-mount layer with only wrong sources is accepted if the destination has it already."""
    image = make_layout(tmp_path / "image", make_layers(1, size=5000))
    dest = f"{scripted_registry.address}/team/a"
    await push(image.path, f"{dest}:1", options=OPTIONS)
    index = MemoryMountIndex()

    gone = Repository.parse(f"{scripted_registry.address}/team/gone")
    await index.add_source(image.layers[0].digest, gone, must_mount=True)
    report = await push(image.path, f"{dest}:2", index=index, options=OPTIONS)
    assert report.bytes("uploaded") == 0


async def test_a_layer_that_dest_lacks_after_all_is_mounted_from_its_other_sources(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """If the index wrongly lists dest as a holder of a layer, the layer is mounted from another repository."""
    image = make_layout(tmp_path / "image", make_layers(1, size=SMALL + 1))
    source = f"{scripted_registry.address}/team/source"
    await push(image.path, f"{source}:1", options=OPTIONS)
    dest = f"{scripted_registry.address}/team/dest"
    index = MemoryMountIndex()

    for blob in image.blobs:
        for holder in (source, dest):
            await index.add_source(blob.digest, Repository.parse(holder))
    report = await push(image.path, f"{dest}:1", index=index, options=OPTIONS)
    assert report.count("mounted") == len(image.blobs)
    assert report.bytes("uploaded") == 0
