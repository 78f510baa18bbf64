"""Accepts connections of a test's server; after `close` no connection is left on the event loop."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, cast

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves one connection; it may leave the closing to the acceptor."""

_ROUNDS_TO_ACCEPT = 3
"""How many rounds of the event loop there are at most from the accepted socket to the call of `accept`."""


class Acceptor:
    """Serves each connection in a task, and closes it when the task ends.

    `asyncio.Server.close` closes the ports alone. A connection that the loop has just accepted, or whose task is
    cancelled before it begins, stays open until it is collected as garbage, which warns in another test.

    Attributes:
        port: the port that was opened first; 0 if there is none.
    """

    def __init__(self, serve: Serve, *, limit: int = 65536, tls: ssl.SSLContext | None = None) -> None:
        """Prepare an acceptor; `open` or `open_unix` opens its ports.

        Args:
            serve: is called for each connection. A connection that breaks is no error of it.
            limit: the limit of each connection's reader, as of `asyncio.StreamReader`.
            tls: the context for TLS; None for none.
        """
        self.port = 0
        self._serve = serve
        self._limit = limit
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        # The transports are those below TLS: a transport of TLS that is closed ignores an abort.
        self._tasks: dict[asyncio.Task[None], asyncio.WriteTransport] = {}

    async def open(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen on a port, and return its number; 0 lets the system choose.

        Raises:
            OSError: the port is not available.
        """
        server = await asyncio.start_server(self._accept, host, port, limit=self._limit)
        self._servers.append(server)
        chosen: int = server.sockets[0].getsockname()[1]
        self.port = self.port or chosen
        return chosen

    async def open_unix(self, path: str) -> None:
        """Listen on a unix socket."""
        self._servers.append(await asyncio.start_unix_server(self._accept, path, limit=self._limit))

    async def refuse(self) -> None:
        """Close the ports: no connection is accepted any more, and those that exist stay."""
        loop = asyncio.get_running_loop()
        for server in self._servers:
            for listening in server.sockets:
                loop.remove_reader(listening)
        for _ in range(_ROUNDS_TO_ACCEPT):  # a server that is closed sooner leaves what it has accepted open
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()

    def cut(self) -> None:
        """Cut all connections, and cancel their tasks."""
        for task, transport in list(self._tasks.items()):
            transport.abort()
            task.cancel()

    async def close(self) -> None:
        """Close the ports, cut all connections, and wait until their tasks have ended."""
        await self.refuse()
        own = asyncio.current_task()
        ending = [task for task in self._tasks if task is not own]
        self.cut()
        await asyncio.gather(*ending, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        if self._tls is not None:
            transport.pause_reading()  # type: ignore[attr-defined]  # the first bytes are for the handshake
        task = asyncio.get_running_loop().create_task(self._run(reader, writer))
        self._tasks[task] = transport
        task.add_done_callback(self._ended)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._tls is not None:
            try:
                await writer.start_tls(self._tls)
            except OSError:
                return  # after a failed handshake `wait_closed` would never return
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has closed it
        except BaseException:
            self._tasks[cast("asyncio.Task[None]", asyncio.current_task())].abort()
            raise
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Close the connection if the task did not, and report a bug of the server to the event loop."""
        self._tasks.pop(task).abort()
        if not task.cancelled() and task.exception() is not None:
            context = {"message": "a connection of a test's server failed", "exception": task.exception()}
            asyncio.get_running_loop().call_exception_handler(context)
