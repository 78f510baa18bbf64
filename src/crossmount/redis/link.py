"""The client as coroutines: code that is written once for both flavours of the library awaits a link.

An event loop runs the blocking client in threads. Measured beside it was one connection that carries all calls at
once (a writer, and a reader that resolves replies in order), without login, TLS, time-outs or routing. Median
milliseconds, threads and one connection:

=========================  ============  ============  =============
look-ups at once           5 layers      40 layers     120 layers
=========================  ============  ============  =============
1, server nearby           0.15   0.09   0.40   0.26   0.90    0.65
200, server nearby          113     41    145    164    373     830
1,000, server nearby        360    207    830  1,032  2,553   3,530
200, server 40 ms away      207     54    211    120    508     503
1,000, server 40 ms away    911    161    860    608  1,657   2,133
=========================  ============  ============  =============

The one connection is faster for few layers and for crowds over a distance, and slower for crowds that ask for
whole images, since one thread reads all replies. It would need its own connecting, login, TLS and Sentinel, an
event loop for callers in threads, and a rule for the calls behind one that gets no answer. Threads need none of
that: redis-py does the first, each call has its connection, and a push is one call at a time.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from crossmount.redis.call import Call
from crossmount.redis.client import CONNECTIONS, Client
from crossmount.redis.replies import Command
from crossmount.redis.workers import Workers


class Link(Protocol):
    """A connection to one server or Cluster, as coroutines."""

    @property
    def where(self) -> str:
        """The server's address for messages, without any password."""
        ...

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once; return a reply for each, an `IndexRefusedError` where one was refused.

        Raises:
            IndexUnavailableError: no answer in time.
            IndexRefusedError: the server refused all commands: wrong password, no such database.
        """
        ...

    async def parts(self) -> "Sequence[Link]":
        """Return a link to each server that holds a part of the keys; for one server that is this link.

        Raises:
            IndexFailedError: the servers of a Cluster are not known, and it does not name them.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class BlockingLink:
    """A link whose coroutines never suspend, so that they run without an event loop (`crossmount._blocking`)."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.where = client.where

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once, and block until all replies have arrived."""
        return self.client.run(commands)

    async def parts(self) -> "Sequence[BlockingLink]":
        """Return a link to each server that holds a part of the keys."""
        return [BlockingLink(part) for part in self.client.parts()]

    async def aclose(self) -> None:
        """Close the connections."""
        self.client.close()


class ThreadedLink:
    """A link for event loops, one after another. The client runs in the link's own threads.

    A cancelled call ends in its thread too: before its turn at once, else at the next check of its deadline, and
    then its connection is closed.

    Args:
        client: the client; closed with the link.
        workers: threads to share with another link; its own by default.
    """

    def __init__(self, client: Client, workers: Workers | None = None) -> None:
        self.where = client.where
        self._client = client
        self._workers = Workers(CONNECTIONS) if workers is None else workers

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once, and await their replies."""
        call = Call(asyncio.get_running_loop())
        try:
            return await self._workers.run(partial(self._client.run, commands, call))
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def parts(self) -> "Sequence[ThreadedLink]":
        """Return a link to each server that holds a part of the keys; they share the threads."""
        return [ThreadedLink(part, self._workers) for part in await self._workers.run(self._client.parts)]

    async def aclose(self) -> None:
        """Close the connections, and end the threads."""
        try:
            await self._workers.run(self._client.close)
        finally:
            self._workers.close()
