"""Counts of looked-up and known layers."""

import redis
from crossmount.index import Keys, RedisMountIndex, Sighting
from crossmount.index.keys import STATS_SECONDS, day, days
from crossmount.index.look_up import HitCounter
from crossmount.index.protocol import LayerKnowledge
from support.index_kit import Clock, CountingLink, layer, repo
from support.servers import Server

KEYS = Keys()
NOON = 1_795_521_600.0  # 2026-11-24, 12:00 UTC
A, DEST = repo("team/a"), repo("team/dest")


def stats(server: Server, name: str = "2026-11-24") -> dict[bytes, bytes]:
    """Return the counts of a day."""
    with server.client() as client:
        found: dict[bytes, bytes] = client.hgetall(KEYS.stats(name))
        return found


async def test_counts_are_sent_with_the_next_record(valkey: Server, link: CountingLink) -> None:
    """A look-up writes nothing; the next record sends the counts in the same round trip."""
    index = RedisMountIndex(link, keys=KEYS, clock=Clock(NOON))
    await index.record([Sighting(layer(1), A), Sighting(layer(2), DEST)])
    link.runs.clear()
    await index.look_up([layer(1), layer(2), layer(3)], DEST)
    assert stats(valkey) == {}
    await index.record([Sighting(layer(3), DEST)])
    await index.record([Sighting(layer(3), DEST)])
    loads = [run for run in link.runs if any(getattr(command, "carries_source", False) for command in run)]
    assert [len(run) for run in link.runs if run not in loads] == [11, 3, 2]
    assert stats(valkey) == {b"asked": b"3", b"known": b"2"}


async def test_counts_add_up_by_day_and_expire(valkey: Server, link: CountingLink) -> None:
    """Many pushes count in one hash a day, which expires after two weeks."""
    clock = Clock(NOON)
    one, other = (RedisMountIndex(link, keys=KEYS, clock=clock) for _ in range(2))
    for index in (one, other, one):
        await index.look_up([layer(1)], DEST)
        await index.record([Sighting(layer(1), A)])
    clock.now += 24 * 3600
    await one.look_up([layer(1)], DEST)
    await one.record([Sighting(layer(1), A)])
    assert stats(valkey) == {b"asked": b"3", b"known": b"2"}
    assert stats(valkey, "2026-11-25") == {b"asked": b"1", b"known": b"1"}
    with valkey.client() as client:
        assert STATS_SECONDS - 60 < client.ttl(KEYS.stats("2026-11-24")) <= STATS_SECONDS


async def test_a_count_that_is_refused_costs_nothing(valkey: Server, link: CountingLink) -> None:
    """A value of another client in place of the counts does not stop the record."""
    with redis.Redis.from_url(valkey.unix_url) as raw:
        raw.set(KEYS.stats("2026-11-24"), "x", ex=600)
    index = RedisMountIndex(link, keys=KEYS, clock=Clock(NOON))
    await index.look_up([layer(1)], DEST)
    await index.record([Sighting(layer(1), A)])
    assert await index.sources(layer(1), DEST) == (A,)


def test_unsent_counts_do_not_grow() -> None:
    """A client that never records keeps the counts of its last thousand look-ups."""
    tally = HitCounter()
    for _ in range(5000):
        tally.add([LayerKnowledge(in_dest=True), LayerKnowledge(elsewhere=("r.example",))])
    assert tally.take() == (2000, 1000)
    assert tally.take() == (0, 0)
    tally.add([])
    assert tally.take() == (0, 0)


def test_days_are_those_that_are_kept() -> None:
    """The days of two weeks are listed, newest first, with the day on which they began."""
    assert day(NOON) == "2026-11-24"
    assert days(NOON)[0] == "2026-11-24"
    assert days(NOON)[-1] == "2026-11-10"
    assert len(days(NOON)) == 15
