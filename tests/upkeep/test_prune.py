"""A prune asks registries what they hold, and forgets what is gone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import pytest
import redis

import crossmount
from crossmount import events
from crossmount.asyncio import (
    ClientOptions,
    IndexRefusedError,
    InvalidInputError,
    MemoryMountIndex,
    PruneReport,
    Repository,
    open_index,
    prune,
)
from crossmount.index import MountIndex, NullIndex, RedisMountIndex, Sighting
from crossmount.index.connection import async_link
from crossmount.index.entries import entries_of
from crossmount.index.link import Command
from crossmount.oci import Digest
from crossmount.registry import RegistryClient
from crossmount.registry.authfiles import Credential
from crossmount.registry.credentials import GivenCredentials
from crossmount.testing import (
    BasicAuth,
    CutBefore,
    Fault,
    RegistryOptions,
    Reply,
    ScriptedRegistry,
    TokenAuth,
    running_registry,
)
from crossmount.testing.auth import Grant
from crossmount.upkeep.prune import PAGE, Choice
from crossmount.upkeep.verifier import FAILURES_MAX
from support.index_kit import CountingLink, keys_that_stay, layer
from support.places import Place
from support.registry_kit import QUICK
from support.servers import Server

pruning = import_module("crossmount.upkeep.prune")  # the package has a function of the same name
PLAIN = ClientOptions(plain_http=True, retry=QUICK)
VERDICTS: tuple[events.Verdict, ...] = ("held", "gone", "unseen", "denied", "failed", "unreachable")


def content(number: int) -> bytes:
    """Return one of many layers."""
    return b"layer %d" % number


async def fill(
    index: MountIndex, registry: ScriptedRegistry, held: Iterable[int], gone: Iterable[int], name: str = "team/app"
) -> None:
    """Let the index know layers in a repository, of which the registry holds some."""
    there = list(held)
    for number in there:
        registry.put_blob(name, content(number))
    place = Repository(registry.address, name)
    await index.record([Sighting(Digest.of(content(number)), place) for number in (*there, *gone)])


async def pruned(index: MountIndex, **details: Any) -> PruneReport:
    """Prune over plain http."""
    return await prune(index, **{"options": PLAIN, **details})


async def known(index: MountIndex) -> set[Digest]:
    """Return the layers of which the index knows a source."""
    return {entry.layer async for entry in entries_of(index) if entry.held}


def digests(numbers: Iterable[int]) -> set[Digest]:
    """Return the digests of layers."""
    return {Digest.of(content(number)) for number in numbers}


def counts(**numbers: int) -> dict[events.Verdict, int]:
    """Return how often what was said, the rest never."""
    return {verdict: numbers.get(verdict, 0) for verdict in VERDICTS}


def heads(registry: ScriptedRegistry) -> Counter[str]:
    """Return how often each blob was asked for."""
    return Counter(record.path for record in registry.matching(method="HEAD", path="/v2/*/blobs/*"))


async def test_what_is_gone_is_forgotten_in_every_place(
    any_place: Place, scripted_registry: ScriptedRegistry
) -> None:
    """Each source is asked for once, on a Cluster those of all servers; what is there stays."""
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
    """There is nothing to go on with."""
    async with ScriptedRegistry() as registry:
        index = MemoryMountIndex()
        await fill(index, registry, range(30), range(30, 500))
        assert (await pruned(index)).counts == counts(held=30, gone=470)
        assert await known(index) == digests(range(30))


async def test_a_layer_keeps_its_other_sources(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """Only where it is gone it is forgotten."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, [1], [2], "team/one")
        await fill(index, scripted_registry, [2], [1], "team/two")
        await pruned(index)
        for number, name in ((1, "team/one"), (2, "team/two")):
            assert await index.locations(Digest.of(content(number))) == (
                Repository(scripted_registry.address, name),
            )


async def test_verifying_does_not_renew(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """That a layer is there does not make it used: it runs out when it would have."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, [1], [])
        with valkey.client() as raw:
            keys = list(raw.scan_iter("crossmount:*"))
            for key in keys:
                raw.expire(key, 1000)
            await pruned(index)
            assert keys
            assert all(raw.ttl(key) <= 1000 for key in keys)


async def test_a_dry_run_forgets_nothing(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """It says what would be."""
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


async def test_a_flag_is_never_lifted_and_a_layer_without_sources_is_named(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """Nobody can push a must-mount layer that lies nowhere any more: whoever prunes learns of it."""
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


async def test_a_sample_is_a_part_of_it(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """Some are asked for, others the next time."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(200), [])
        asked = []
        for salt in ("1" * 32, "2" * 32):
            scripted_registry.requests.clear()
            report = await pruned(index, sample=30, salt=salt)
            asked.append(set(heads(scripted_registry)))
            assert 0 < report.counts["held"] == len(asked[-1]) < 150
        assert asked[0] != asked[1]


async def test_only_what_was_chosen_is_asked_for(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """By registry and by patterns of repositories; the rest is left alone, and so are registries besides."""
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


def test_a_choice_is_the_same_for_the_same_salt() -> None:
    """Who goes on with a sample goes on with the same one; it is as large as it is to be."""
    place = Repository("r.example", "a")
    for percent in (3, 10, 60):
        first, again, other = (
            [Choice(percent=percent).takes(layer(number), place, salt) for number in range(20_000)]
            for salt in ("a", "a", "b")
        )
        assert first == again != other
        assert sum(first) == pytest.approx(200 * percent, rel=0.1)


@asynccontextmanager
async def private(
    **grants: tuple[Grant, ...],
) -> AsyncIterator[tuple[ScriptedRegistry, Callable[[str], RegistryClient]]]:
    """Start a registry on which bob has a password, and make clients of his."""
    auth = TokenAuth(users={"bob": "pw"}, grants=grants) if grants else BasicAuth(users={"bob": "pw"})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        bob = GivenCredentials(registry.address, Credential("bob", "pw", origin="a test"))
        yield registry, lambda name: RegistryClient(name, options=PLAIN, credentials=bob)


async def test_what_may_be_hidden_from_us_stays() -> None:
    """Some registries say 404 where one may not read: such a source serves others, and in time it runs out."""
    async with private() as (registry, connect):
        index = MemoryMountIndex()
        await fill(index, registry, [], [1, 2, 3], "ann/secret")
        await fill(index, registry, [4], [5], "team/app")
        registry.play(Fault(path="/v2/ann/secret/*", times=None, action=Reply(status=404, code="NAME_UNKNOWN")))
        report = await pruned(index, connect=connect)
        assert report.counts == counts(held=1, gone=1, unseen=3)
        assert report.complete
        assert await known(index) == digests([1, 2, 3, 4])


async def test_a_web_server_in_a_registrys_place_costs_no_source(scripted_registry: ScriptedRegistry) -> None:
    """Where a registry was, and something else says 404 to everything now, nothing is known to be gone."""
    index = MemoryMountIndex()
    await fill(index, scripted_registry, [], range(20))
    scripted_registry.play(Fault(times=None, action=Reply(status=404)))
    report = await pruned(index)
    assert report.counts == counts(unreachable=20)
    assert await known(index) == digests(range(20))
    assert len(scripted_registry.requests) == 1


async def test_a_registry_that_goes_away_meanwhile_costs_no_source(scripted_registry: ScriptedRegistry) -> None:
    """What stands before it says 404 in its place: it is greeted once more before anything is forgotten."""
    index = MemoryMountIndex()
    await fill(index, scripted_registry, range(20), [])
    scripted_registry.play(Fault(skip=1, times=None, action=Reply(status=404)))
    seen: list[events.Event] = []
    report = await pruned(index, observer=seen.append)
    assert report.counts == counts(unreachable=20)
    assert await known(index) == digests(range(20))
    assert Counter(event.verdict for event in seen if isinstance(event, events.SourceVerified)) == {
        "unreachable": 20
    }


async def test_what_we_may_not_read_stays_and_is_asked_for_once() -> None:
    """401 and 403 say nothing of the layer, and rights are the repository's."""
    async with private(bob=(Grant("team/*"),)) as (registry, connect):
        index = MemoryMountIndex()
        await fill(index, registry, [], range(50), "ann/secret")
        await fill(index, registry, [50], [51], "team/app")
        report = await pruned(index, connect=connect, requests=1)
        assert report.counts == counts(held=1, gone=1, denied=50)
        assert report.complete
        assert await known(index) == digests(range(51))
        assert len({each.path for each in registry.matching(path="/v2/ann/secret/blobs/*")}) == 1


async def test_a_registry_that_does_not_answer_is_left_alone(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """What is there stays, the others go on, and the report says so."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(10), range(10, 20))
        away = Repository("127.0.0.1:1", "team/app")
        await index.record([Sighting(layer(number), away) for number in range(100)])
        seen: list[events.Event] = []
        report = await pruned(index, observer=seen.append)
        assert report.counts == counts(held=10, gone=10, unreachable=100)
        assert not report.complete
        assert list(report.unreachable) == ["127.0.0.1:1"]
        assert len([event for event in seen if isinstance(event, events.Retrying)]) < 50
        assert {layer(number) for number in range(100)} <= await known(index)


async def test_a_registry_in_trouble_costs_no_source(scripted_registry: ScriptedRegistry) -> None:
    """500 now and then is retried; one that stays is counted, and the others are verified."""
    index = MemoryMountIndex()
    await fill(index, scripted_registry, range(40), range(40, 60))
    bad = Digest.of(content(45))
    scripted_registry.play(
        Fault(path=f"*/{bad}", times=None, action=Reply(status=500)),
        *[Fault(path=f"*/{Digest.of(content(n))}", action=Reply(status=503)) for n in range(0, 60, 3) if n != 45],
        Fault(path=f"*/{Digest.of(content(1))}", action=CutBefore()),
    )
    report = await pruned(index)
    assert report.counts == counts(held=40, gone=19, failed=1)
    assert not report.complete
    assert "500" in report.remarks[0]
    assert await known(index) == {*digests(range(40)), bad}


@pytest.mark.parametrize(("status", "most"), [(500, FAILURES_MAX + 8), (429, 8)])
async def test_a_registry_that_only_fails_is_left_alone(
    scripted_registry: ScriptedRegistry, status: int, most: int
) -> None:
    """After some failures in a row, or when it says that it is asked too much."""
    index = MemoryMountIndex()
    await fill(index, scripted_registry, range(200), [])
    scripted_registry.play(Fault(method="HEAD", times=None, action=Reply(status=status)))
    report = await pruned(index)
    assert 0 < report.counts["failed"] <= most
    assert report.counts["unreachable"] == 200 - report.counts["failed"]
    assert await known(index) == digests(range(200))


async def test_many_registries_are_not_all_kept_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that names thousands does not make us hold thousands of clients."""
    monkeypatch.setattr("crossmount.upkeep.verifier.CLIENTS_MAX", 3)
    monkeypatch.setattr(pruning, "PAGE", 5)
    opened: list[str] = []
    closed: list[str] = []

    class Counted(RegistryClient):
        """Counts itself."""

        async def aclose(self) -> None:
            """Count it."""
            closed.append(self.registry)
            await super().aclose()

    def connect(name: str) -> RegistryClient:
        assert len(opened) - len(closed) <= 3 + 5
        opened.append(name)
        return Counted(name, options=PLAIN)

    index = MemoryMountIndex()
    await index.record(
        [Sighting(layer(number), Repository(f"127.0.0.1:{number + 1}", "a")) for number in range(30)]
    )
    report = await pruned(index, connect=connect)
    assert report.counts == counts(unreachable=30)
    assert sorted(opened) == sorted(closed)


class Refusing(CountingLink):
    """A link on which some commands are refused."""

    def __init__(self, link: Any, *names: str) -> None:
        super().__init__(link)
        self.names = names

    async def run(self, commands: Any) -> list[Any]:
        """Refuse, or run."""
        if commands and commands[0][0] in self.names:
            return [IndexRefusedError("no permission")] * len(commands)
        return await super().run(commands)

    async def parts(self) -> Any:
        """Be one."""
        return [self]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a page be of few keys, so that few sources are many pages."""
    monkeypatch.setattr(pruning, "PAGE", 20)
    return 20


async def interrupted(index: MountIndex, registry: ScriptedRegistry, after: int, **details: Any) -> None:
    """Prune until so many sources are verified, and end it there as Ctrl-C does."""
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
async def test_a_prune_that_was_ended_is_gone_on_with(
    kind: str, request: pytest.FixtureRequest, scripted_registry: ScriptedRegistry, small_pages: int
) -> None:
    """Nothing is left out, and only a page is asked for twice."""
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
async def test_a_sample_is_gone_on_with_as_it_was_drawn(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """The two parts together are one sample."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(400), [])
        await interrupted(index, scripted_registry, 60, sample=30)
        assert (await pruned(index, sample=30)).resumed
    assert len(heads(scripted_registry)) < 200  # two samples together would be 204


@pytest.mark.usefixtures("small_pages")
async def test_another_choice_is_another_prune(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """What was ended is gone on with by the same choice alone, and not if it is to begin afresh."""
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
async def test_a_server_that_was_restarted_is_walked_from_its_start(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """Where a walk was means nothing to another process of the server."""
    async with open_index(valkey.url) as index:
        await fill(index, scripted_registry, range(180), [])
        await interrupted(index, scripted_registry, 100)
        with valkey.client() as raw:
            (key,) = raw.scan_iter("crossmount:default:prune:*")
            kept: dict[bytes, bytes] = raw.hgetall(key)
            assert 0 < raw.ttl(key) <= 24 * 3600
            process = next(name for name in kept if name != b"salt")
            raw.hdel(key, process)
            raw.hset(key, b"0" * 40, kept[process])
        report = await pruned(index)
        assert (report.resumed, report.counts["held"]) == (False, 180)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize(
    "text", [b"", b"x", b"7", b"-1 3", b"done", b"9" * 30 + b" 1", b"1 " + b"9" * 30, b"\xff 1"]
)
async def test_nonsense_about_how_far_it_is_is_ignored(
    scripted_registry: ScriptedRegistry, valkey: Server, text: bytes
) -> None:
    """Whoever wrote it: the walk begins at its start."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(180), [])
        await interrupted(index, scripted_registry, 100)
        with valkey.client() as raw:
            (key,) = raw.scan_iter("crossmount:default:prune:*")
            (process,) = (name for name in raw.hkeys(key) if name != b"salt")
            raw.hset(key, process, text)
        report = await pruned(index)
        assert (report.resumed, report.counts["held"]) == (False, 180)


@pytest.mark.usefixtures("small_pages")
async def test_a_server_that_does_not_say_who_it_is_keeps_no_place(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """Without INFO and DBSIZE a prune works, with no total, and begins at its start each time."""
    index = RedisMountIndex(Refusing(async_link(valkey.unix_url), "INFO", "DBSIZE"))
    await fill(index, scripted_registry, range(180), [])
    await interrupted(index, scripted_registry, 100)
    seen: list[events.Event] = []
    report = await pruned(index, observer=seen.append)
    assert (report.resumed, report.counts["held"]) == (False, 180)
    assert {event.total for event in seen if isinstance(event, events.IndexWalked)} == {None}
    await index.aclose()


@pytest.mark.usefixtures("small_pages")
async def test_how_far_it_is_is_told(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """In keys of all that the server holds, never more than that, and never back."""
    async with open_index(valkey.unix_url) as index:
        await fill(index, scripted_registry, range(180), [])
        seen: list[events.Event] = []
        await pruned(index, observer=seen.append)
    walked = [event for event in seen if isinstance(event, events.IndexWalked)]
    (total,) = {event.total for event in walked}
    assert [event.keys for event in walked] == sorted(event.keys for event in walked)
    assert len(walked) > 5
    assert 360 <= (total or 0) == walked[-1].keys


async def test_it_is_gentle_on_the_server(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """SCAN of small pages and short commands: no KEYS, no script but the one that forgets."""
    link = CountingLink(async_link(valkey.unix_url))

    async def parts() -> list[Any]:
        return [link]

    link.parts = parts  # type: ignore[method-assign]
    index = RedisMountIndex(link)
    await fill(index, scripted_registry, range(500), range(500, 520))
    link.runs.clear()
    await pruned(index)
    sent: list[Command] = [command for run in link.runs for command in run]
    names = {str(command[0]) for command in sent}
    assert names <= {
        *("SCAN", "HGETALL", "HGET", "SRANDMEMBER", "HSET", "EXPIRE", "DEL"),
        *("INFO", "DBSIZE", "EVALSHA", "SCRIPT"),
    }
    assert {command[-1] for command in sent if command[0] == "SCAN"} == {PAGE}
    assert max(map(len, link.runs)) <= 2 * 256
    await index.aclose()


async def test_a_pusher_is_told_who_may(restricted: Place) -> None:
    """The access list keeps SCAN from pushers; nothing is asked for before that is known."""
    async with open_index(restricted.url) as index:
        await index.record([Sighting(layer(1), Repository("127.0.0.1:1", "a"))])
        with pytest.raises(IndexRefusedError, match="crossmount-operator"):
            await pruned(index)


@pytest.mark.parametrize("sample", [0, -1, 101, float("nan")])
async def test_a_sample_that_is_none_is_wrong_input(sample: float) -> None:
    """So is a registry that is none, and an index that cannot be listed."""
    with pytest.raises(InvalidInputError, match="percent"):
        await pruned(MemoryMountIndex(), sample=sample)
    with pytest.raises(InvalidInputError, match="not a registry"):
        await pruned(MemoryMountIndex(), registry="no registry")
    with pytest.raises(InvalidInputError, match="cannot be listed"):
        await pruned(NullIndex())


def test_the_blocking_flavour_prunes_too(valkey: Server) -> None:
    """With a blocking index, on a server and in memory."""
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
