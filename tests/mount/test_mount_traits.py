from pathlib import Path

from crossmount.index import MemoryMountIndex, RegistryTraits
from crossmount.oci import Repository
from crossmount.registry import ClientOptions
from crossmount.testing import Fault, IgnoreMount, ScriptedRegistry
from crossmount.transfer import push
from support.images import make_layers, make_layout

OPTIONS = ClientOptions(plain_http=True)


async def test_one_mount_refused_among_many_that_succeeded_condemns_no_registry(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A registry that mounted in this push is not recorded as one that does not mount."""
    image = make_layout(tmp_path / "image", make_layers(4, size=5000))
    index = MemoryMountIndex()
    await push(image.path, f"{scripted_registry.address}/team/a:1", index=index, options=OPTIONS)
    scripted_registry.play(
        Fault(method="POST", query="*from=*", action=IgnoreMount()),
        Fault(method="HEAD", path="/v2/team/a/blobs/*", delay=0.3),
    )
    await push(image.path, f"{scripted_registry.address}/team/b:1", index=index, options=OPTIONS)
    dest = Repository.parse(f"{scripted_registry.address}/team/c")
    assert (await index.look_up([], dest)).traits.mounts is not False


async def test_a_hint_that_the_registry_does_not_mount_fails_no_must_mount(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A must-mount layer is requested even if the index says that this registry does not mount."""
    image = make_layout(tmp_path / "image", make_layers(1, size=5000))
    index = MemoryMountIndex()
    source = Repository.parse(f"{scripted_registry.address}/team/a")
    await push(image.path, f"{source}:1", index=index, options=OPTIONS)
    await index.add_source(image.layers[0].digest, source, must_mount=True)
    await index.record_traits(source.registry, RegistryTraits(mounts=False))
    report = await push(image.path, f"{scripted_registry.address}/team/b:1", index=index, options=OPTIONS)
    assert report.count("mounted") == 1
