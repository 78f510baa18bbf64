"""What accounts may not read, as an index remembers it."""

from collections.abc import AsyncIterator

import pytest

from crossmount._expiring import ExpiringSet
from crossmount.index import GuardedIndex, Keys, MemoryMountIndex, RedisMountIndex
from crossmount.index.adapt import FourMethodIndex
from crossmount.index.blocking import DrivenIndex, threaded
from crossmount.index.blocking import MemoryMountIndex as BlockingMemoryIndex
from crossmount.index.exclusions import DENIAL_SECONDS, DENIALS_MAX, look_up_excluding
from crossmount.index.protocol import MountIndex
from crossmount.oci import Repository
from crossmount.registry.credentials.authfiles import Credential, account_digest
from support.index_kit import Clock, CountingLink, layer, repo
from support.links import async_link
from support.servers import Server

ONE = layer(1)
A, B, DEST = repo("team/a"), repo("team/b"), repo("team/dest")
ELSEWHERE = repo("other.example/team/a")
ME, YOU = "0a1b2c", "3d4e5f"


@pytest.fixture(params=["memory", "over another", "valkey", "redis7", "blocking"])
async def index(request: pytest.FixtureRequest) -> AsyncIterator[MountIndex]:
    """Give each kind of index that remembers denials."""
    match request.param:
        case "memory":
            yield GuardedIndex(MemoryMountIndex())
        case "over another":
            yield MemoryMountIndex(MemoryMountIndex())
        case "blocking":
            made = threaded(BlockingMemoryIndex())
            assert isinstance(made, MountIndex)
            yield made
        case name:
            async with RedisMountIndex(async_link(request.getfixturevalue(name).url)) as opened:
                yield GuardedIndex(opened)


async def test_a_denial_is_remembered_for_its_account_alone(index: MountIndex) -> None:
    """What one account may not read is known to a look-up for that account, and to no other."""
    await index.add_source(ONE, A)
    await index.record_denied("r.example", ME, [A])  # type: ignore[attr-defined]  # it remembers denials
    found = await look_up_excluding(index, [ONE], DEST, account=ME)
    assert found.denied == {A}
    assert found.of(ONE).sources == (A,)
    assert (await look_up_excluding(index, [ONE], DEST, account=YOU)).denied == frozenset()
    assert (await look_up_excluding(index, [ONE], DEST, account=None)).denied == frozenset()
    assert (await look_up_excluding(index, [ONE], ELSEWHERE, account=ME)).denied == frozenset()


async def test_denials_are_read_in_the_same_round_trip(valkey: Server) -> None:
    """A look-up for an account is one round trip."""
    link = CountingLink(async_link(valkey.url))
    async with RedisMountIndex(link) as index:
        await index.record_denied("r.example", ME, [A, B])
        link.runs.clear()
        assert (await index.look_up([ONE], DEST, account=ME)).denied == {A, B}
        assert len(link.runs) == 1


async def test_denials_end_an_hour_after_the_first_and_are_bounded(valkey: Server) -> None:
    """The set lives for an hour at most, whatever is added, and has at most so many members."""
    key = Keys().denied("r.example", ME)
    async with RedisMountIndex(async_link(valkey.url)) as index:
        await index.record_denied("r.example", ME, [A])
        with valkey.client() as client:
            client.expire(key, 100)
            await index.record_denied("r.example", ME, [repo(f"team/{n}") for n in range(DENIALS_MAX)])
            assert 95 < client.ttl(key) <= 100
            assert client.scard(key) == DENIALS_MAX


@pytest.mark.parametrize("life", [None, 2 * DENIAL_SECONDS])
async def test_denials_that_live_longer_than_ours_are_ignored(valkey: Server, life: int | None) -> None:
    """A set without an end, or with a later one than ours, hides no source, and is given an end later."""
    key = Keys().denied("r.example", ME)
    async with RedisMountIndex(async_link(valkey.url)) as index:
        with valkey.client() as client:
            client.sadd(key, "team/a", "../x", "UPPER")
            if life is not None:
                client.expire(key, life)
            assert (await index.look_up([ONE], DEST, account=ME)).denied == frozenset()
            await index.record_denied("r.example", ME, [B])
            assert 0 < client.ttl(key) <= DENIAL_SECONDS
        assert (await index.look_up([ONE], DEST, account=ME)).denied == {A, B}


async def test_a_value_of_another_type_hides_nothing(valkey: Server) -> None:
    """A key of another type counts as missing, and the layers are known all the same."""
    async with RedisMountIndex(async_link(valkey.url)) as index:
        await index.add_source(ONE, A)
        with valkey.client() as client:
            client.set(Keys().denied("r.example", ME), "x", ex=60)
        found = await index.look_up([ONE], DEST, account=ME)
        assert (found.denied, found.of(ONE).sources) == (frozenset(), (A,))


@pytest.mark.parametrize("account", ["", "*", "a:b", "{x}", "A"])
async def test_only_a_digest_names_an_account(valkey: Server, account: str) -> None:
    """Text that is no digest makes no key."""
    async with RedisMountIndex(async_link(valkey.url)) as index:
        await index.record_denied("r.example", account, [A])
        assert (await index.look_up([ONE], DEST, account=account)).denied == frozenset()
        with valkey.client() as client:
            assert list(client.scan_iter()) == []


def test_one_process_remembers_so_many_for_an_hour() -> None:
    """The memory of one process is bounded, and forgets after an hour."""
    clock = Clock(0.0)
    here = ExpiringSet[tuple[str, Repository]](DENIAL_SECONDS, limit=2, clock=clock)
    for number, place in enumerate((A, B, DEST)):
        clock.now = float(number)
        here.add((ME, place))
    clock.now = 3.0
    assert set(here) == {(ME, B), (ME, DEST)}
    clock.now = DENIAL_SECONDS + 1.5
    assert set(here) == {(ME, DEST)}


async def test_an_index_that_remembers_none_is_used_as_before() -> None:
    """An index of four methods, or a blocking one of a user's own, answers without denials."""
    index = GuardedIndex(FourMethodIndex(MemoryMountIndex()))
    await index.add_source(ONE, A)
    await index.record_denied("r.example", ME, [A])
    found = await index.look_up([ONE], DEST, account=ME)
    assert (found.denied, found.of(ONE).sources) == (frozenset(), (A,))
    assert issubclass(BlockingMemoryIndex, DrivenIndex)


def test_an_accounts_digest_depends_on_all_of_it_and_is_short() -> None:
    """The digest differs by registry, user and secret, and is too short to confirm a guess."""
    one = Credential("ci", "pw", origin="x")
    digests = {
        account_digest("r.example", one),
        account_digest("other.example", one),
        account_digest("r.example", Credential("ci", "pw2", origin="x")),
        account_digest("r.example", Credential("me", "pw", origin="x")),
        account_digest("r.example", None),
    }
    assert len(digests) == 5
    assert {len(digest) for digest in digests} == {6}
    assert account_digest("r.example", Credential("ci", "pw", origin="y")) in digests
