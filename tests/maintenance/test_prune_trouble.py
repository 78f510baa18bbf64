"""A prune removes no source because a registry hides it, refuses, fails or disappears."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module

import pytest

from crossmount import events
from crossmount.asyncio import MemoryMountIndex, Repository, open_index
from crossmount.index import Keys, RedisMountIndex, Sighting
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.maintenance.verifier import FAILURES_MAX, Verifier
from crossmount.oci import Digest
from crossmount.registry import RegistryClient
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.given import GivenCredentials
from crossmount.testing import BasicAuth, CutBefore, Fault, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from crossmount.testing.options import Grant
from support.index_kit import layer, repo
from support.links import async_link
from support.prunes import content, counts, digests, fill, known, pruned
from support.registry_kit import PLAIN
from support.servers import Server

pruning = import_module("crossmount.maintenance.prune")  # the package has a function of the same name


@asynccontextmanager
async def private(
    **grants: tuple[Grant, ...],
) -> AsyncIterator[tuple[ScriptedRegistry, Callable[[str], RegistryClient]]]:
    """Start a registry where bob has a password, and return what makes clients with his credentials."""
    auth = TokenAuth(users={"bob": "pw"}, grants=grants) if grants else BasicAuth(users={"bob": "pw"})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        bob = GivenCredentials(registry.address, Credential("bob", "pw", origin="a test"))
        yield registry, lambda name: RegistryClient(name, options=PLAIN, credentials=bob)


async def test_hidden_sources_stay() -> None:
    """A 404 for a repository that the account may not read removes nothing."""
    async with private() as (registry, connect):
        index = MemoryMountIndex()
        await fill(index, registry, [], [1, 2, 3], "ann/secret")
        await fill(index, registry, [4], [5], "team/app")
        registry.play(Fault(path="/v2/ann/secret/*", times=None, action=Reply(status=404, code="NAME_UNKNOWN")))
        report = await pruned(index, connect=connect)
        assert report.counts == counts(held=1, gone=1, unseen=3)
        assert report.complete
        assert await known(index) == digests([1, 2, 3, 4])


async def test_a_web_server_that_replaced_a_registry_removes_no_source(
    scripted_registry: ScriptedRegistry,
) -> None:
    """If a web server that is not a registry answers 404, nothing is removed."""
    index = MemoryMountIndex()
    await fill(index, scripted_registry, [], range(20))
    scripted_registry.play(Fault(times=None, action=Reply(status=404)))
    report = await pruned(index)
    assert report.counts == counts(unreachable=20)
    assert await known(index) == digests(range(20))
    assert len(scripted_registry.requests) == 1


async def test_a_registry_that_disappears_loses_no_source(scripted_registry: ScriptedRegistry) -> None:
    """If the registry does not answer a ping after its 404s, nothing is removed."""
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


async def test_unreadable_sources_stay_and_are_asked_for_once() -> None:
    """A source that the account may not read stays, and its repository is asked once."""
    async with private(bob=(Grant("team/*"),)) as (registry, connect):
        index = MemoryMountIndex()
        await fill(index, registry, [], range(50), "ann/secret")
        await fill(index, registry, [50], [51], "team/app")
        report = await pruned(index, connect=connect, requests=1)
        assert report.counts == counts(held=1, gone=1, denied=50)
        assert report.complete
        assert await known(index) == digests(range(51))
        assert len({each.path for each in registry.matching(path="/v2/ann/secret/blobs/*")}) == 1


async def test_a_registry_that_does_not_answer_is_not_asked_again(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """A registry that does not answer is reported, its sources stay, and other registries are pruned."""
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


async def test_a_failing_registry_loses_no_source(scripted_registry: ScriptedRegistry) -> None:
    """Status 500 is retried; a permanent failure is counted, and the other sources are verified."""
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
async def test_a_registry_that_only_fails_is_not_asked_again(
    scripted_registry: ScriptedRegistry, status: int, most: int
) -> None:
    """A registry is not asked again after several failures in a row, or after 429."""
    index = MemoryMountIndex()
    await fill(index, scripted_registry, range(200), [])
    scripted_registry.play(Fault(method="HEAD", times=None, action=Reply(status=status)))
    report = await pruned(index)
    assert 0 < report.counts["failed"] <= most
    assert report.counts["unreachable"] == 200 - report.counts["failed"]
    assert await known(index) == digests(range(200))


async def test_open_clients_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of open clients is limited, however many registries the index names."""
    monkeypatch.setattr("crossmount.maintenance.verifier.CLIENTS_MAX", 3)
    monkeypatch.setattr(pruning, "PAGE", 5)
    opened: list[str] = []
    closed: list[str] = []

    class Counted(RegistryClient):
        """A client that counts how many are open."""

        async def aclose(self) -> None:
            """Count the close."""
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


@pytest.mark.parametrize("back", [True, False])
async def test_sources_that_were_recorded_again_stay(
    scripted_registry: ScriptedRegistry, valkey: Server, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """A source that was recorded again after its 404 is verified again, and removed only if it is still gone."""
    answers = Verifier.answers
    async with (
        RedisMountIndex(async_link(valkey.unix_url), ttl=TTL_SECONDS - 100) as before,
        open_index(valkey.unix_url) as index,
    ):
        await fill(before, scripted_registry, [], [1, 2, 3])

        async def push_first(verifier: Verifier, registry: str) -> bool:
            await fill(index, scripted_registry, [1] if back else [], [] if back else [1])
            return await answers(verifier, registry)

        monkeypatch.setattr(Verifier, "answers", push_first)
        report = await pruned(index)
        assert report.counts == (counts(held=1, gone=2) if back else counts(gone=3))
        assert await known(index) == digests([1] if back else [])


async def test_half_evicted_layers_are_mended(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """Flags forget a registry whose sources were evicted, and name one whose sources were kept; both once."""
    keys, home, other = Keys(), repo("home.example/a"), repo("other.example/a")
    one, two = digests([1, 2])
    async with open_index(valkey.unix_url) as index:
        await index.record([Sighting(one, home), Sighting(one, other), Sighting(two, home), Sighting(two, other)])
        with valkey.client() as raw:
            raw.delete(keys.flags(one), keys.sources(two, "other.example"))
            assert await index.locations(one) == (home, other)  # found although half of it is gone
            report = await pruned(index, registry=scripted_registry.address)
            assert report.mended == 2
            assert set(raw.hkeys(keys.flags(one))) == {b"@home.example", b"@other.example"}
            assert b"@other.example" not in raw.hkeys(keys.flags(two))
            assert (await pruned(index, registry=scripted_registry.address)).mended == 0
        assert (await index.look_up([two], repo("x.example/y"))).of(two).elsewhere == ("home.example",)
