"""An interrupted prune is resumed with the same selection, and reports how far it is."""

import asyncio
from importlib import import_module
from typing import Any

import pytest

from crossmount import events
from crossmount.asyncio import IndexRefusedError, PruneReport, open_index
from crossmount.index import MountIndex, RedisMountIndex
from crossmount.testing import ScriptedRegistry
from support.index_kit import CountingLink
from support.links import async_link
from support.places import Place
from support.prunes import counts, fill, heads, pruned
from support.servers import Server

pruning = import_module("crossmount.maintenance.prune")  # the package has a function of the same name


class Refusing(CountingLink):
    """A link that refuses some commands."""

    def __init__(self, link: Any, *names: str) -> None:
        super().__init__(link)
        self.names = names

    async def run(self, commands: Any) -> list[Any]:
        """Refuse them, or run them."""
        if commands and commands[0][0] in self.names:
            return [IndexRefusedError("no permission")] * len(commands)
        return await super().run(commands)

    async def servers(self) -> Any:
        """Return itself as the only server."""
        return [self]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make pages small, so that few sources have many pages."""
    monkeypatch.setattr(pruning, "PAGE", 20)
    return 20


async def interrupted(index: MountIndex, registry: ScriptedRegistry, after: int, **details: Any) -> None:
    """Prune until that many sources are verified, then cancel as Ctrl-C does."""
    asked = 0
    task: asyncio.Task[PruneReport]

    def observe(event: events.Event) -> None:
        nonlocal asked
        asked += isinstance(event, events.SourceVerified)
        if asked == after:
            task.cancel()

    task = asyncio.create_task(pruned(index, observer=observe, **details))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asked < len(registry.holdings.find("team/app").blobs)


@pytest.mark.parametrize("kind", ["valkey", "redis7", "cluster"])
async def test_an_interrupted_prune_is_resumed(
    kind: str, request: pytest.FixtureRequest, scripted_registry: ScriptedRegistry, small_pages: int
) -> None:
    """A resumed prune verifies every source, and at most one page twice."""
    place: Place = request.getfixturevalue(kind)
    async with open_index(place.operator_url) as index:
        await fill(index, scripted_registry, range(180), [])
        await interrupted(index, scripted_registry, 100)
        report = await pruned(index)
        assert report.resumed
        assert len(heads(scripted_registry)) == 180
        assert sum(heads(scripted_registry).values()) <= 180 + 2 * small_pages
        assert (await pruned(index)).counts == counts(held=180)


@pytest.mark.usefixtures("small_pages")
async def test_a_resumed_prune_keeps_its_sample(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """A resumed prune continues with the same sample."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(400), [])
        await interrupted(index, scripted_registry, 60, sample=30)
        assert (await pruned(index, sample=30)).resumed
    assert len(heads(scripted_registry)) < 200  # two samples together would be 204


@pytest.mark.usefixtures("small_pages")
async def test_another_selection_is_another_prune(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """Only the same selection resumes a prune, and `afresh` starts over."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(180), [])
        await interrupted(index, scripted_registry, 100)
        other = await pruned(index, registry=scripted_registry.address)
        assert (other.resumed, other.counts["held"]) == (False, 180)
        other = await pruned(index, dry_run=True)
        assert (other.resumed, other.counts["held"]) == (False, 180)
        afresh = await pruned(index, afresh=True)
        assert (afresh.resumed, afresh.counts["held"]) == (False, 180)


@pytest.mark.usefixtures("small_pages")
async def test_a_restarted_server_is_scanned_from_its_start(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """A server that was restarted is scanned from its start."""
    async with open_index(valkey.url) as index:
        await fill(index, scripted_registry, range(180), [])
        await interrupted(index, scripted_registry, 100)
        with valkey.client() as raw:
            (key,) = raw.scan_iter("crossmount:default:prune:*")
            kept: dict[bytes, bytes] = raw.hgetall(key)
            assert 0 < raw.ttl(key) <= 24 * 3600
            process = next(name for name in kept if name != b"run")
            raw.hdel(key, process)
            raw.hset(key, b"0" * 40, kept[process])
        report = await pruned(index)
        assert (report.resumed, report.counts["held"]) == (False, 180)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize(
    "text", [b"", b"x", b"7", b"-1 3", b"done", b"9" * 30 + b" 1", b"1 " + b"9" * 30, b"\xff 1"]
)
async def test_an_invalid_checkpoint_is_ignored(
    scripted_registry: ScriptedRegistry, valkey: Server, text: bytes
) -> None:
    """An invalid checkpoint is ignored, and the scan begins at its start."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(180), [])
        await interrupted(index, scripted_registry, 100)
        with valkey.client() as raw:
            (key,) = raw.scan_iter("crossmount:default:prune:*")
            (process,) = (name for name in raw.hkeys(key) if name != b"run")
            raw.hset(key, process, text)
        report = await pruned(index)
        assert (report.resumed, report.counts["held"]) == (False, 180)


@pytest.mark.usefixtures("small_pages")
async def test_a_server_without_a_run_id_is_not_resumed(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """Without permission for INFO and DBSIZE a prune works, without a total, and is not resumed."""
    index = RedisMountIndex(Refusing(async_link(valkey.unix_url), "INFO", "DBSIZE"))
    await fill(index, scripted_registry, range(180), [])
    await interrupted(index, scripted_registry, 100)
    seen: list[events.Event] = []
    report = await pruned(index, observer=seen.append)
    assert (report.resumed, report.counts["held"]) == (False, 180)
    assert {event.total for event in seen if isinstance(event, events.IndexWalked)} == {None}
    await index.aclose()


@pytest.mark.usefixtures("small_pages")
async def test_progress_is_reported(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """Progress counts keys of the server, never decreases, and ends at their total."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(360), [])
        seen: list[events.Event] = []
        await pruned(index, observer=seen.append)
    walked = [event for event in seen if isinstance(event, events.IndexWalked)]
    (total,) = {event.total for event in walked}
    assert [event.keys for event in walked] == sorted(event.keys for event in walked)
    assert len(walked) > 5
    assert 360 <= (total or 0) == walked[-1].keys
