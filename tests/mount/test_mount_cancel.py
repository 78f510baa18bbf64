import asyncio

from crossmount.index import MemoryMountIndex
from crossmount.mount import Mounter
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.testing import Alter, Fault, ScriptedRegistry


async def test_a_cancel_that_hangs_delays_no_mount(scripted_registry: ScriptedRegistry) -> None:
    """The cancellation of an unused session does not delay the mount."""
    index = MemoryMountIndex()
    layer = Digest.of(b"layer")
    at = scripted_registry.address
    for i in range(3):
        await index.add_source(layer, Repository.parse(f"{at}/team/gone-{i}"))
    scripted_registry.play(Fault(method="DELETE", times=None, delay=3))
    async with RegistryClient(at, options=ClientOptions(plain_http=True)) as client:
        mounter = Mounter(client, index)
        async with asyncio.timeout(2.5):
            result = await mounter.mount(layer, Repository.parse(f"{at}/team/a"))
        assert result.session is not None


async def test_a_mount_that_is_cancelled_leaves_no_session(scripted_registry: ScriptedRegistry) -> None:
    """A session that the registry opens while the mount is cancelled is cancelled too."""
    layer, at = Digest.of(b"layer"), scripted_registry.address
    scripted_registry.play(Fault(method="POST", action=Alter(), delay=0.3))
    async with (
        RegistryClient(at, options=ClientOptions(plain_http=True)) as client,
        Mounter(client, MemoryMountIndex()) as mounter,
    ):
        task = asyncio.create_task(mounter.mount(layer, Repository.parse(f"{at}/team/a")))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
    assert len(scripted_registry.matching(method="POST")) == 1
    assert scripted_registry.open_sessions == ()
