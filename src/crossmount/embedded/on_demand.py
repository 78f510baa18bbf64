"""A client of a server that is started when it is needed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crossmount.errors import IndexUnavailableError
from crossmount.redis.call import Call
from crossmount.redis.client import Client
from crossmount.redis.replies import Command


class OnDemandClient:
    """A client of a server that is started when it is first needed, and again when it went away.

    Args:
        start: makes sure that the server runs, and returns its unix socket.
        connect: makes a client of that socket. No I/O.
    """

    where = "the embedded index"

    def __init__(self, start: Callable[[], Path], connect: Callable[[Path], Client]) -> None:
        self._start = start
        self._connect = connect
        self._clients: dict[Path, Client] = {}

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Run commands on the server; if it does not answer, start it and run them once more."""
        for client in list(self._clients.values()):
            try:
                return client.run(commands, call)
            except IndexUnavailableError:
                break  # it was stopped since: start it once more, below; the same client finds it again
        path = self._start()
        # setdefault, since threads that come here at once must share one client
        client = self._clients.setdefault(path, self._connect(path))
        return client.run(commands)

    def parts(self) -> Sequence[Client]:
        """Return this client: one server, which is started when it is first asked."""
        return [self]

    def close(self) -> None:
        """Close the connections; the server goes on running."""
        for client in list(self._clients.values()):
            client.close()
