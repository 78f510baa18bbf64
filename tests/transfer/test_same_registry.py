"""A push and a copy between two names of one registry."""

from crossmount.index import MemoryMountIndex, Sighting
from crossmount.index.aliases import SameRegistries
from crossmount.oci import Repository
from crossmount.testing import ScriptedRegistry
from crossmount.transfer.copy import copy
from support.copies import OPTIONS, copied, gets, is_whole
from support.images import MadeImage


def other_name(registry: ScriptedRegistry) -> str:
    """Return the registry's address by another name of its host."""
    return f"localhost:{registry.address.rpartition(':')[2]}"


async def test_a_copy_between_two_names_of_one_registry_mounts(a: ScriptedRegistry, image: MadeImage) -> None:
    """No blob is read or uploaded: each is mounted from the source's repository, by dest's name."""
    index = MemoryMountIndex(same=SameRegistries.parse([f"{other_name(a)}={a.address}"]))
    before = a.uploads()
    report = await copy(f"{a.address}/team/app:1", f"{other_name(a)}/mirror/app", index=index, options=OPTIONS)
    assert (gets(a), a.uploads()) == (0, before)
    sources = {blob.source for blob in report.copied[0].blobs}
    assert sources == {Repository(other_name(a), "team/app")}
    assert is_whole(a, "mirror/app", image)


async def test_a_layer_is_fetched_from_a_registry_by_the_name_that_the_user_gave(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """What the index keeps under another name is asked for by the user's, and never by the index's."""
    kept = "registry.invalid:5000"
    index = MemoryMountIndex(same=SameRegistries.parse([f"{a.address}={kept}"]))
    await index.record([Sighting(each.digest, Repository(kept, "team/app"), each.size) for each in image.blobs])
    report = await copied(a, b, index=index)
    fetched = {blob.fetched_from for blob in report.copied[0].blobs}
    assert fetched == {f"{a.address}/team/app"}
    assert is_whole(b, "mirror/app", image)
