from pathlib import Path

import pytest

from crossmount.errors import RegistryError
from crossmount.index import MemoryMountIndex
from crossmount.oci import Repository
from crossmount.registry import ClientOptions
from crossmount.testing import Fault, Reply, ScriptedRegistry
from crossmount.transfer.image_pusher import Limits
from crossmount.transfer.push import push
from support.images import make_layers, make_layout

OPTIONS = ClientOptions(plain_http=True)


async def test_a_failed_push_cancels_waiting_sessions(scripted_registry: ScriptedRegistry, tmp_path: Path) -> None:
    """Sessions that mounts opened are cancelled when the push fails before it uploads into them."""
    image = make_layout(tmp_path / "image", make_layers(6, size=5000))
    index = MemoryMountIndex()
    gone = Repository.parse(f"{scripted_registry.address}/team/gone")
    for blob in image.blobs:
        await index.add_source(blob.digest, gone)
    scripted_registry.play(Fault(method="PUT", action=Reply(status=403, code="DENIED"), delay=0.5, times=None))
    with pytest.raises(RegistryError):
        await push(
            image.path,
            f"{scripted_registry.address}/team/a:1",
            index=index,
            options=OPTIONS,
            limits=Limits(uploads=1),
        )
    assert scripted_registry.open_sessions == ()
