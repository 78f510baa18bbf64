"""Some platforms of an index alone, into a new index; and several tags of one push."""

import json
from pathlib import Path

import pytest

from crossmount.cli.commands.push import render_push
from crossmount.errors import CopyFailedError, InvalidInputError, InvalidLayoutError, InvalidReferenceError
from crossmount.oci import Manifest
from crossmount.oci.layout import load_image
from crossmount.oci.platforms import Platform, check_config, select
from crossmount.testing import ScriptedRegistry
from crossmount.transfer.copy import copy
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.copies import OPTIONS
from support.images import MadeImage, make_layers, make_layout

AMD, ARM, ARM_V8 = "linux/amd64", "linux/arm64", "linux/arm64/v8"


@pytest.fixture
def several(tmp_path: Path) -> MadeImage:
    """An index of three platforms."""
    return make_layout(tmp_path / "several", make_layers(2), platforms=(AMD, ARM, "windows/amd64"))


def stored(registry: ScriptedRegistry, name: str, tag: str = "1") -> Manifest:
    """Return the manifest or index under a tag."""
    found = registry.holdings.find(name).resolve(tag)
    assert found is not None
    return Manifest.parse(found.content, where=tag)


async def pushed(image: MadeImage, registry: ScriptedRegistry, *platforms: str, **how: object) -> PushReport:
    """Push some platforms of an image to team/some:1."""
    dest = f"{registry.address}/team/some:1"
    return await push(image.path, dest, platforms=platforms, options=OPTIONS, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "accepted"),
    [
        ("linux/amd64", {"linux/amd64"}),
        ("Linux/x86_64", {"linux/amd64"}),
        ("linux/arm64", {"linux/arm64", "linux/arm64/v8", "linux/arm64/v9"}),
        ("linux/arm64/v8", {"linux/arm64", "linux/arm64/v8"}),
        ("linux/arm/v7", {"linux/arm", "linux/arm/v7"}),
        ("linux/arm/v6", {"linux/arm/v6"}),
    ],
)
def test_a_wish_accepts_what_other_clients_accept(wish: str, accepted: set[str]) -> None:
    """A wish without a variant accepts any, and v8 of arm64 and v7 of arm are the variants of an entry without."""
    offered = [
        "linux/amd64", "windows/amd64", "linux/arm64", "linux/arm64/v8", "linux/arm64/v9",
        "linux/arm", "linux/arm/v6", "linux/arm/v7",
    ]  # fmt: skip
    found = {text for text in offered if Platform.parse(wish).accepts(Platform.parse(text))}
    assert found == accepted


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux amd64/x", "a/\n"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    """A platform has an operating system, an architecture and maybe a variant."""
    with pytest.raises(InvalidInputError, match="not a platform"):
        Platform.parse(text)


async def test_one_platform_is_pushed_as_an_index_with_one_child(
    scripted_registry: ScriptedRegistry, several: MadeImage
) -> None:
    """What arrives is a new index with that child alone and its blobs, and the report says so."""
    report = await pushed(several, scripted_registry, ARM_V8)
    root = stored(scripted_registry, "team/some")
    assert [child.digest for child in root.children] == [several.manifests[1].digest]
    assert report.digest == root.descriptor.digest != several.root.digest
    assert json.loads(root.content)["manifests"][0]["platform"] == {"architecture": "arm64", "os": "linux"}
    assert report.platforms == ("linux/arm64",)
    assert report.to_json()["platforms"] == ["linux/arm64"]
    assert "platforms linux/arm64, in a new index with these alone" in render_push(report)
    assert len(report.blobs) == 4
    assert several.configs[0].digest not in scripted_registry.holdings.find("team/some").blobs


async def test_all_platforms_are_the_index_itself(scripted_registry: ScriptedRegistry, several: MadeImage) -> None:
    """If every platform is wished for, the index is pushed unchanged."""
    report = await pushed(several, scripted_registry, AMD, ARM, "windows/amd64")
    assert (report.digest, report.platforms) == (several.root.digest, ())


async def test_a_layout_that_lacks_other_platforms_is_pushed(
    scripted_registry: ScriptedRegistry, several: MadeImage
) -> None:
    """Platforms that are there can be chosen; without a choice the error gives the hint."""
    several.blob_path(several.manifests[2].digest).unlink()
    with pytest.raises(InvalidLayoutError, match=r"manifest is missing.*--platform linux/amd64"):
        await pushed(several, scripted_registry)
    report = await pushed(several, scripted_registry, AMD, ARM)
    assert report.platforms == (AMD, ARM)


async def test_a_platform_that_is_not_there_is_told(
    scripted_registry: ScriptedRegistry, several: MadeImage, tmp_path: Path
) -> None:
    """The error names what there is, also of an image without an index; nothing is sent."""
    with pytest.raises(
        InvalidInputError, match="no platform linux/s390x, it has linux/amd64, linux/arm64, windows"
    ):
        await pushed(several, scripted_registry, AMD, "linux/s390x")
    single = make_layout(tmp_path / "single", make_layers(1))
    with pytest.raises(InvalidInputError, match="no platform linux/arm64: this image is of linux/amd64 alone"):
        await pushed(single, scripted_registry, ARM)
    with pytest.raises(InvalidInputError, match="says no platform"):
        check_config(b"{}", [Platform.parse(AMD)], where="here")
    with pytest.raises(InvalidInputError, match="it has none at all"):
        select(Manifest.parse(b'{"manifests": []}', where="x"), [Platform.parse(AMD)], where="here")
    with pytest.raises(InvalidInputError, match="give them to load_image"):
        await push(load_image(single.path), f"{scripted_registry.address}/a", platforms=[AMD], options=OPTIONS)
    assert scripted_registry.requests == []
    assert (await pushed(single, scripted_registry, AMD)).digest == single.root.digest


async def test_platforms_are_copied_into_a_new_index(
    a: ScriptedRegistry, b: ScriptedRegistry, several: MadeImage
) -> None:
    """A copy by tag and by digest takes the chosen platforms alone, and asks for nothing else."""
    await pushed(several, a)
    asked = len(a.requests)
    for source in ("team/some:1", f"team/some@{several.root.digest}"):
        report = await copy(
            f"{a.address}/{source}", f"{b.address}/mirror/some", platforms=[ARM], options=OPTIONS, referrers=True
        )
        one = report.copied[0]
        assert one.platforms == (ARM,)
        found = b.holdings.find("mirror/some").resolve(one.digest)
        assert found is not None
        assert found.children == (several.manifests[1].digest,)
    assert not [r for r in a.requests[asked:] if several.manifests[0].digest in r.path and r.method == "GET"]


async def test_a_copy_of_a_platform_that_is_not_there_is_told(
    a: ScriptedRegistry, b: ScriptedRegistry, several: MadeImage, image: MadeImage
) -> None:
    """The error names the platforms that the source has; so does that of an image without an index."""
    await pushed(several, a)
    for source, words in (
        ("team/some:1", "it has linux/amd64, linux/arm64"),
        ("team/app:1", "is of linux/amd64 alone"),
    ):
        with pytest.raises(CopyFailedError, match=f"no platform linux/s390x.*{words}"):
            await copy(
                f"{a.address}/{source}", f"{b.address}/mirror/x", platforms=["linux/s390x"], options=OPTIONS
            )
    assert (
        image.root.digest
        == (await copy(f"{a.address}/team/app:1", f"{b.address}/mirror/x", platforms=[AMD], options=OPTIONS))
        .copied[0]
        .digest
    )


async def test_a_child_that_the_source_lacks_gets_a_hint(
    a: ScriptedRegistry, b: ScriptedRegistry, several: MadeImage
) -> None:
    """If a registry lacks a manifest that an index names, the error gives the hint; --platform helps."""
    await pushed(several, a)
    a.holdings.find("team/some").remove_manifest(several.manifests[2].digest)
    source, dest = f"{a.address}/team/some:1", f"{b.address}/mirror/some"
    with pytest.raises(CopyFailedError, match=f"names {several.manifests[2].digest}: .*--platform"):
        await copy(source, dest, options=OPTIONS)
    report = await copy(source, dest, options=OPTIONS, platforms=[AMD, ARM])
    assert report.copied[0].platforms == (AMD, ARM)


async def test_several_tags_are_written_last(scripted_registry: ScriptedRegistry, several: MadeImage) -> None:
    """Each further tag is one request after everything else, and the report names them."""
    report = await pushed(several, scripted_registry, tags=["latest", "1", "1.2", "latest"])
    assert scripted_registry.holdings.find("team/some").tags == dict.fromkeys(
        ("1", "latest", "1.2"), report.digest
    )
    paths = [record.path for record in scripted_registry.requests]
    assert paths[-3:] == [f"/v2/team/some/manifests/{tag}" for tag in ("1", "latest", "1.2")]
    assert report.to_json()["tags"] == ["latest", "1.2"]
    assert "tags latest, 1.2" in render_push(report)


async def test_a_tag_that_is_none_is_refused_first(
    scripted_registry: ScriptedRegistry, several: MadeImage
) -> None:
    """A further tag that breaks the grammar is an error before the first request."""
    with pytest.raises(InvalidReferenceError, match="not a tag"):
        await pushed(several, scripted_registry, tags=["a b"])
    assert scripted_registry.requests == []
