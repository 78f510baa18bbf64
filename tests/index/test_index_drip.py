import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmount import Digest, IndexUnavailableError, Repository, open_index


@contextlib.contextmanager
def dripping(listener: socket.socket) -> Iterator[None]:
    """Serve replies that never end and never pause for long."""

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"$1000\r\n")
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.05)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with listener:
        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def look_up(url: str) -> None:
    """Ask an index for one layer."""
    with open_index(url) as index:
        index.look_up([Digest.of(b"layer")], Repository.parse("registry.example/team/a"))


@pytest.mark.timeout(8)
def test_a_dripping_server_does_not_hold_a_blocking_caller() -> None:
    """A reply that comes a byte at a time is given up, though no single wait is long."""
    listener = socket.create_server(("127.0.0.1", 0))
    with dripping(listener), pytest.raises(IndexUnavailableError):
        look_up(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")


@pytest.mark.timeout(8)
def test_a_dripping_socket_does_not_hold_a_blocking_caller(tmp_path: Path) -> None:
    """The same over a unix socket, where redis-py looks for a port when it is too late to connect again."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with dripping(listener), pytest.raises(IndexUnavailableError):
        look_up(f"unix://{tmp_path}/s")
