"""A scan records in the index which layers a registry has."""

from pathlib import Path

import pytest

from crossmount.asyncio import (
    AccessDeniedError,
    InvalidInputError,
    MemoryMountIndex,
    RegistryRefusedError,
    Repository,
    open_index,
    push,
    scan,
)
from crossmount.discovery.scan_state import BATCH
from crossmount.index import RedisMountIndex
from crossmount.oci import Digest
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from crossmount.testing.options import Grant
from support.holdings import put_document, put_image, put_index
from support.images import make_layers, make_layout
from support.index_kit import CountingLink
from support.registries import DockerRegistry, run
from support.registry_kit import PLAIN
from support.scans import BASE, OWN, asked, known, scanned
from support.servers import Server


async def test_every_layer_is_recorded_with_its_size(scripted_registry: ScriptedRegistry) -> None:
    """A scan records layers and configs of all tags of the catalogue, and of the children of indexes."""
    put_image(scripted_registry, "team/app", "1", [BASE, OWN])
    arm = put_image(scripted_registry, "team/multi", None, [BASE])
    amd = put_image(scripted_registry, "team/multi", None, [b"amd layer"])
    put_index(scripted_registry, "team/multi", "latest", [arm, amd])
    index = MemoryMountIndex()
    report = await scanned(scripted_registry, index)
    assert await known(index, BASE) == {"team/app", "team/multi"}
    assert await known(index, OWN) == {"team/app"}
    assert await known(index, b"amd layer") == {"team/multi"}
    seen = await index.look_up([Digest.of(OWN)], Repository(scripted_registry.address, "x"))
    assert seen.of(Digest.of(OWN)).size == len(OWN)
    assert (report.repositories, report.tags, report.fetched, report.layers) == (2, 2, 4, 7)
    assert (report.failed, report.skipped, report.resumed) == (0, 0, False)


async def test_pages_are_followed_to_their_end() -> None:
    """All pages of the catalogue and of tags are followed."""
    async with ScriptedRegistry(RegistryOptions(page_size=3)) as registry:
        for number in range(10):
            put_image(registry, f"r/{number}", "t", [b"layer %d" % number])
        for number in range(10):
            put_image(registry, "r/0", f"t{number}", [b"tagged %d" % number])
        index = MemoryMountIndex()
        report = await scanned(registry, index)
        assert (report.repositories, report.tags) == (10, 20)
        assert await known(index, b"tagged 9") == {"r/0"}


async def test_given_names_are_scanned_without_the_catalogue(scripted_registry: ScriptedRegistry) -> None:
    """Named repositories are scanned without the catalogue, if they match the patterns."""
    for name in ("team/app", "team/web", "other/app"):
        put_image(scripted_registry, name, "1", [BASE])

    for given, patterns, expected in (
        (["team/app"], (), {"team/app"}),
        (["team/app", "other/app"], ("team/*",), {"team/app"}),
        (["team/web", "other/app"], ("*app",), {"other/app"}),
    ):
        index = MemoryMountIndex()
        await scanned(scripted_registry, index, repositories=given, patterns=patterns)
        assert await known(index, BASE) == expected
    assert asked(scripted_registry, "GET", "/v2/_catalog") == 0


async def test_patterns_choose_from_the_catalogue(scripted_registry: ScriptedRegistry) -> None:
    """Only repositories that match a pattern are requested."""
    for name in ("team/app", "team/deep/web", "other/app"):
        put_image(scripted_registry, name, "1", [BASE])
    index = MemoryMountIndex()
    await scanned(scripted_registry, index, patterns=["team/*"])
    assert await known(index, BASE) == {"team/app", "team/deep/web"}
    assert asked(scripted_registry, "GET", "/v2/other/*") == 0


@pytest.mark.parametrize(("status", "kind"), [(404, RegistryRefusedError), (405, RegistryRefusedError)])
async def test_a_registry_without_a_catalogue_says_what_to_give(
    scripted_registry: ScriptedRegistry, status: int, kind: type[Exception]
) -> None:
    """A registry without a catalogue, such as Docker Hub, gives one error that says what to do."""
    scripted_registry.play(Fault(path="/v2/_catalog", action=Reply(status=status), times=None))
    with pytest.raises(kind, match=r"does not list its repositories .* name those to scan, as in"):
        await scanned(scripted_registry, MemoryMountIndex())


async def test_a_catalogue_that_may_not_be_read() -> None:
    """A token that is refused for the catalogue raises an AccessDeniedError."""
    auth = TokenAuth(anonymous=(Grant("team/*", frozenset({"pull"})),))
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        put_image(registry, "team/app", "1", [BASE])
        with pytest.raises(AccessDeniedError, match="does not list its repositories"):
            await scanned(registry, MemoryMountIndex())
        index = MemoryMountIndex()
        await scanned(registry, index, repositories=["team/app"])
        assert await known(index, BASE) == {"team/app"}


async def test_other_content_is_skipped_and_reported(scripted_registry: ScriptedRegistry) -> None:
    """Artifacts are recorded like images; other types, missing children and schema 1 are skipped."""
    put_image(scripted_registry, "a", "good", [BASE])
    put_index(scripted_registry, "a", "sparse", [Digest.of(b"never pushed")])
    odd = {"schemaVersion": 2, "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}
    put_document(scripted_registry, "a", "odd", odd, "application/vnd.oci.artifact.manifest.v1+json")
    index = MemoryMountIndex()
    report = await scanned(scripted_registry, index)
    assert await known(index, BASE) == {"a"}
    assert (report.skipped, report.failed, report.repositories) == (2, 0, 1)
    assert len(report.remarks) == 2


async def test_foreign_layers_are_not_recorded(scripted_registry: ScriptedRegistry) -> None:
    """Foreign layers are not recorded, since the registry need not have them."""
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": "x", "digest": Digest.of(b"{}"), "size": 2},
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "digest": Digest.of(OWN),
                "size": 3,
                "urls": ["https://elsewhere.example/layer"],
            }
        ],
    }
    put_document(scripted_registry, "a", "1", document, "application/vnd.oci.image.manifest.v1+json")
    index = MemoryMountIndex()
    await scanned(scripted_registry, index)
    assert await known(index, OWN) == set()
    assert await known(index, b"{}") == {"a"}


async def test_concurrent_requests_are_limited() -> None:
    """`requests` limits the concurrent requests, those for lists included."""
    async with ScriptedRegistry(RegistryOptions(latency=0.01)) as registry:
        for number in range(12):
            put_image(registry, "many", f"t{number}", [b"%d" % number])
            put_image(registry, f"r/{number}", "1", [BASE])
        await scanned(registry, MemoryMountIndex(), requests=3)
        assert len({record.connection for record in registry.requests}) <= 3


async def test_layers_go_to_the_index_in_few_round_trips(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """Many repositories' layers are recorded in one round trip."""
    for number in range(60):
        put_image(scripted_registry, f"r/{number}", "1", [b"layer %d" % n for n in range(9)])
    async with open_index(valkey.unix_url) as opened:
        assert isinstance(opened, RedisMountIndex)
        link = CountingLink(opened.link)
        report = await scanned(scripted_registry, RedisMountIndex(link), clock=lambda: 0.0)
        assert report.layers == 600
        assert len(link.runs) <= 3 * (600 / BATCH + 3)


async def test_an_invalid_name_is_refused(scripted_registry: ScriptedRegistry) -> None:
    """A repository name that breaks the grammar raises an InvalidInputError."""
    with pytest.raises(InvalidInputError, match="not a repository name"):
        await scanned(scripted_registry, MemoryMountIndex(), repositories=["UPPER"])


async def test_a_real_registry_is_scanned(docker_registry: DockerRegistry, valkey: Server, tmp_path: Path) -> None:
    """An image that skopeo pushed without crossmount is mounted after a scan, without an upload."""
    image = make_layout(tmp_path / "image", make_layers(3))
    skopeo = ("--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{image.path}:latest")
    for name in ("team/one:1", "team/one:2", "team/two:1"):
        run("skopeo", *skopeo, f"docker://{docker_registry.address}/{name}")
    async with open_index(valkey.unix_url) as index:
        report = await scan(docker_registry.address, index=index, options=PLAIN)
        assert (report.repositories, report.tags, report.layers, report.failed) == (2, 3, 8, 0)
        dest = f"{docker_registry.address}/team/three:1"
        pushed = await push(image.path, dest, index=index, options=PLAIN)
        assert (pushed.count("mounted"), pushed.count("uploaded")) == (4, 0)
