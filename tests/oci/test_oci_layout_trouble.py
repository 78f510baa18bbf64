"""Image layouts that are broken or hostile, and other formats: all are refused."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from crossmount.errors import InvalidLayoutError, InvalidManifestError
from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_INDEX
from crossmount.oci.layout import load_image, open_layout
from crossmount.oci.layout_files import Extent, read_extent
from crossmount.oci.manifest import INDEX_DEPTH_MAX, MANIFEST_BYTES_MAX
from support.images import MadeImage, make_layers, make_layout
from support.layouts import write, write_index, write_manifest, write_root


@pytest.fixture
def made(tmp_path: Path) -> MadeImage:
    """Make a layout of one image with two layers, tagged `latest`."""
    return make_layout(tmp_path / "layout")


def rewritten(name: str, content: bytes) -> Callable[[Path], None]:
    """Return a function that replaces a file of a layout."""

    def change(layout: Path) -> None:
        (layout / name).write_bytes(content)

    return change


def removed(name: str) -> Callable[[Path], None]:
    """Return a function that removes a file of a layout."""
    return lambda layout: (layout / name).unlink()


def made_a_folder(layout: Path) -> None:
    """Replace index.json by a folder."""
    (layout / "index.json").unlink()
    (layout / "index.json").mkdir()


A_MANIFEST = json.dumps({"config": {"mediaType": "x", "digest": Digest.of(b""), "size": 0}, "layers": []}).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (removed("oci-layout"), "not an image layout: it has no file oci-layout"),
        (rewritten("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), "of version '2.0.0', only 1.0.0"),
        (rewritten("oci-layout", b"{}"), "names no imageLayoutVersion"),
        (rewritten("oci-layout", b"[]"), "names no imageLayoutVersion"),
        (rewritten("oci-layout", b"no"), "names no imageLayoutVersion"),
        (rewritten("oci-layout", b" " * 70_000), "oci-layout has 70000 bytes, more than 65536"),
        (removed("index.json"), "without its index.json"),
        (rewritten("index.json", b"<html>"), "index.json: not JSON"),
        (rewritten("index.json", b"\n" * (MANIFEST_BYTES_MAX + 1)), "index.json has 4194305 bytes, more than"),
        (rewritten("index.json", b'{"manifests": [{"mediaType": "x"}]}'), r"manifests\[0\]: a descriptor's size"),
        (rewritten("index.json", A_MANIFEST), "index.json is not an image index"),
        (made_a_folder, "index.json: not a file"),
    ],
)
def test_broken_layout_is_an_error(made: MadeImage, change: Callable[[Path], None], message: str) -> None:
    """Each required file of a layout is checked, and named in the error."""
    change(made.path)
    with pytest.raises(InvalidLayoutError, match=message):
        open_layout(made.path)


def test_other_formats_get_a_hint(tmp_path: Path) -> None:
    """Skopeo's dir, an unpacked docker-archive and a layout one level down each get a hint."""
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(InvalidLayoutError, match="skopeo copy docker-archive:"):
        open_layout(tmp_path)
    (tmp_path / "version").write_text("Directory Transport Version: 1.1")
    with pytest.raises(InvalidLayoutError, match=f"skopeo copy dir:{tmp_path} oci:image"):
        open_layout(tmp_path)
    above = make_layout(tmp_path / "above" / "inner").path.parent
    with pytest.raises(InvalidLayoutError, match="there is one in 'inner'"):
        open_layout(above)


def test_missing_blob_is_named(made: MadeImage) -> None:
    """The error for an absent layer names it and its manifest."""
    made.blob_path(made.layers[1].digest).unlink()
    message = f"{made.path}: blob {made.layers[1].digest} is missing, manifest {made.root.digest} names it"
    with pytest.raises(InvalidLayoutError, match=message):
        load_image(made.path)


@pytest.mark.parametrize(("change", "what"), [(-1, "truncated"), (1, "too long")])
def test_blob_of_the_wrong_size_is_named(made: MadeImage, change: int, what: str) -> None:
    """The error for a layer that is shorter or longer than its descriptor says has both sizes."""
    layer = made.layers[0]
    os.truncate(made.blob_path(layer.digest), layer.size + change)
    message = (
        f"blob {layer.digest} is {what}: it has {layer.size + change} bytes, manifest {made.root.digest} says"
    )
    with pytest.raises(InvalidLayoutError, match=message):
        load_image(made.path)


def test_blob_that_is_no_file_is_an_error(made: MadeImage) -> None:
    """A directory or a pipe instead of a blob is an error at once."""
    path = made.blob_path(made.layers[0].digest)
    path.unlink()
    path.mkdir()
    with pytest.raises(InvalidLayoutError, match=f"{path}: not a file"):
        load_image(made.path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(InvalidLayoutError, match=f"{path}: not a file"):
        load_image(made.path)


def test_unreadable_blob_is_an_error(made: MadeImage) -> None:
    """The error for a blob that cannot be opened has the system's words and its path."""
    path = made.blob_path(made.layers[0].digest)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(InvalidLayoutError, match=str(path)):
        load_image(made.path)


AS_NOBODY = """
import os, sys
from crossmount.errors import InvalidLayoutError
from crossmount.oci.layout import load_image
if os.geteuid() == 0:  # root may read everything
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    load_image(sys.argv[1])
except InvalidLayoutError as error:
    print(error)
"""


def test_forbidden_blob_is_an_error() -> None:
    """A blob without read permission is an error before anything is sent."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made = make_layout(Path(folder, "image"), make_layers(1))
        made.blob_path(made.layers[0].digest).chmod(0)
        line = [sys.executable, "-c", AS_NOBODY, str(made.path)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stdout, done.stderr


def test_link_out_of_the_layout_is_refused(made: MadeImage, tmp_path: Path) -> None:
    """A link in a layout cannot lead to a file outside of it."""
    path = made.blob_path(made.layers[0].digest)
    path.rename(tmp_path / "secret")
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidLayoutError, match="leads out of the layout"):
        load_image(made.path)


def test_manifest_with_other_bytes_is_refused(made: MadeImage) -> None:
    """A manifest's bytes must have its digest."""
    path = made.blob_path(made.root.digest)
    path.write_bytes(
        path.read_bytes().replace(b"linux", b"plan9").replace(b'"schemaVersion":2', b'"schemaVersion":3')
    )
    with pytest.raises(InvalidManifestError, match=f"do not have the digest {made.root.digest}"):
        load_image(made.path)


def test_missing_platform_gets_a_hint(tmp_path: Path) -> None:
    """An index with an absent manifest is refused, and the error says what to do."""
    made = make_layout(tmp_path / "l", platforms=["linux/amd64", "linux/arm64"])
    made.blob_path(made.manifests[1].digest).unlink()
    message = (
        f"{made.manifests[1].digest}: this manifest is missing, index {made.root.digest} names it: .*--platform"
    )
    with pytest.raises(InvalidLayoutError, match=message):
        load_image(made.path)


def test_one_digest_has_one_size(tmp_path: Path) -> None:
    """A digest with two sizes is refused, in two manifests and in two indexes."""
    layout = tmp_path / "l"
    layer = write(layout, b"layer")
    good, bad = write_manifest(layout, layer), write_manifest(layout, {**layer, "size": 6})
    with pytest.raises(
        InvalidLayoutError, match=f"{layer['digest']} has 6 bytes by manifest {bad['digest']}, and 5"
    ):
        load_image(write_root(layout, write_index(layout, good, bad)))
    with pytest.raises(InvalidLayoutError, match=f"{good['digest']} has 1 bytes by index"):
        load_image(write_root(layout, write_index(layout, good, {**good, "size": 1})))


def test_index_that_names_itself_is_refused(tmp_path: Path) -> None:
    """An index that names itself does not have its digest, and so cannot loop."""
    layout = tmp_path / "l"
    own = {"mediaType": OCI_INDEX, "digest": str(Digest.of(b"itself")), "size": 0}
    content = b""
    while own["size"] != len(content):
        own["size"] = len(content)
        content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [own]}).encode()
    write(layout, b"itself")
    (layout / "blobs" / "sha256" / Digest.of(b"itself").encoded).write_bytes(content)
    with pytest.raises(InvalidManifestError, match="do not have the digest"):
        load_image(write_root(layout, own))


def test_indexes_nest_to_a_bound(tmp_path: Path) -> None:
    """Indexes may nest to the limit, by every path, and no deeper."""
    layout = tmp_path / "l"
    chain = [write_manifest(layout, write(layout, b"layer"))]
    for _ in range(INDEX_DEPTH_MAX + 1):
        chain.append(write_index(layout, chain[-1]))
    assert len(load_image(write_root(layout, chain[-2])).manifests) == INDEX_DEPTH_MAX + 1
    with pytest.raises(InvalidLayoutError, match="is an index in more than 4 others"):
        load_image(write_root(layout, chain[-1]))
    with pytest.raises(InvalidLayoutError, match="is an index in more than 4 others"):
        load_image(write_root(layout, write_index(layout, chain[-3], write_index(layout, chain[-3]))))


def test_manifest_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A manifest of more than 4 MiB is refused by its descriptor, before it is read."""
    layout = tmp_path / "l"
    manifest = write_manifest(layout, write(layout, b"layer"))
    with pytest.raises(InvalidLayoutError, match="a manifest may have 4 MiB"):
        load_image(write_root(layout, {**manifest, "size": MANIFEST_BYTES_MAX + 1}))


def test_schema_1_gets_a_hint(tmp_path: Path) -> None:
    """The error for an image of Docker's schema 1 says what to do."""
    layout = tmp_path / "l"
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    with pytest.raises(InvalidManifestError, match="schema 1: convert it"):
        load_image(write_root(layout, write(layout, b'{"schemaVersion": 1, "fsLayers": []}', kind)))


def test_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    """A manifest that is cut while it is read is an error."""
    (tmp_path / "m").write_bytes(b"12")
    with pytest.raises(InvalidLayoutError, match="m ends 1 bytes early"):
        read_extent(Extent(tmp_path / "m", 0, 3), what="m")
