import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support.servers import StartServer
from support.waiting import PATIENCE

SECRET = "s3cr3t-pass"


@pytest.fixture
def parrot() -> Iterator[int]:
    """Return the port of a Redis whose AUTH was renamed: it repeats what it received, as real servers do."""
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
    """Return everything that the command prints with -vv."""
    command = [sys.executable, "-m", "crossmount", "-vv", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{secret}@127.0.0.1:{port}/0",
        "redis://127.0.0.1:{port}/0?password_file={file}",
        "redis+cluster://u:{secret}@127.0.0.1:{port}",
        "redis+sentinel://127.0.0.1:{port}/main?sentinel_password={secret}",
        "redis+sentinel://u:x@127.0.0.1:{port}/main?sentinel_password_file={file}",
    ],
)
def test_a_traceback_never_shows_the_index_password(parrot: int, url: str, tmp_path: Path) -> None:
    """Nothing that the command prints has the index's password, also with -vv."""
    (tmp_path / "word").write_text(SECRET)
    index = url.format(secret=SECRET, port=parrot, file=tmp_path / "word")
    words = said("locate", "sha256:" + "a" * 64, "--index", index)
    assert "refused" in words or "no sentinel" in words
    assert SECRET not in words


@pytest.mark.parametrize("word", ["tok-" + "0a1b2c3d4e5f" * 40, "s3cr3t-pass-phrase\n of mine"])
def test_a_part_of_the_password_is_not_shown_either(word: str, start_server: StartServer) -> None:
    """A real server without AUTH repeats the first 128 bytes of a token; the command prints none of them."""
    server = start_server("--rename-command", "AUTH", "''")
    words = said("locate", "sha256:" + "a" * 64, "--index", f"redis://u:{quote(word)}@127.0.0.1:{server.port}/0")
    assert "refused" in words
    assert word[:12] not in words


@pytest.mark.parametrize(
    "url",
    [
        f"redis+cluster://u:{SECRET}@h1:1,h2:x",
        f"redis://h?password_file={SECRET}",
        f"redis://h?pass_word={SECRET}",
        f"redis+sentinel://:{SECRET}@h",
        f"rediss://h?ca_file={SECRET}",
    ],
)
def test_a_mistake_in_a_url_never_shows_what_may_be_the_password(url: str) -> None:
    """Of a URL that cannot be parsed only hosts and ports are printed, also with -vv."""
    words = said("locate", "sha256:" + "a" * 64, "--index", url)
    assert "index URL" in words
    assert SECRET not in words
