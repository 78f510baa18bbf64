"""Bytes to and from a server without waiting: a socket, and TLS over it or over another TLS.

Nothing here waits, and nothing knows of an event loop: `streams` waits where a channel cannot go on.
"""

import contextlib
import socket
import ssl
from abc import ABC, abstractmethod

READ_BYTES = 256 * 1024
"""The most bytes that are received at once."""

_TLS_BYTES = 64 * 1024
"""The most bytes that are encrypted at once."""


class Channel(ABC):
    """Sends what a connection can take now, and receives what has come; never waits.

    A broken connection raises OSError, and so does each use after that.

    Attributes:
        tls: the TLS of the connection; None if it has none.
        wants_bytes: whether nothing can be sent until bytes have come.
        holds_bytes: whether bytes left the operating system that `receive` has not returned.
    """

    tls: ssl.SSLObject | None = None
    wants_bytes = False
    holds_bytes: bool = False

    @abstractmethod
    def send(self, data: memoryview) -> int:
        """Take what can be sent now; return the number of bytes, 0 if none can."""

    @abstractmethod
    def flush(self) -> bool:
        """Send what was taken before; return whether nothing of it is left."""

    @abstractmethod
    def receive(self, size: int) -> bytes | None:
        """Return at most `size` bytes that have come, b"" at the end, None if there are none yet."""


class SocketChannel(Channel):
    """A socket.

    Args:
        connected: a connected socket that does not block.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def send(self, data: memoryview) -> int:
        """Give bytes to the operating system."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def flush(self) -> bool:
        """Return True: the operating system sends what it was given."""
        return True

    def receive(self, size: int) -> bytes | None:
        """Return what the operating system has received."""
        try:
            return self._socket.recv(size)
        except BlockingIOError:
            return None


class TlsChannel(Channel):
    """TLS over another channel.

    A peer that hangs up without the end that TLS has for it has ended: the lengths of HTTP show what is missing.

    Args:
        below: carries the encrypted bytes.
        context: the client's TLS context.
        host: the server's name.
    """

    tls: ssl.SSLObject

    def __init__(self, below: Channel, context: ssl.SSLContext, host: str | None) -> None:
        self._below = below
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._unsent = memoryview(b"")
        self.tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=host)

    def shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is done.

        Raises:
            ssl.SSLError: it failed.
            ConnectionError: it was cut.
        """
        has_ended = False
        while not has_ended:  # what fails below TLS is raised outside the handlers: it is no failure of TLS
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLEOFError:
                has_ended = True
                continue
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self.flush()  # the alert that tells the server why
                raise
            else:
                return True
            self.flush()
            if not self._fetch():
                return False
        raise ConnectionAbortedError("cut in the TLS handshake")

    def send(self, data: memoryview) -> int:
        """Encrypt bytes and send them, once those taken before are sent."""
        self.wants_bytes = False
        if not self.flush():
            return 0
        try:
            taken = self.tls.write(data[:_TLS_BYTES])
        except ssl.SSLWantReadError:  # the server negotiates anew
            self.wants_bytes = True
            return 0
        self.flush()
        return taken

    def flush(self) -> bool:
        """Send the encrypted bytes."""
        while True:
            while self._unsent:
                sent = self._below.send(self._unsent)
                if not sent:
                    self.wants_bytes = self._below.wants_bytes
                    return False
                self._unsent = self._unsent[sent:]
            if not self._leaving.pending:
                return self._below.flush()
            self._unsent = memoryview(self._leaving.read())

    def receive(self, size: int) -> bytes | None:
        """Return decrypted bytes."""
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            with contextlib.suppress(OSError):  # what has come can be read all the same
                self.flush()  # TLS answers some messages itself
            if not self._fetch():
                return None

    @property
    def holds_bytes(self) -> bool:  # type: ignore[override] # read-only here
        """Whether bytes wait in TLS, or below it."""
        return bool(self.tls.pending() or self._arrived.pending or self._below.holds_bytes)

    def _fetch(self) -> bool:
        """Receive encrypted bytes, or their end; return whether there were any."""
        arrived = self._below.receive(READ_BYTES)
        if arrived is None:
            return False
        if arrived:
            self._arrived.write(arrived)
        else:
            self._arrived.write_eof()
        return True
