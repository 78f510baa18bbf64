"""Image layouts in directories: their images, and how one is selected."""

import re
from pathlib import Path

import pytest

from crossmount.errors import InvalidLayoutError
from crossmount.oci import Descriptor, Digest, FileBlob
from crossmount.oci.layout import load_image, open_layout
from support.images import MadeImage, make_layers, make_layout
from support.layouts import Entry, named, write, write_index, write_manifest, write_root

FOREIGN_TYPE = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@pytest.fixture
def made(tmp_path: Path) -> MadeImage:
    """Make a layout of one image with two layers, tagged `latest`."""
    return make_layout(tmp_path / "layout")


def test_image_is_read_whole(made: MadeImage) -> None:
    """The manifest is the root, and each blob has the position of its bytes."""
    image = load_image(made.path)
    assert image.root.descriptor == made.root
    assert image.manifests == (image.root,)
    assert [blob.descriptor for blob in image.blobs] == list(made.blobs)
    assert all(
        isinstance(blob, FileBlob) and blob.path == made.blob_path(blob.descriptor.digest) for blob in image.blobs
    )


def test_index_comes_with_all_its_children(tmp_path: Path) -> None:
    """A multi-platform image has each manifest before its index, and shared layers once."""
    made = make_layout(tmp_path / "l", platforms=["linux/amd64", "linux/arm64", "windows/amd64"])
    image = load_image(made.path)
    digests = [manifest.descriptor.digest for manifest in image.manifests]
    assert digests == [*(manifest.digest for manifest in made.manifests), made.root.digest]
    assert image.manifests[-1] is image.root
    assert {blob.descriptor.digest for blob in image.blobs} == {blob.digest for blob in made.blobs}
    assert len(image.blobs) == len(made.blobs)


def test_attestation_manifests_are_included(tmp_path: Path) -> None:
    """The attestations that buildx adds to a platform's manifest are a part of the image."""
    layout = tmp_path / "l"
    attestation = write_manifest(layout, write(layout, b"{}", "application/vnd.in-toto+json"))
    attestation["platform"] = {"architecture": "unknown", "os": "unknown"}
    index = write_index(layout, write_manifest(layout, write(layout, b"layer")), attestation)
    image = load_image(write_root(layout, index))
    assert [m.descriptor.digest for m in image.manifests][1:] == [attestation["digest"], index["digest"]]


def test_manifest_that_two_indexes_name_is_pushed_once(tmp_path: Path) -> None:
    """In nested indexes each digest is listed once, before all indexes that name it."""
    layout = tmp_path / "l"
    manifest = write_manifest(layout, write(layout, b"layer"))
    inner = write_index(layout, manifest)
    root = write_index(layout, manifest, inner, inner)
    image = load_image(write_root(layout, root))
    digests = [m.descriptor.digest for m in image.manifests]
    assert digests == [manifest["digest"], inner["digest"], root["digest"]]


def test_sha512_is_followed(tmp_path: Path) -> None:
    """Blobs and manifests may have sha512 digests."""
    layout = tmp_path / "l"
    manifest = write_manifest(layout, write(layout, b"layer", algorithm="sha512"), algorithm="sha512")
    image = load_image(write_root(layout, manifest))
    assert image.root.descriptor.digest == manifest["digest"]
    assert [blob.descriptor.digest.algorithm for blob in image.blobs] == ["sha256", "sha512"]


@pytest.mark.parametrize("mark", [{"mediaType": FOREIGN_TYPE}, {"urls": ["https://example.com/x"]}])
def test_foreign_layer_may_be_missing(tmp_path: Path, mark: Entry) -> None:
    """A foreign layer is left out if it is absent, and included if it exists."""
    layout = tmp_path / "l"
    here, away = write(layout, b"here"), write(layout, b"away")
    path = layout / "blobs" / "sha256" / away["digest"][7:]
    write_root(layout, write_manifest(layout, {**here, **mark}, {**away, **mark}))
    assert [blob.descriptor.digest for blob in load_image(layout).blobs][1:] == [here["digest"], away["digest"]]
    path.unlink()
    assert [blob.descriptor.digest for blob in load_image(layout).blobs][1:] == [here["digest"]]


def test_link_inside_the_layout_is_followed(made: MadeImage) -> None:
    """A blob may be a link to another file of the layout."""
    path = made.blob_path(made.layers[0].digest)
    path.rename(made.path / "elsewhere")
    path.symlink_to(Path("..") / ".." / "elsewhere")
    assert load_image(made.path).blobs


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Make a layout as `docker save` writes it for three images, one of them with two names."""
    layout = tmp_path / "many"
    images = [write_manifest(layout, write(layout, text)) for text in (b"one", b"two", b"three")]
    return write_root(
        layout,
        named(images[0], "3.20", "docker.io/library/alpine:3.20"),
        named(images[1], "latest", "docker.io/library/alpine:latest"),
        named(images[2], "latest", "docker.io/library/busybox:latest"),
        named(images[2], "ghcr.io/o/busybox:v1"),
    )


@pytest.mark.parametrize(
    ("tag", "which"),
    [
        ("3.20", 0),
        ("docker.io/library/alpine:3.20", 0),
        ("alpine:3.20", 0),
        ("docker.io/library/alpine:latest", 1),
        ("busybox:latest", 2),
        ("index.docker.io/busybox:latest", 2),
        ("ghcr.io/o/busybox:v1", 2),
        ("v1", 2),
    ],
)
def test_image_is_chosen_by_tag_or_name(many: Path, tag: str, which: int) -> None:
    """A tag, a full name and its other spellings select the image."""
    layout = open_layout(f"oci:{many}:{tag}")
    assert layout.tag == tag
    expected = layout.images[which].descriptor.digest
    assert layout.select().root.descriptor.digest == expected
    assert open_layout(many).select(tag).root.descriptor.digest == expected
    assert open_layout(many).select(expected).root.descriptor.digest == expected


def test_names_of_one_image_are_gathered(many: Path) -> None:
    """Two entries of one image are one image with both names."""
    names = [image.names for image in open_layout(many).images]
    assert names[2] == ("docker.io/library/busybox:latest", "latest", "ghcr.io/o/busybox:v1")
    assert len(names) == 3


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (None, "several images, choose one by its tag: docker.io/library/alpine:3.20 = 3.20, "),
        ("latest", "'latest' is the name of several images: docker.io/library/alpine:latest = latest, docker.io"),
        ("v9", "'v9' names no image of it; it has: docker.io/library/alpine:3.20"),
        ("not a name", "names no image of it"),
    ],
)
def test_choice_of_no_single_image_is_an_error(many: Path, tag: str | None, message: str) -> None:
    """No image, several images and an unknown name are errors that list the images."""
    with pytest.raises(InvalidLayoutError, match=re.escape(message)):
        open_layout(many).select(tag)


def test_odd_names_match_exactly(tmp_path: Path) -> None:
    """A name that is no reference is matched by its exact text, and an image without names by its digest."""
    layout = tmp_path / "l"
    one, two = (write_manifest(layout, write(layout, text)) for text in (b"1", b"2"))
    write_root(layout, named(one, "An Odd Name!"), two)
    assert open_layout(layout).select("An Odd Name!").root.descriptor.digest == one["digest"]
    with pytest.raises(InvalidLayoutError, match=f"An Odd Name!, {two['digest']}"):
        open_layout(layout).select("odd")


def test_layout_without_images_is_an_error(tmp_path: Path) -> None:
    """A layout with an empty list has no image, by any name."""
    layout = write_root(tmp_path / "l")
    for tag in (None, "latest"):
        with pytest.raises(InvalidLayoutError, match="without an image"):
            open_layout(layout).select(tag)


def test_colons_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag begins at the first colon, as in skopeo, unless only a path with that colon exists."""
    odd = make_layout(tmp_path / "a:b", tag="t").path
    for source in (f"oci:{odd}", f"oci:{odd}:t", odd, str(odd)):
        assert len(load_image(source).manifests) == 1
    plain = make_layout(tmp_path / "a", make_layers(1, seed="plain"), tag="b").path
    assert load_image(f"oci:{odd}").root.descriptor == make_layout(plain, make_layers(1, seed="plain")).root
    monkeypatch.chdir(tmp_path)
    assert open_layout("oci:a:b").tag == "b"
    assert open_layout("oci:a:").tag is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "not a path"),
        ("a\0b", "not a path"),
        ("oci:", "give oci:PATH or oci:PATH:TAG"),
        ("oci::latest", "give oci:PATH"),
        ("oci-archive:", "give oci-archive:PATH"),
        ("nowhere", "nowhere: no such file or directory in /"),
        ("/nowhere", "/nowhere: no such file or directory: give an image layout"),
        ("oci:/nowhere:tag", "/nowhere: no such file or directory: give an image layout"),
        ("docker://alpine", "^docker://alpine: no such file.*skopeo copy docker://alpine oci-archive:image.tar"),
        ("docker://alpine", "crossmount copy copies from registry to registry"),
        ("docker-archive:x.tar", "skopeo copy docker-archive:x.tar oci-archive:image.tar"),
        ("docker-daemon:alpine:3", "bring it into a layout first"),
        ("/dev/null", "neither a directory nor a file"),
        ("oci:/dev/null", "not a directory: write oci-archive:/dev/null"),
        ("oci-archive:/", "a directory: write oci:/"),
    ],
)
def test_source_that_is_no_layout_is_an_error(source: str, message: str) -> None:
    """The error for an invalid source says what to write."""
    with pytest.raises(InvalidLayoutError, match=message) as caught:
        open_layout(source)
    assert "\n" not in str(caught.value)


def test_tag_at_a_bare_path_gets_a_hint(made: MadeImage) -> None:
    """The error for a tag after a bare path has the form that takes a tag."""
    with pytest.raises(InvalidLayoutError, match=f"by its tag write oci:{made.path}:latest"):
        open_layout(f"{made.path}:latest")


def test_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    """A dangling link and links in a circle are errors of one line."""
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("dangling", "circle"):
        with pytest.raises(InvalidLayoutError, match=name):
            open_layout(tmp_path / name)


async def test_blob_of_an_image_can_be_streamed(made: MadeImage) -> None:
    """A blob of an image yields its bytes."""
    for blob in load_image(made.path).blobs:
        data = b"".join([piece async for piece in blob.stream()])
        assert blob.descriptor == Descriptor(blob.descriptor.media_type, Digest.of(data), len(data))
