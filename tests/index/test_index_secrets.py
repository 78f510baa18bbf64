import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

SECRET = "s3cr3t-pass"


@pytest.fixture
def parrot() -> Iterator[int]:
    """A Redis whose AUTH was renamed away: it answers with what it was sent, as real ones do; its port."""
    words = f"-ERR unknown command 'AUTH', with args beginning with: '{SECRET}'\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(words)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def said(*arguments: str) -> str:
    """Return all that the command says, at its most talkative."""
    command = [sys.executable, "-m", "crossmount", "-vv", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    return done.stdout + done.stderr


def test_a_traceback_never_shows_the_index_password(parrot: int) -> None:
    """With -vv too, an index's password is in nothing that is printed."""
    words = said("locate", "sha256:" + "a" * 64, "--index", f"redis://:{SECRET}@127.0.0.1:{parrot}/0")
    assert "refused" in words
    assert SECRET not in words
