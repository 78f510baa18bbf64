"""A user's own client of redis-py in place of a URL."""

import socket
from typing import Any

import pytest
import redis.asyncio
from redis.credentials import UsernamePasswordCredentialProvider

import crossmount
import redis
from crossmount import Digest, GuardedIndex, InvalidInputError, Repository
from crossmount import asyncio as aio
from support.servers import Server

LAYER = Digest.of(b"layer")
HOLDER, OTHER = Repository("r.example", "team/app"), Repository("r.example", "team/other")


@pytest.mark.parametrize("more", [{}, {"decode_responses": True}, {"protocol": 3}, {"protocol": 2}, {"db": 1}])
@pytest.mark.parametrize("as_pool", [False, True])
def test_a_client_is_taken_and_stays_open(valkey: Server, more: dict[str, Any], as_pool: bool) -> None:
    """An index works where a client points, whatever its way to read replies, and the client is not closed."""
    client = redis.Redis(unix_socket_path=valkey.unix_url.removeprefix("unix://").partition("?")[0], **more)
    given = client.connection_pool if as_pool else client
    for index in (crossmount.open_index(given), crossmount.RedisMountIndex(given)):
        with index:
            index.add_source(LAYER, HOLDER)
            assert index.sources(LAYER, OTHER) == (HOLDER,)
    assert client.dbsize() > 0
    client.close()


async def test_a_client_of_redis_asyncio_is_taken(valkey: Server) -> None:
    """The asynchronous flavour takes the asynchronous client or its pool, and leaves it open."""
    path = valkey.unix_url.removeprefix("unix://").partition("?")[0]
    client = redis.asyncio.Redis(unix_socket_path=path)
    for given in (client, client.connection_pool):
        async with aio.open_index(given) as index:
            await index.add_source(LAYER, HOLDER)
            assert await index.sources(LAYER, OTHER) == (HOLDER,)
        async with aio.RedisMountIndex(given) as other:
            assert await other.must_mount(LAYER) is False
    assert await client.dbsize() > 0
    await client.aclose()


def test_a_silent_server_delays_no_longer_than_with_a_url() -> None:
    """A client without time-outs does not make a guarded index wait: the connections are our own."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = redis.Redis(port=silent.getsockname()[1], password="hush-hush")
        guarded = GuardedIndex(crossmount.open_index(client))
        assert guarded.sources(LAYER, OTHER) == ()
    assert "127" in str(guarded.reason) or "localhost" in str(guarded.reason)
    assert "hush" not in str(guarded.reason)


@pytest.mark.parametrize("given", [7, b"redis://x", object(), redis.Redis, redis.asyncio.Redis(), ["redis://x"]])
def test_other_kinds_are_told_what_to_give(given: Any) -> None:
    """Anything else is refused by its kind, with what to give, in both flavours."""
    for make in (crossmount.open_index, crossmount.RedisMountIndex):
        with pytest.raises(InvalidInputError, match=f"{type(given).__name__}: give open_index a URL"):
            make(given)
    blocking: Any = redis.Redis() if isinstance(given, redis.asyncio.Redis) else given
    with pytest.raises(InvalidInputError, match="give open_index a URL"):
        aio.open_index(blocking)


def test_a_client_of_sentinels_is_told_the_url() -> None:
    """A pool without a single server is refused, and so are credentials beside a client."""
    sentinels: Any = redis.sentinel.Sentinel([("127.0.0.1", 1)])  # type: ignore[no-untyped-call]
    with pytest.raises(InvalidInputError, match="redis\\+sentinel"):
        crossmount.open_index(sentinels.master_for("main"))
    with pytest.raises(InvalidInputError, match="one of the two"):
        crossmount.open_index(redis.Redis(), credentials=UsernamePasswordCredentialProvider("a", "b"))
