"""A 201 to a mount, and whether it is true."""

from pathlib import Path

import pytest

from crossmount.index import MemoryMountIndex, RegistryTraits
from crossmount.mount import Mounter, MountStatus
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.testing import RegistryOptions, ScriptedRegistry
from crossmount.transfer.push import push
from support.images import make_layers, make_layout

OPTIONS = ClientOptions(plain_http=True)
DATA = b"a layer" * 1000


SHA512 = RegistryOptions(false_mounts=("sha512:*",))


async def mount_once(
    registry: ScriptedRegistry, index: MemoryMountIndex, digest: Digest, name: str
) -> tuple[MountStatus, RegistryTraits]:
    """Mount a blob into a repository; return the status, and what the index then knows of the registry."""
    dest = Repository.parse(f"{registry.address}/{name}")
    async with RegistryClient(registry.address, options=OPTIONS) as client, Mounter(client, index) as mounter:
        result = await mounter.mount(digest, dest)
        mounter.cancel_later(result.session)
    return result.status, (await index.look_up([], dest)).traits


async def test_a_201_that_is_not_true_is_no_mount_and_is_remembered() -> None:
    """A sha512 layer that was answered 201 and is absent is to be uploaded; dest becomes no source."""
    async with ScriptedRegistry(SHA512) as registry:
        digest = registry.put_blob("team/base", DATA, algorithm="sha512")
        index = MemoryMountIndex()
        await index.add_source(digest, Repository.parse(f"{registry.address}/team/base"))
        assert await mount_once(registry, index, digest, "app") == (
            MountStatus.PUSH_STARTED,
            RegistryTraits(truthful=False),
        )
        dest = Repository.parse(f"{registry.address}/app")
        assert (await index.look_up([digest], dest)).of(digest).in_dest is False
        assert (await index.look_up([digest], dest)).of(digest).sources


async def test_a_sha512_layer_that_is_there_after_a_201_is_mounted() -> None:
    """Where the registry tells the truth a sha512 layer is mounted, with one HEAD."""
    async with ScriptedRegistry() as registry:
        digest = registry.put_blob("team/base", DATA, algorithm="sha512")
        index = MemoryMountIndex()
        await index.add_source(digest, Repository.parse(f"{registry.address}/team/base"))
        status, traits = await mount_once(registry, index, digest, "app")
        assert (status, traits) == (MountStatus.MOUNTED, RegistryTraits(mounts=True, truthful=True))
        assert len(registry.matching(method="HEAD")) == 1


@pytest.mark.parametrize(("lied", "heads"), [(False, 0), (True, 1)])
async def test_a_registry_that_lied_once_is_asked_after_every_mount(lied: bool, heads: int) -> None:
    """A sha256 mount costs no HEAD, unless the index knows that the registry's 201 was not true before."""
    async with ScriptedRegistry() as registry:
        digest = registry.put_blob("team/base", DATA)
        index = MemoryMountIndex()
        await index.add_source(digest, Repository.parse(f"{registry.address}/team/base"))
        if lied:
            await index.record_traits(registry.address, RegistryTraits(truthful=False))
        status, _ = await mount_once(registry, index, digest, "app")
        assert (status, len(registry.matching(method="HEAD"))) == (MountStatus.MOUNTED, heads)


async def test_a_blob_that_a_manifest_shows_to_be_missing_makes_a_registry_untruthful(tmp_path: Path) -> None:
    """A mount that was believed, and whose manifest is then refused, is uploaded; later mounts need proof."""
    image = make_layout(tmp_path / "image", make_layers(1, size=5000))
    async with ScriptedRegistry(RegistryOptions(false_mounts=(image.layers[0].digest,))) as registry:
        index = MemoryMountIndex()
        registry.put_blob("team/base", (image.path / "blobs/sha256" / image.layers[0].digest[7:]).read_bytes())
        await index.add_source(image.layers[0].digest, Repository.parse(f"{registry.address}/team/base"))
        report = await push(image.path, f"{registry.address}/a:1", index=index, options=OPTIONS)
        assert report.count("mounted") == 0
        dest = Repository.parse(f"{registry.address}/b")
        assert (await index.look_up([], dest)).traits.truthful is False
        await push(image.path, f"{registry.address}/b:1", index=index, options=OPTIONS)
        assert len(registry.matching(method="PUT", path="/v2/b/manifests/*")) == 1
