"""A prune verifies sources at their registries, and removes those that are gone."""

from typing import Any

import pytest

import crossmount
import redis
from crossmount.asyncio import IndexRefusedError, InvalidInputError, MemoryMountIndex, Repository, open_index
from crossmount.index import RedisMountIndex, Sighting, adapt
from crossmount.maintenance.prune import PAGE, PruneSelection
from crossmount.oci import Digest
from crossmount.redis.replies import Command
from crossmount.testing import ScriptedRegistry, running_registry
from support.index_kit import CountingLink, FourMethods, keys_that_stay, layer
from support.links import async_link
from support.places import Place
from support.prunes import content, counts, digests, fill, heads, known, pruned
from support.registry_kit import PLAIN
from support.servers import Server


async def test_missing_sources_are_removed_on_every_topology(
    any_place: Place, scripted_registry: ScriptedRegistry
) -> None:
    """Each source on every server is verified once; existing ones stay, and missing ones are removed."""
    async with open_index(any_place.operator_url) as index:
        await fill(index, scripted_registry, range(300), range(300, 400))
        report = await pruned(index)
        assert await known(index) == digests(range(300))
    assert report.counts == counts(held=300, gone=100)
    assert report.complete
    assert not report.resumed
    assert set(heads(scripted_registry).values()) == {1}
    assert len(heads(scripted_registry)) == 400
    with any_place.client() as raw:
        assert keys_that_stay(raw) == []
        assert list(raw.scan_iter("crossmount:*:prune:*")) == []


async def test_an_index_in_memory_can_be_pruned() -> None:
    """An index in memory is pruned, and there is nothing to resume."""
    async with ScriptedRegistry() as registry:
        index = MemoryMountIndex()
        await fill(index, registry, range(30), range(30, 500))
        assert (await pruned(index)).counts == counts(held=30, gone=470)
        assert await known(index) == digests(range(30))


async def test_a_layer_keeps_its_other_sources(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """Only the source that is gone is removed; the layer's other sources stay."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, [1], [2], "team/one")
        await fill(index, scripted_registry, [2], [1], "team/two")
        await pruned(index)
        for number, name in ((1, "team/one"), (2, "team/two")):
            assert await index.locations(Digest.of(content(number))) == (
                Repository(scripted_registry.address, name),
            )


async def test_verifying_does_not_renew(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """Verification does not renew a source: it expires at the same time as before."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, [1], [])
        with valkey.client() as raw:
            keys = list(raw.scan_iter("crossmount:*"))
            for key in keys:
                raw.expire(key, 1000)
            await pruned(index)
            assert keys
            assert all(raw.ttl(key) <= 1000 for key in keys)


async def test_a_dry_run_removes_nothing(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """A dry run reports what would be removed, and removes nothing."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(5), range(5, 9))
        await index.add_source(
            Digest.of(content(6)), Repository(scripted_registry.address, "team/app"), must_mount=True
        )
        report = await pruned(index, dry_run=True)
        assert report.counts == counts(held=5, gone=4)
        assert report.dry_run
        assert report.stranded == (Digest.of(content(6)),)
        assert await known(index) == digests(range(9))


async def test_flags_stay_and_layers_without_sources_are_reported(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """The report names must-mount layers without a source, and their flags stay."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, [1], [2, 3, 4])
        place = Repository(scripted_registry.address, "team/app")
        for number in (1, 2, 3):
            await index.add_source(Digest.of(content(number)), place, must_mount=True)
        await fill(index, scripted_registry, [3], [], "team/other")
        report = await pruned(index)
        assert report.stranded == (Digest.of(content(2)),)
        for number in (1, 2, 3):
            assert await index.must_mount(Digest.of(content(number)))
        assert await index.locations(Digest.of(content(2))) == ()


async def test_a_sample_verifies_a_part(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """A sample verifies a part of the sources, and the next sample another part."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(200), [])
        asked = []
        for salt in ("1" * 32, "2" * 32):
            scripted_registry.requests.clear()
            report = await pruned(index, sample=30, salt=salt)
            asked.append(set(heads(scripted_registry)))
            assert 0 < report.counts["held"] == len(asked[-1]) < 150
        assert asked[0] != asked[1]


async def test_only_selected_sources_are_verified(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """Only sources that match the registry and the patterns are verified."""
    async with ScriptedRegistry() as other, open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, [], [1, 2], "team/app")
        await fill(index, scripted_registry, [], [3], "else")
        await fill(index, other, [], [4], "team/app")
        report = await pruned(index, registry=scripted_registry.address, patterns=["team/*", "no/such"])
        assert report.counts == counts(gone=2)
        assert await known(index) == digests([3, 4])
        assert not other.requests
        report = await pruned(index, patterns=["team/*"])
        assert report.counts == counts(gone=1)
        assert await known(index) == digests([3])


def test_a_selection_is_the_same_for_the_same_salt() -> None:
    """The same salt draws the same sample, of the requested size."""
    place = Repository("r.example", "a")
    for percent in (3, 10, 60):
        first, again, other = (
            [PruneSelection(percent=percent).selects(layer(number), place, salt) for number in range(20_000)]
            for salt in ("a", "a", "b")
        )
        assert first == again != other
        assert sum(first) == pytest.approx(200 * percent, rel=0.1)


async def test_it_is_gentle_on_the_server(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """A prune uses SCAN with small pages and short commands, no KEYS, and only the script that removes."""
    link = CountingLink(async_link(valkey.unix_url))

    async def servers() -> list[Any]:
        return [link]

    link.servers = servers  # type: ignore[method-assign]
    index = RedisMountIndex(link)
    await fill(index, scripted_registry, range(500), range(500, 520))
    link.runs.clear()
    await pruned(index)
    sent: list[Command] = [command for run in link.runs for command in run]
    names = {str(command[0]) for command in sent}
    assert names <= {
        *("SCAN", "HGETALL", "HGET", "SRANDMEMBER", "HSET", "EXPIRE", "DEL"),
        *("INFO", "DBSIZE", "EVALSHA", "SCRIPT", "TIME", "TTL"),
    }
    assert {command[-1] for command in sent if command[0] == "SCAN"} == {PAGE}
    assert max(map(len, link.runs)) <= 2 + 2 * 256
    await index.aclose()


async def test_a_pusher_may_not_prune(restricted: Place) -> None:
    """A pusher, who may not use SCAN, gets an error before any registry is asked."""
    async with open_index(restricted.url) as index:
        await index.record([Sighting(layer(1), Repository("127.0.0.1:1", "a"))])
        with pytest.raises(IndexRefusedError, match="crossmount-operator"):
            await pruned(index)


@pytest.mark.parametrize("sample", [0, -1, 101, float("nan")])
async def test_an_invalid_sample_is_refused(sample: float) -> None:
    """An invalid sample, an invalid registry, and an index that cannot be listed are refused."""
    with pytest.raises(InvalidInputError, match="percent"):
        await pruned(MemoryMountIndex(), sample=sample)
    with pytest.raises(InvalidInputError, match="not a registry"):
        await pruned(MemoryMountIndex(), registry="no registry")
    with pytest.raises(InvalidInputError, match="cannot be listed"):
        await pruned(adapt(FourMethods()))


def test_the_blocking_flavour_prunes_too(valkey: Server) -> None:
    """Prune works without an event loop, on a server and in memory."""
    with running_registry() as registry:
        for url in (valkey.unix_url, "memory:"):
            with crossmount.open_index(url) as index:
                place = Repository(registry.address, "team/app")
                there = registry.put_blob("team/app", b"there")
                index.record([Sighting(there, place), Sighting(layer(1), place)])
                report = crossmount.prune(index, options=PLAIN)
                assert report.counts == counts(held=1, gone=1)
                assert index.locations(layer(1)) == ()
    with redis.Redis.from_url(valkey.unix_url) as raw:
        assert keys_that_stay(raw) == []
