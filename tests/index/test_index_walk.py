"""Walking through all keys, whatever else lies on the server."""

from contextlib import aclosing

import pytest
import redis

from crossmount.errors import IndexRefusedError
from crossmount.index import Keys, open_index
from crossmount.index.blocking import open_index as open_blocking
from crossmount.index.blocking import threaded
from crossmount.index.connection import async_link
from crossmount.index.served import server_of
from crossmount.index.walk import walk
from support.index_kit import layer
from support.servers import Server, StartServer

KEYS = Keys("walked")


@pytest.mark.parametrize("flavour", ["async", "blocking"])
async def test_all_matching_keys_are_walked(valkey: Server, flavour: str) -> None:
    """Keys of the namespace are told, in many small steps, and no other key."""
    wanted = {KEYS.lease(layer(i), "r.example").encode() for i in range(300)}
    with redis.Redis.from_url(valkey.unix_url) as raw:
        raw.mset(dict.fromkeys([*wanted, *(f"other:{i}" for i in range(300))], "x"))
        for key in wanted:
            raw.expire(key, 600)
    index = open_index(valkey.url) if flavour == "async" else threaded(open_blocking(valkey.url))
    server = server_of(index)
    assert server is not None
    assert {key async for key in walk(server.link, KEYS.all_leases(), count=10)} == wanted
    await server.link.aclose()


async def test_a_walk_may_end_early(valkey: Server) -> None:
    """Whoever has seen enough leaves."""
    with redis.Redis.from_url(valkey.unix_url) as raw:
        raw.mset({f"k{i}": "x" for i in range(100)})
    link = async_link(valkey.url)
    async with aclosing(walk(link, "k*", count=10)) as keys:
        async for key in keys:
            assert key.startswith(b"k")
            break
    await link.aclose()


async def test_a_walk_that_is_not_allowed_is_told(start_server: StartServer) -> None:
    """A user who may not SCAN gets the server's own words."""
    server = start_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "ci", "on", ">secret", "~*", "+@all", "-scan")
    link = async_link(f"redis://ci:secret@127.0.0.1:{server.port}/0")
    with pytest.raises(IndexRefusedError, match="ermission"):
        assert [key async for key in walk(link, "*")]
    await link.aclose()
