from pathlib import Path

from crossmount.index import MemoryMountIndex
from crossmount.oci import Repository
from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.testing import Fault, Reply, ScriptedRegistry
from crossmount.transfer import push
from support.images import make_layers, make_layout

POLICY = RetryPolicy(attempts=3, outage=0.0, wait_initial=0.01, wait_max=0.02)


async def test_mounts_that_only_break_are_given_up_after_one_source(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A registry that breaks on mounts costs a layer the retries of one request, not of one for each source."""
    image = make_layout(tmp_path / "image", make_layers(2, size=5000))
    index = MemoryMountIndex()
    for blob in image.blobs:
        for i in range(5):
            await index.add_source(blob.digest, Repository.parse(f"{scripted_registry.address}/team/{i}"))
    scripted_registry.play(Fault(method="POST", query="mount*", times=None, action=Reply(status=503)))
    dest = f"{scripted_registry.address}/team/a:1"
    options = ClientOptions(plain_http=True, retry=POLICY)
    report = await push(image.path, dest, index=index, options=options)
    assert report.count("uploaded") == len(image.blobs)
    mounts = scripted_registry.matching(method="POST", query="mount*")
    assert len(mounts) == POLICY.attempts * len(image.blobs)
