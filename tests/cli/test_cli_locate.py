"""`crossmount locate`."""

from pathlib import Path

import pytest

from crossmount.oci import Digest
from crossmount.testing import running_registry
from support.commands import Here
from support.holdings import put_image, put_index
from support.images import MadeImage, make_layout

BASE, OWN = b"b" * 3000, b"o" * 500
pytestmark = pytest.mark.usefixtures("valkey_index")


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of two layers."""
    return make_layout(tmp_path / "image", [BASE, OWN])


def test_a_layers_registry_can_be_chosen(here: Here) -> None:
    """`--for` limits the answer to one registry, and says if it lacks the layer."""
    layer = Digest.of(BASE)
    here("add", layer, "a.example/x")
    here("add", layer, "b.example/y")
    done = here("locate", layer, "--for", "b.example", "--for", "c.example")
    assert done.out == "b.example/y\n"
    assert done.err == f"no repository on c.example is known to have {layer}\n"
    assert here("locate", layer, "--for", "b.example", "--json").document == {
        "layer": layer,
        "locations": ["b.example/y"],
        "size": None,
        "bytes": {"b.example": None},
    }


def test_every_layer_of_a_layout_is_located(here: Here, image: MadeImage) -> None:
    """For an image the output has a line for each blob, and one for each registry with its bytes."""
    base, own = (layer.digest for layer in image.layers)
    for name in ("a.example/w", "a.example/x", "a.example/y", "a.example/z", "b.example/x"):
        here("add", base, name)
    here("add", own, "b.example/x")
    done = here("locate", f"oci:{image.path}")
    lines = done.out.splitlines()
    assert done.status == 0
    assert lines[0].endswith("nowhere known")  # the config
    assert lines[1].startswith(base.partition(":")[2][:12])
    assert lines[1].endswith("a.example/w, a.example/x, a.example/y and 2 more")
    assert lines[3].startswith("a.example  ")
    assert lines[3].endswith("1 of 3 blobs")
    assert lines[4].endswith("2 of 3 blobs")
    document = here("locate", f"oci:{image.path}", "--json", "--for", "b.example", "--for", "c.example").document
    size = sum(layer.size for layer in image.layers)
    assert document["registries"] == {
        "b.example": {"bytes": size, "blobs": 2},
        "c.example": {"bytes": 0, "blobs": 0},
    }
    assert document["size"] == sum(blob.size for blob in image.blobs)
    assert document["blobs"][1] == {"digest": base, "size": image.layers[0].size, "locations": ["b.example/x"]}


def test_an_image_that_nobody_has_is_reported(here: Here, image: MadeImage) -> None:
    """An image that no registry has is not a failure."""
    done = here("locate", str(image.path))
    assert done.status == 0
    assert done.out.splitlines()[-1] == "no registry is known to have any of it"


def test_a_reference_is_resolved_on_its_registry(here: Here) -> None:
    """Tags, digests and image indexes are resolved; the default tag is `latest`."""
    with running_registry() as registry:
        one = put_image(registry, "team/app", None, [BASE])
        two = put_image(registry, "team/app", None, [OWN])
        top = put_index(registry, "team/app", "latest", [one, two])
        here("add", Digest.of(BASE), "a.example/x")
        for reference in ("team/app", "team/app:latest", f"team/app@{top}"):
            done = here("locate", f"{registry.address}/{reference}", "--plain-http", "--json")
            assert done.status == 0, done.err
            assert done.document["registries"] == {"a.example": {"bytes": len(BASE), "blobs": 1}}
            assert len(done.document["blobs"]) == 4
        gone = here("locate", f"{registry.address}/team/app:gone", "--plain-http")
        assert gone.status == 1
        assert "404" in gone.complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("r.example/UPPER",), "not a reference"),
        (("sha256:1",), "not a digest"),
        (("822f5884f65b",), "the start of a digest: give all of it, as crossmount locate IMAGE --json prints it"),
        (("sha256:822f5884f65b",), "the start of a digest"),
        (("oci:/nowhere",), "no such file"),
        (("r.example/a", "--for", "no registry"), "not a registry"),
    ],
)
def test_what_names_nothing_is_reported(here: Here, arguments: tuple[str, ...], words: str) -> None:
    """An argument that names nothing is one line."""
    assert words in here("locate", *arguments).complaint
