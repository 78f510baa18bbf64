"""Layouts and archives that skopeo wrote, also from a real registry."""

from pathlib import Path

import pytest

from crossmount.errors import InvalidLayoutError
from crossmount.oci import Digest
from crossmount.oci.layout import load_image, open_layout
from support.images import MadeImage, make_layers, make_layout
from support.programs import run
from support.registries import DockerRegistry


@pytest.fixture
def made(tmp_path: Path) -> MadeImage:
    """Make a layout with an image for two platforms."""
    return make_layout(tmp_path / "layout", make_layers(3), tag="v1", platforms=["linux/amd64", "linux/arm64"])


@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_image_that_skopeo_copied(made: MadeImage, tmp_path: Path, form: str) -> None:
    """An image that skopeo copied into a directory or an archive is found by its tag, complete."""
    source = f"{form}:{tmp_path / 'copy'}:registry.example:5000/team/app:v2"
    run("skopeo", "copy", "--all", f"oci:{made.path}:v1", source)
    image = load_image(source)
    assert image.root.descriptor.digest == made.root.digest
    assert len(image.manifests) == 3
    assert {blob.descriptor for blob in image.blobs} == set(made.blobs)
    assert open_layout(tmp_path / "copy").select("v2").root == image.root


async def test_image_from_a_registry(made: MadeImage, tmp_path: Path, docker_registry: DockerRegistry) -> None:
    """An image that was pushed to and pulled from a real registry is the same image."""
    remote = f"docker://{docker_registry.address}/team/app:v1"
    run("skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{made.path}:v1", remote)
    run("skopeo", "copy", "--all", "--src-tls-verify=false", remote, f"oci-archive:{tmp_path / 'back.tar'}:v1")
    image = load_image(tmp_path / "back.tar")
    assert image.root.descriptor.digest == made.root.digest
    for blob in image.blobs:
        assert Digest.of(b"".join([piece async for piece in blob.stream()])) == blob.descriptor.digest


def test_several_tags_of_one_layout(made: MadeImage, tmp_path: Path) -> None:
    """Two images that skopeo copied into one layout are selected by tag."""
    other = make_layout(tmp_path / "other", make_layers(1, seed="other"), tag="x")
    run("skopeo", "copy", "--all", f"oci:{made.path}:v1", f"oci:{tmp_path / 'both'}:a")
    run("skopeo", "copy", f"oci:{other.path}:x", f"oci:{tmp_path / 'both'}:b")
    assert load_image(f"oci:{tmp_path / 'both'}:a").root.descriptor.digest == made.root.digest
    assert load_image(f"oci:{tmp_path / 'both'}:b").root.descriptor.digest == other.root.digest
    with pytest.raises(InvalidLayoutError, match="choose one by its tag: a, b"):
        load_image(tmp_path / "both")


def test_other_forms_of_skopeo_get_a_hint(made: MadeImage, tmp_path: Path) -> None:
    """The command in the error for a real docker-archive, or a real dir, converts it."""
    source = f"oci:{made.path}:v1"
    for form, hint in (("docker-archive", "legacy docker-archive"), ("dir", "own format")):
        path = tmp_path / form
        one = ("--override-os=linux", "--override-arch=arm64")
        run("skopeo", *one, "copy", source, f"{form}:{path}" + (":a:v1" if form == "docker-archive" else ""))
        with pytest.raises(InvalidLayoutError, match=hint) as caught:
            open_layout(path)
        assert f"skopeo copy {form}:{path} oci" in str(caught.value)
        run("skopeo", "copy", f"{form}:{path}", f"oci-archive:{tmp_path / 'converted.tar'}")
        assert len(load_image(tmp_path / "converted.tar").blobs) == 5
        (tmp_path / "converted.tar").unlink()
