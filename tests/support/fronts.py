"""A front before a server that hangs up on commands it does not know, as twemproxy does."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def hanging_up_on(name: str, port: int) -> Iterator[str]:
    """Run a front before a server on this machine; yield its address.

    Args:
        name: the command on which it hangs up.
        port: the server's port.
    """
    front = _Front(re.compile(rb"\r\n%b\r\n" % name.encode(), re.IGNORECASE), port)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        accepting = threading.Thread(target=front.accept, args=(listener,))
        accepting.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            front.close()


class _Front:
    def __init__(self, unknown: re.Pattern[bytes], port: int) -> None:
        self._unknown = unknown
        self._port = port
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def accept(self, listener: socket.socket) -> None:
        """Accept connections until the listener is shut down."""
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._ends += [near, far]
                self._start(self._check, near, far)
                self._start(_carry, far, near)

    def _start(self, target: Callable[[socket.socket, socket.socket], None], *ends: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=ends))
        self._threads[-1].start()

    def close(self) -> None:
        """Close all connections."""
        _shut(*self._ends)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _check(self, near: socket.socket, far: socket.socket) -> None:
        _carry(near, far, lambda data: self._unknown.search(data) is not None)


def _carry(source: socket.socket, dest: socket.socket, ends: Callable[[bytes], bool] = lambda _: False) -> None:
    with suppress(OSError):
        while (data := source.recv(1 << 20)) and not ends(data):
            dest.sendall(data)
    _shut(source, dest)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
