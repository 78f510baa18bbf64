"""More callers than connections, with a healthy server and with a silent one."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import pytest

from crossmount.index import GuardedIndex, Knowledge, RedisMountIndex
from crossmount.redis import client, link
from crossmount.redis.call import CALL_SECONDS, CALLS_AT_FIRST
from support.index_kit import layer, repo
from support.links import async_link, blocking_link

DEST = repo("team/dest")


@contextmanager
def slow_server(seconds: float) -> Iterator[str]:
    """Run a server that answers each command with an empty list after some seconds; yield its URL."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                ended.wait(seconds)
                connection.sendall(b"*0\r\n" * data.count(b"*"))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("guarded", ["bare", "guarded", "long-running"])
async def test_a_queue_of_our_own_is_no_silence(
    monkeypatch: pytest.MonkeyPatch, guarded: Literal["bare", "guarded", "long-running"]
) -> None:
    """Callers that wait for a turn longer than a call may take are answered, and the breaker stays closed."""
    monkeypatch.setattr(link, "THREADS", 2)
    monkeypatch.setattr(link, "JOINED_COMMANDS", 1)
    with slow_server(0.2) as url:
        async with RedisMountIndex(async_link(url)) as index:
            guard = GuardedIndex(index, deadline=CALL_SECONDS, lasting=guarded == "long-running")
            asked = index if guarded == "bare" else guard
            started = time.monotonic()
            found = await asyncio.gather(*(asked.look_up([layer(1)], DEST) for _ in range(24)))
            assert time.monotonic() - started > CALL_SECONDS
            assert {len(each.layers) for each in found} == {1}
            assert (guard.state, guard.unserved) == ("ok", 0)


def test_threads_queue_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for a turn longer than a call may take are answered."""
    monkeypatch.setattr(client, "CONNECTIONS", 1)
    with slow_server(0.2) as url:
        asked, replies = blocking_link(url).client, []
        threads = [
            threading.Thread(target=lambda: replies.append(asked.run([("HGETALL", "x")]))) for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies == [[[]]] * 12
        asked.close()


async def test_a_crowd_gives_a_silent_server_up_together() -> None:
    """All callers of a silent server continue without it after the first calls: nobody waits for the others."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        async with RedisMountIndex(async_link(f"redis://127.0.0.1:{listener.getsockname()[1]}")) as index:
            guard = GuardedIndex(index)
            found = await asyncio.gather(*(guard.look_up([layer(1)], DEST) for _ in range(500)))
            assert Counter(each == Knowledge() for each in found) == {True: 500}
            assert guard.state == "degraded"
        listener.setblocking(False)
        connections = 0
        with suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                connections += 1
        assert connections <= 2 * CALLS_AT_FIRST  # a call opens one, and another one for its retry
