"""Commands as bytes, and connections after calls that ended early."""

import signal
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

import redis
from crossmount._blocking import run_now
from crossmount.redis.pipeline import TIMEOUT_SECONDS, exchange_each, pack_slowly, packed
from crossmount.redis.redis_py import Pool
from support.links import async_link, blocking_link, blocking_link_to
from support.servers import Server

SILENT = 40
"""So many silent servers that one after another would take far longer than a busy machine delays all at once."""

arguments = st.text() | st.binary() | st.integers()
commands = st.lists(
    st.tuples(st.sampled_from(["GET", "EVALSHA"]), arguments, arguments) | st.tuples(st.just("PING"))
)


@settings(deadline=None)
@given(commands)
def test_commands_are_packed_as_redis_py_packs_them(wanted: list[tuple[str | bytes | int, ...]]) -> None:
    """The packed commands are byte for byte those of redis-py's own packer, with hiredis and without."""
    connection: Any = redis.Connection()  # type: ignore[no-untyped-call]  # redis-py's own gap
    assert packed(wanted) == b"".join(connection.pack_commands(wanted)) == b"".join(map(pack_slowly, wanted))


async def test_texts_of_any_alphabet_arrive(redis_server: Server) -> None:
    """Lengths are of bytes, not of characters."""
    link = async_link(redis_server.url)
    texts = ["é", "a\r\nb", "", "日本"]
    assert await link.run([("ECHO", text) for text in texts]) == [text.encode() for text in texts]
    await link.aclose()


async def test_many_commands_in_one_exchange(valkey: Server) -> None:
    """An exchange far larger than any buffer comes back whole, in order, in both flavours."""
    echoes = [("ECHO", f"{number}:" + "x" * 1000) for number in range(2000)]
    expected = [text.encode() for _, text in echoes]
    one, other = async_link(valkey.unix_url), blocking_link(valkey.unix_url)
    assert await one.run(echoes) == expected
    assert run_now(other.run(echoes)) == expected
    await one.aclose()
    await other.aclose()


def test_silent_servers_share_one_time_out(valkey: Server) -> None:
    """Several silent servers take as long as one, new or connected, and the others' replies are all read."""
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(SILENT)]
        ports = [valkey.port, *(each.getsockname()[1] for each in silent), valkey.port]
        pools = [made_pool(port) for port in ports]
        for _ in range(2):
            started = time.monotonic()
            outcomes = exchange_each([(pool, [("ECHO", "x" * 100_000)] * 30) for pool in pools])
            assert time.monotonic() - started < SILENT * TIMEOUT_SECONDS / 2
            assert outcomes[0] == outcomes[-1] == [b"x" * 100_000] * 30
            assert [type(each) for each in outcomes[1:-1]] == [RedisTimeoutError] * SILENT


def test_servers_are_connected_to_at_once() -> None:
    """Servers that accept and do not answer the login take as long as one."""
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(SILENT)]
        pools = [made_pool(each.getsockname()[1], password="x") for each in silent]
        started = time.monotonic()
        outcomes = exchange_each([(pool, [("PING",)]) for pool in pools])
        assert time.monotonic() - started < SILENT * TIMEOUT_SECONDS / 2
        assert all(isinstance(each, RedisTimeoutError) for each in outcomes)


@pytest.mark.parametrize("ending", ["disconnect", "retire"])
def test_a_connection_in_use_at_a_close_is_closed_at_its_release(valkey: Server, ending: str) -> None:
    """A call that outlives the close of its pool, as one that lost a race, leaves no connection open."""
    pool = made_pool(valkey.port)
    used = pool.get_connection()
    getattr(pool, ending)()
    used.connect()
    pool.release(used)
    assert used._sock is None
    kept = pool.get_connection()
    pool.release(kept)
    assert kept._sock is not None
    pool.disconnect()
    assert kept._sock is None


def made_pool(port: int, **options: Any) -> Pool:
    """Make a pool with the client's time-outs, without a retry."""
    return Pool(
        host="127.0.0.1",
        port=port,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **options,
    )


def test_an_interrupted_call_leaves_no_reply_behind(valkey: Server) -> None:
    """After a Ctrl-C in the middle of a call the next call reads its own reply."""
    client = redis.Redis.from_url(valkey.unix_url, socket_timeout=20)
    link = blocking_link_to(client)
    caller = threading.main_thread().ident
    assert caller is not None

    def interrupt_once_it_waits() -> None:
        with redis.Redis.from_url(valkey.unix_url) as watching:
            while not cast("dict[str, int]", watching.info("clients"))["blocked_clients"]:
                pass
        signal.pthread_kill(caller, signal.SIGINT)

    watcher = threading.Thread(target=interrupt_once_it_waits)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        run_now(link.run([("ECHO", "early"), ("BLPOP", "nothing", 10), ("ECHO", "late")]))
    watcher.join()
    assert run_now(link.run([("ECHO", "new")])) == [b"new"]
    run_now(link.aclose())
