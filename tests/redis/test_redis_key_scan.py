"""Scans of the keys of a server that has other keys too."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

import redis
from crossmount.index import Keys, open_index
from crossmount.index.blocking import open_index as open_blocking
from crossmount.index.blocking import threaded
from crossmount.index.protocol import backing_server
from crossmount.redis.execute import KeyPage, ScanForbiddenError, scan_keys, scan_pages
from crossmount.redis.link import Link
from crossmount.redis.replies import Command
from support.index_kit import CountingLink, layer
from support.links import async_link
from support.servers import Server, StartServer

KEYS = Keys("walked")


@pytest.mark.parametrize("flavour", ["async", "blocking"])
async def test_all_matching_keys_are_walked(valkey: Server, flavour: str) -> None:
    """A scan yields the keys of the namespace, in many pages, and no other key."""
    wanted = {KEYS.lease(layer(i), "r.example").encode() for i in range(300)}
    with redis.Redis.from_url(valkey.unix_url) as raw:
        raw.mset(dict.fromkeys([*wanted, *(f"other:{i}" for i in range(300))], "x"))
        for key in wanted:
            raw.expire(key, 600)
    index = open_index(valkey.url) if flavour == "async" else threaded(open_blocking(valkey.url))
    server = backing_server(index)
    assert server is not None
    assert {key async for key in scan_keys(server.link, KEYS.all_leases(), count=10)} == wanted
    await server.link.aclose()


async def test_a_scan_may_end_early(valkey: Server) -> None:
    """A scan can be closed before its end."""
    with redis.Redis.from_url(valkey.unix_url) as raw:
        raw.mset({f"k{i}": "x" for i in range(100)})
    link = async_link(valkey.url)
    async with aclosing(scan_keys(link, "k*", count=10)) as keys:
        async for key in keys:
            assert key.startswith(b"k")
            break
    await link.aclose()


async def test_a_walk_that_is_not_allowed_is_told(start_server: StartServer) -> None:
    """If the user may not SCAN, the error has the server's words and names a user who may."""
    server = start_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "ci", "on", ">secret", "~*", "+@all", "-scan")
    link = async_link(f"redis://ci:secret@127.0.0.1:{server.port}/0")
    with pytest.raises(ScanForbiddenError, match=r"ermission.*crossmount-operator in deploy/redis"):
        assert [key async for key in scan_keys(link, "*")]
    await link.aclose()


async def test_a_walk_can_be_gone_on_with(valkey: Server) -> None:
    """Two scans, the second from the first one's cursor, yield all keys, and no page is large."""
    wanted = {b"k%d" % number for number in range(500)}
    with redis.Redis.from_url(valkey.unix_url) as raw:
        raw.mset(dict.fromkeys(wanted, "x"))
    link = async_link(valkey.url)
    first = []
    async with aclosing(scan_pages(link, "k*", count=50)) as some:
        async for page in some:
            first.append(page)
            if len(first) == 3:
                break
    rest = [page async for page in scan_pages(link, "k*", count=50, cursor=first[-1].cursor)]
    assert rest[-1].cursor == 0
    assert {key for page in (*first, *rest) for key in page.keys} == wanted
    assert max(len(page.keys) for page in (*first, *rest)) < 100
    await link.aclose()


class Slow:
    """A link whose server sends two pages, the second after some seconds."""

    where = "a slow server"

    def __init__(self, *took: float) -> None:
        self.took = iter(took)
        self.now = 0.0
        self.slept: list[float] = []

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Let time pass."""
        del commands
        self.now += next(self.took)
        return [(1 if self.now < 100 else 0, [])]

    async def servers(self) -> "Sequence[Link]":
        """Be one."""
        return [self]

    async def aclose(self) -> None:
        """Do nothing."""

    async def sleep(self, seconds: float) -> None:
        """Record the pause."""
        self.slept.append(seconds)


async def test_a_busy_server_gets_pauses() -> None:
    """A scan pauses after a page that took long, compared with the others; a distant server is not slow."""
    slow = Slow(0.001, 0.015, 0.5, 3.0, 0.001, 100)
    assert [page async for page in scan_pages(slow, "*", clock=lambda: slow.now, sleep=slow.sleep)] == [
        *[KeyPage((), 1)] * 5,
        KeyPage((), 0),
    ]
    assert slow.slept == pytest.approx([0.5, 1.0])
    far = Slow(0.2, 0.21, 0.2, 100)
    assert len([page async for page in scan_pages(far, "*", clock=lambda: far.now, sleep=far.sleep)]) == 4
    assert far.slept == []


async def test_a_scan_is_many_short_commands(valkey: Server) -> None:
    """A scan uses SCAN only, so it blocks the server for one page at a time."""
    link = CountingLink(async_link(valkey.url))
    with redis.Redis.from_url(valkey.unix_url) as raw:
        raw.mset({f"k{number}": "x" for number in range(100)})
    assert len([page async for page in scan_pages(link, "k*", count=10)]) >= 5
    assert {(command[0], command[-1]) for run in link.runs for command in run} == {("SCAN", 10)}
    await link.aclose()
