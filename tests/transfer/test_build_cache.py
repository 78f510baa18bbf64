"""Build caches as BuildKit writes them without `image-manifest=true`: an index whose children are blobs."""

import json
from pathlib import Path

import pytest

from crossmount.cli.commands.copy import render_copy
from crossmount.cli.commands.push import render_push
from crossmount.index import MemoryMountIndex
from crossmount.oci import Manifest
from crossmount.oci.descriptor import BUILD_CACHE, OCI_INDEX
from crossmount.testing import ScriptedRegistry
from crossmount.transfer.push import push
from support.copies import OPTIONS, copied
from support.layouts import Entry, write, write_manifest, write_root
from support.scans import known, scanned

LAYERS = (b"first layer", b"second layer")
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A layout with a build cache of two layers and a config."""
    layout = tmp_path / "cache"
    entries = [
        write(layout, LAYERS[0], GZIP),
        write(layout, LAYERS[1], DOCKER_GZIP),
        write(layout, b'{"layers":[]}', BUILD_CACHE),
    ]
    return write_root(layout, index_of(layout, *entries))


def index_of(layout: Path, *entries: Entry) -> Entry:
    """Put an index of these entries into a layout."""
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return write(layout, json.dumps(document).encode(), OCI_INDEX)


def held(registry: ScriptedRegistry, name: str) -> set[bytes]:
    """Return the contents of the blobs of a repository."""
    blobs = [registry.holdings.blob(name, digest) for digest in registry.holdings.find(name).blobs]
    return {b"".join(blob.read(0, blob.size)) for blob in blobs if blob is not None}


def test_children_of_an_index_are_blobs_by_their_type(tmp_path: Path) -> None:
    """Configs and layers in an index are its blobs, manifests and what is unknown its children."""
    manifest = write_manifest(tmp_path, write(tmp_path, b"layer"))
    unknown = write(tmp_path, b"unknown", "application/vnd.example+json")
    cache, layer = write(tmp_path, b"{}", BUILD_CACHE), write(tmp_path, b"layer", GZIP)
    for entries, is_cache in (
        ((manifest, unknown, layer), False),
        ((manifest, unknown, layer, cache, layer), True),
    ):
        content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        parsed = Manifest.parse(content, where="here")
        assert [child.digest for child in parsed.children] == [manifest["digest"], unknown["digest"]]
        assert [blob.digest for blob in parsed.blobs] == [layer["digest"], cache["digest"]][: 1 + is_cache]
        assert parsed.is_build_cache is is_cache


async def test_a_build_cache_is_pushed_copied_and_scanned(
    a: ScriptedRegistry, b: ScriptedRegistry, cache: Path
) -> None:
    """Its blobs and its index arrive, its layers are known to the index, and each report says what it is."""
    index = MemoryMountIndex()
    pushed = await push(cache, f"{a.address}/team/app:1", options=OPTIONS)
    assert held(a, "team/app") >= {*LAYERS, b'{"layers":[]}'}
    copy_report = await copied(a, b)
    assert held(b, "mirror/app") == {*LAYERS, b'{"layers":[]}'}
    scan_report = await scanned(b, index)
    assert [await known(index, layer) for layer in LAYERS] == [{"mirror/app"}] * 2
    assert pushed.digest == copy_report.copied[0].digest
    assert pushed.to_json()["build_cache"]
    assert "a build cache of BuildKit" in render_push(pushed)[0]
    assert "1 build cache of BuildKit" in render_copy(copy_report)
    assert (scan_report.build_caches, scan_report.skipped, scan_report.layers) == (1, 0, 3)


async def test_layers_of_a_build_cache_are_mounted(a: ScriptedRegistry, cache: Path) -> None:
    """A second push of a cache to the same registry mounts all its blobs."""
    index = MemoryMountIndex()
    await push(cache, f"{a.address}/team/app:1", options=OPTIONS, index=index)
    again = await push(cache, f"{a.address}/other/app:1", options=OPTIONS, index=index)
    assert again.count("mounted") == 3
