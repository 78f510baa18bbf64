"""The locality of an image."""

from pathlib import Path

import pytest

import crossmount
from crossmount.asyncio import ClientOptions, InvalidInputError, MemoryMountIndex, locality, open_index
from crossmount.discovery.locality import holders
from crossmount.index import RedisMountIndex
from crossmount.oci import Digest, Reference, Repository
from crossmount.oci.layout import load_image
from crossmount.testing import ScriptedRegistry, running_registry
from support.holdings import put_image, put_index
from support.images import make_layout
from support.index_kit import CountingLink
from support.servers import Server

PLAIN = ClientOptions(plain_http=True)
BASE, OWN = b"b" * 3000, b"o" * 500


async def test_bytes_are_counted_by_registry_in_one_round_trip(valkey: Server, tmp_path: Path) -> None:
    """One round trip answers for any number of layers and registries, each registry as it was spelled."""
    image = make_layout(tmp_path / "image", [BASE, OWN])
    base, own = image.layers
    async with open_index(valkey.unix_url) as opened:
        assert isinstance(opened, RedisMountIndex)
        await opened.add_source(base.digest, Repository("a.example", "x"))
        await opened.add_source(base.digest, Repository("b.example", "any"))
        await opened.add_source(own.digest, Repository("b.example", "y"))
        link = CountingLink(opened.link)
        counted = RedisMountIndex(link)
        registries = ["A.example:443", "b.example", "c.example"]
        for given in (f"oci:{image.path}", image.path, load_image(image.path)):
            link.runs.clear()
            assert await locality(given, registries, index=counted) == {
                "A.example:443": base.size,
                "b.example": base.size + own.size,
                "c.example": 0,
            }
            assert len(link.runs) == 1
        assert await locality(image.path, [], index=counted) == {}
        assert await holders(counted, [base.digest, own.digest]) == {
            base.digest: (Repository("a.example", "x"), Repository("b.example", "any")),
            own.digest: (Repository("b.example", "y"),),
        }


async def test_a_references_manifests_are_fetched(scripted_registry: ScriptedRegistry) -> None:
    """All platforms of an image count, each blob once."""
    children = [put_image(scripted_registry, "a", None, layers) for layers in ([BASE], [BASE, OWN])]
    put_index(scripted_registry, "a", "1", children)
    index = MemoryMountIndex()
    for layer in (BASE, OWN):
        await index.add_source(Digest.of(layer), Repository("far.example", "x"))
    reference = Reference.parse(f"{scripted_registry.address}/a:1")
    for given in (reference, str(reference)):
        found = await locality(given, ["far.example"], index=index, options=PLAIN)
        assert found == {"far.example": len(BASE) + len(OWN)}
    with pytest.raises(InvalidInputError):
        await locality(reference, ["no registry"], index=index, options=PLAIN)


def test_the_blocking_flavour_gives_the_same(valkey: Server) -> None:
    """Scan, locality and the feed work without an event loop."""
    options = crossmount.ClientOptions(plain_http=True)
    with running_registry() as registry, crossmount.open_index(valkey.unix_url) as index:
        manifest = put_image(registry, "team/app", "1", [BASE])
        report = crossmount.scan(registry.address, index=index, options=options)
        assert (report.repositories, report.layers) == (1, 2)
        found = crossmount.locality(
            f"{registry.address}/team/app:1", [registry.address], index=index, options=options
        )
        assert found[registry.address] > len(BASE)
        index.forget(Digest.of(BASE), Repository(registry.address, "team/app"))
        with crossmount.EventFeed(registry.address, index, options=options) as feed:
            assert feed.accept(
                b'{"type": "PUSH_ARTIFACT", "event_data": {"repository": {"repo_full_name": "team/app"}, '
                b'"resources": [{"digest": "%s"}]}}' % manifest.encode()
            )
            feed.settled()
        assert [where.name for where in index.locations(Digest.of(BASE))] == ["team/app"]
