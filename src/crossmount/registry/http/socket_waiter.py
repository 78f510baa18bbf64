"""Waits for a socket on the event loop."""

import asyncio
import errno
import os
import socket


class SocketWaiter:
    """Waits until a socket is ready, for one caller at a time.

    Args:
        connected: a connected socket that does not block.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._number = connected.fileno()  # the loop would print a socket each time that it is new to it
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] | None = None
        self._asked = (False, False)

    async def wait(self, *, reading: bool, writing: bool) -> None:
        """Wait until the socket can be read or written, as asked, or is closed.

        Raises:
            OSError: it was closed before; its number may be another one's by now.
        """
        if self.socket.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._ready, self._asked = self._loop.create_future(), (reading, writing)
        if reading:
            self._loop.add_reader(self._number, self._wake)
        if writing:
            self._loop.add_writer(self._number, self._wake)
        try:
            await self._ready
        finally:
            self._forget()

    def close(self) -> None:
        """Close the socket, and wake the caller that waits for it."""
        self._wake()
        self._forget()
        self.socket.close()

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _forget(self) -> None:
        if self._ready is not None:
            self._ready = None
            reading, writing = self._asked
            if reading:
                self._loop.remove_reader(self._number)
            if writing:
                self._loop.remove_writer(self._number)
