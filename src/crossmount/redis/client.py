"""The client: commands to a server and their replies, one round trip a run. It blocks.

Both flavours of the library use it: a thread calls it directly, an event loop runs it in threads
(`crossmount.redis.link.ThreadedLink`; that module has the reasons).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import redis
from crossmount.redis.call import Call, CallLimiter
from crossmount.redis.listener import MessagePlace
from crossmount.redis.login import Secrets
from crossmount.redis.pipeline import exchange
from crossmount.redis.replies import Command, ReplyReader
from crossmount.redis.scripts import with_sources

T = TypeVar("T")

CONNECTIONS = 64
"""How many calls of one client may be in flight, each on a connection of its own. They are opened when needed."""


class Client(Protocol):
    """A client of one server or Cluster. Threads may share it, and so may a process and its forks."""

    @property
    def where(self) -> str:
        """The server's address for messages, without any password."""
        ...

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Send all commands at once; return a reply for each, an `IndexRefusedError` where one was refused.

        Args:
            commands: what to send; without any, one server is connected to if no connection to it is open.
            call: the call that these commands belong to; a new one by default.

        Raises:
            IndexUnavailableError: no answer in time.
            IndexRefusedError: the server refused all commands: wrong password, no such database.
        """
        ...

    def servers(self) -> "Sequence[Client]":
        """Return a client for each server that has some of the keys; for one server that is this client.

        Raises:
            IndexFailedError: the servers of a Cluster are not known, and it does not name them.
        """
        ...

    def close(self) -> None:
        """Close the connections. The client may be used again; it opens new ones then."""
        ...


class CallRunner:
    """Runs the calls of one client: limits their number and their time, and translates errors into ours."""

    def __init__(self, reader: ReplyReader, limiter: CallLimiter) -> None:
        self.reader = reader
        self._limiter = limiter

    def run(self, call: Call | None, work: Callable[[], T]) -> T:
        """Run `work` as a call, a new one by default, and return its result. Its errors become ours."""
        with self._limiter.admitted(call or Call()), self.reader.errors():
            return work()


class ServerClient:
    """A client of one server, or of the one that the sentinels name.

    Args:
        client: any client of redis-py; this one closes it.
        where: the server's address for messages.
        secrets: words that no message may contain; the client's password by default.
        also: other clients that are closed with it.
    """

    def __init__(
        self,
        client: redis.Redis,
        where: str,
        secrets: Iterable[str] | None = None,
        also: Sequence[redis.Redis] = (),
    ) -> None:
        self.where = where
        self._client = client
        self._clients = client, *also
        words = Secrets(str(client.connection_pool.connection_kwargs.get("password") or ""))
        reader = ReplyReader(where, client.response_callbacks, words if secrets is None else secrets)
        self._caller = CallRunner(reader, CallLimiter(CONNECTIONS))

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Send commands to the server and return their replies; retry once after a failed connection."""
        pool = self._client.connection_pool
        read = self._caller.reader.read
        return self._caller.run(call, lambda: read(commands, exchange(pool, with_sources(commands))))

    def servers(self) -> "Sequence[ServerClient]":
        """Return this client: its server holds all keys."""
        return [self]

    def message_places(self, channels: Sequence[str]) -> Sequence[MessagePlace]:
        """Return the server: it sends the messages of all channels."""
        return [MessagePlace(key="", make=self._client.pubsub, is_sharded=False, channels=channels)]

    def close(self) -> None:
        """Close the connections."""
        with self._caller.reader.errors():
            for client in self._clients:
                client.close()
