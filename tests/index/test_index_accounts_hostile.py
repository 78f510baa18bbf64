"""Accounts that somebody else wrote, or wrote wrongly: they are not shown, not summed, and make way for ours."""

from typing import Any

import pytest

import redis
from crossmount.index import Keys, RedisMountIndex, accounts
from crossmount.savings import LayerIncrement, Tally
from support.index_kit import CountingLink, layer
from support.savings import FIRST, entry, week, written

KEYS = Keys()


HOSTILE_ROWS: dict[Any, Any] = {
    b"r.example/team": b"x" * 40,
    b"r.example/negative": b"0 -1" + b" 0" * 13,
    b"r.example/huge": b"0 " + b"9" * 16 + b" 0" * 13,
    b"r.example/short": b"0 1 2",
    b"r.example/long": b"0" + b" 1" * 40,
    b"r.example/float": b"0 1.5" + b" 0" * 13,
    b"r.example/inf": b"inf" + b" 1" * 14,
    b"R.EXAMPLE/team": b"0" + b" 1" * 14,
    b"r.example/a/b": b"0" + b" 1" * 14,
    b"r.example/<script>": b"0" + b" 1" * 14,
    b"*/team": b"0" + b" 1" * 14,
    b"\xff/\x00": b"0" + b" 1" * 14,
    b"": b"",
}
HOSTILE_LAYERS: dict[Any, float] = {
    b"mounted:7:sha256:0": 7.0,
    b"mounted:7:%b" % layer(1).encode(): float("inf"),
    b"gone:7:%b" % layer(1).encode(): -7.0,
    b"stolen:7:%b" % layer(1).encode(): 7.0,
    b"mounted:0:%b" % layer(1).encode(): 7.0,
    b"mounted:-7:%b" % layer(1).encode(): 7.0,
    b"mounted:1:%b" % layer(1).encode(): 1e18,
    b"mounted:%b:%b" % (b"9" * 30, layer(1).encode()): 7.0,
    b"\xff": 7.0,
}


async def test_hostile_fields_are_ignored(link: CountingLink, raw: "redis.Redis") -> None:
    """Text, negative and huge numbers are neither shown nor summed, by the reader and by the script."""
    raw.hset(KEYS.savings(FIRST), mapping=HOSTILE_ROWS)
    raw.zadd(KEYS.savings_layers(FIRST), HOSTILE_LAYERS)
    index = RedisMountIndex(link)
    for key in (KEYS.savings(FIRST), KEYS.savings_layers(FIRST)):
        raw.expire(key, 60)
    empty = await week(index)
    assert (empty.total, empty.most_mounted, empty.most_uploaded_again) == (Tally(), [], [])
    good = LayerIncrement(layer(2), 7, "mounted")
    await written(index, entry(1, blobs_mounted=1, layers=[good]))
    savings = await week(index)
    assert savings.by_row == {("r.example", "team"): Tally(blobs_mounted=1)}
    assert [each.digest for each in savings.most_mounted] == [layer(2)]


async def test_hostile_rows_make_way_first(
    link: CountingLink, raw: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows are full of what is not ours, ours take their place."""
    monkeypatch.setattr(accounts, "ROWS_MAX", 6)
    raw.hset(KEYS.savings(FIRST), mapping=HOSTILE_ROWS)
    index = RedisMountIndex(link)
    for number in range(6):
        await written(index, entry(number, prefix=f"p{number}", bytes_mounted=1 + number))
    assert (await week(index)).total == Tally(bytes_mounted=21)


@pytest.mark.parametrize("count", [2, 1000])
async def test_rows_of_a_stranger_make_way_however_large(
    link: CountingLink, raw: "redis.Redis", monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Rows with numbers beyond all bounds, or rows without number, cost no push its account, and do not stay."""
    monkeypatch.setattr(accounts, "ROWS_MAX", 2)
    monkeypatch.setattr(accounts, "OTHERS_MAX", 1)
    huge = b"9" * 400 + b" 1" * 14
    raw.hset(KEYS.savings(FIRST), mapping={b"r.example/x%d" % number: huge for number in range(count)})
    index = RedisMountIndex(link)
    for number in range(2):
        await written(index, entry(number, prefix=f"p{number}", bytes_mounted=1 + number))
    assert (await week(index)).total == Tally(bytes_mounted=3)
    assert raw.hlen(KEYS.savings(FIRST)) <= 3


async def test_sums_do_not_overflow(link: CountingLink) -> None:
    """A sum stays at what is exact."""
    index = RedisMountIndex(link)
    await written(index, entry(1, bytes_mounted=999_999_999_999_990))
    await written(index, entry(2, bytes_mounted=999_999_999_999_990))
    assert (await week(index)).total.bytes_mounted == 999_999_999_999_999


async def test_values_of_another_type_are_empty_days(link: CountingLink, raw: "redis.Redis") -> None:
    """Keys of other clients in place of the accounts read as days without pushes."""
    raw.set(KEYS.savings(FIRST), "x", ex=60)
    raw.set(KEYS.savings_layers(FIRST), "x", ex=60)
    assert (await week(RedisMountIndex(link))).total == Tally()
