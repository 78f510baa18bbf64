from pathlib import Path

from crossmount.index import MemoryMountIndex
from crossmount.oci import Repository
from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.testing import Fault, Grant, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from crossmount.transfer import push
from support.images import make_layers, make_layout

OPTIONS = ClientOptions(
    plain_http=True, retry=RetryPolicy(attempts=3, outage=0.0, wait_initial=0.01, wait_max=0.02)
)


async def test_a_realm_that_breaks_on_a_source_fails_no_push(tmp_path: Path) -> None:
    """Scopes that come from the index are left out where the realm answers them with a 500."""
    image = make_layout(tmp_path / "image", make_layers(2, size=5000))
    async with ScriptedRegistry(RegistryOptions(auth=TokenAuth(anonymous=(Grant(),)))) as registry:
        index = MemoryMountIndex()
        for blob in image.blobs:
            await index.add_source(blob.digest, Repository.parse(f"{registry.address}/team/hostile"))
        registry.play(Fault(method="GET", query="*hostile*", times=None, action=Reply(status=500)))
        report = await push(image.path, f"{registry.address}/team/a:1", index=index, options=OPTIONS)
    assert report.count("uploaded") == len(image.blobs)
