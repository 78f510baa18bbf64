import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from crossmount import Digest, IndexUnavailableError, Repository, open_index


@pytest.fixture
def dripping() -> Iterator[int]:
    """A server whose reply never ends and never pauses for long; its port."""

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"$1000\r\n")
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(8)
def test_a_dripping_server_does_not_hold_a_blocking_caller(dripping: int) -> None:
    """A reply that comes a byte at a time is given up, though no single wait is long."""
    with open_index(f"redis://127.0.0.1:{dripping}/0") as index, pytest.raises(IndexUnavailableError):
        index.look_up([Digest.of(b"layer")], Repository.parse("registry.example/team/a"))
