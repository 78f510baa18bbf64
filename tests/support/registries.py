"""Real registries for tests: Debian's docker-registry, open, with a password file, with tokens.

A registry is started for one test in about a tenth of a second, on a port of its own, with its storage
in the test's folder, and ends with the test.
"""

import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest

from crossmount.testing import ScriptedRegistry
from support.programs import needs, run
from support.tokens import TokenServer, serve_tokens
from support.waiting import PATIENCE

__all__ = ["Access", "DockerRegistry", "StartRegistry", "TokenRegistry", "needs", "run"]

READY_SECONDS = PATIENCE

USER, PASSWORD = "ci", "secret"
HTPASSWD = "ci:$2y$04$xSqhyj8FoobRiIYL2/bU9.XXGl1UsXP25SlTbeeTvlIs9R/YcZIzy\n"
"""USER with PASSWORD, by htpasswd -nbB -C 4."""

_ACCESS = re.compile(r'\S+ - \S+ \[[^\]]*\] "(\S+) (\S+) HTTP/[0-9.]+" ([0-9]{3}) ([0-9]+)')
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:[0-9]+)")


@dataclass(frozen=True, slots=True)
class Access:
    """One line of a registry's access log.

    Attributes:
        path: decoded, without the query.
        query: the first value of each parameter.
        sent: number of bytes of the answer's body.
    """

    method: str
    path: str
    query: dict[str, str]
    status: int
    sent: int


@dataclass(slots=True, eq=False)
class DockerRegistry:
    """A running docker-registry.

    Attributes:
        address: `127.0.0.1:PORT`, as in a reference.
        folder: its storage, configuration and logs.
        process: the process that runs now.
    """

    address: str
    folder: Path
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """Kill it, and wait until it has ended."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Kill it if it runs, and start it again on the same port with the same storage."""
        self.kill()
        config = self.folder / "config.yml"
        config.write_text(config.read_text().replace("127.0.0.1:0", self.address))
        self.process = _serve(self.folder)
        _wait_for_address(self.process, self.folder / "error.log")

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://{self.address}"

    def accesses(self) -> list[Access]:
        """Return all requests that were answered before this call."""
        marker = f"/v2/?marker={time.monotonic_ns()}"
        httpx.get(self.url + marker)
        deadline = time.monotonic() + READY_SECONDS
        while marker not in (log := (self.folder / "access.log").read_text()):
            assert time.monotonic() < deadline, "the access log lags behind"
            time.sleep(0.005)
        lines = (_ACCESS.match(line) for line in log.splitlines())
        return [_access(match) for match in lines if match and "marker=" not in match[2]]

    def uploads(self, digest: str | None = None) -> int:
        """Return the number of finished uploads of a blob, or of all blobs."""
        return len(self._uploaded(digest))

    def mounts(self, digest: str | None = None) -> int:
        """Return the number of mounts of a blob, or of all blobs."""
        return sum(
            access.method == "POST" and access.status == 201 and digest in {None, access.query.get("mount")}
            for access in self.accesses()
        )

    def downloads(self, digest: str | None = None) -> int:
        """Return the number of downloads of a blob, or of all blobs."""
        return len(self._downloaded(digest))

    def download_bytes(self) -> int:
        """Return the number of bytes of all downloads."""
        return sum(access.sent for access in self._downloaded(None))

    def upload_bytes(self) -> int:
        """Return the number of bytes of all finished uploads."""
        return sum(self.blob_path(access.query["digest"]).stat().st_size for access in self._uploaded(None))

    def blob_path(self, digest: str) -> Path:
        """Return the file with a blob."""
        algorithm, _, encoded = digest.partition(":")
        blobs = self.folder / "storage" / "docker" / "registry" / "v2" / "blobs"
        return blobs / algorithm / encoded[:2] / encoded / "data"

    def _downloaded(self, digest: str | None) -> list[Access]:
        return [
            access
            for access in self.accesses()
            if access.method == "GET"
            and "/blobs/sha256:" in access.path
            and access.status in {200, 206}
            and (digest is None or access.path.endswith(digest))
        ]

    def _uploaded(self, digest: str | None) -> list[Access]:
        return [
            access
            for access in self.accesses()
            if access.method == "PUT"
            and "/blobs/uploads/" in access.path
            and access.status == 201
            and digest in {None, access.query["digest"]}
        ]


@dataclass(frozen=True, slots=True)
class TokenRegistry:
    """A docker-registry that requires tokens, and its token server."""

    registry: DockerRegistry
    tokens: TokenServer


StartRegistry = Callable[..., DockerRegistry]


@pytest.fixture
async def scripted_registry() -> AsyncIterator[ScriptedRegistry]:
    """A scripted registry without authentication, on the test's event loop."""
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
def start_docker_registry(tmp_path: Path) -> Iterator[StartRegistry]:
    """Start registries: `start(auth=…, relative=…, deletes=…, notify=…)`; see `run_docker_registry`."""
    with ExitStack() as stack:
        count = iter(range(1000))

        def start(
            *, auth: str = "", relative: bool = False, deletes: bool = True, notify: str = ""
        ) -> DockerRegistry:
            folder = tmp_path / f"registry-{next(count)}"
            running = run_docker_registry(folder, auth=auth, relative=relative, deletes=deletes, notify=notify)
            return stack.enter_context(running)

        yield start


@pytest.fixture
def docker_registry(start_docker_registry: StartRegistry) -> DockerRegistry:
    """A registry without authentication."""
    return start_docker_registry()


@pytest.fixture
def htpasswd_registry(start_docker_registry: StartRegistry, tmp_path: Path) -> DockerRegistry:
    """A registry that requires USER and PASSWORD (Basic)."""
    file = tmp_path / "htpasswd"
    file.write_text(HTPASSWD)
    return start_docker_registry(auth=f"auth: {{htpasswd: {{realm: tests, path: {file}}}}}")


@pytest.fixture
def token_server(tmp_path: Path) -> Iterator[TokenServer]:
    """A token server that grants everything to USER by default."""
    with serve_tokens(tmp_path, users={USER: PASSWORD}) as server:
        yield server


@pytest.fixture
def token_registry(start_docker_registry: StartRegistry, token_server: TokenServer) -> TokenRegistry:
    """A registry that requires tokens of `token_server`."""
    auth = (
        f"auth: {{token: {{realm: {token_server.url}, service: {token_server.service},"
        f" issuer: {token_server.issuer}, rootcertbundle: {token_server.certificate}}}}}"
    )
    return TokenRegistry(start_docker_registry(auth=auth), token_server)


@contextmanager
def run_docker_registry(
    folder: Path, *, auth: str, relative: bool, deletes: bool, notify: str = ""
) -> Iterator[DockerRegistry]:
    """Run a docker-registry until the block ends.

    Args:
        folder: a folder for its files; must not exist.
        auth: the `auth` section of its configuration, in YAML on one line.
        relative: Locations without scheme and host.
        deletes: whether anything can be deleted.
        notify: the `notifications` section of its configuration, in YAML on one line.
    """
    folder.mkdir()
    config = folder / "config.yml"
    config.write_text(
        f"""
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {folder / "storage"}}}
  delete: {{enabled: {str(deletes).lower()}}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: "127.0.0.1:0", relativeurls: {str(relative).lower()}, secret: tests}}
{auth}
{notify}
"""
    )
    process = _serve(folder)
    running = DockerRegistry(_wait_for_address(process, folder / "error.log"), folder, process)
    try:
        yield running
    finally:
        running.process.terminate()
        try:
            running.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            running.kill()


def _serve(folder: Path) -> "subprocess.Popen[bytes]":
    """Start it; its access log is continued, its error log is emptied."""
    program = needs("docker-registry")
    with (folder / "access.log").open("ab") as out, (folder / "error.log").open("wb") as err:
        return subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=out, stderr=err)


def _wait_for_address(process: "subprocess.Popen[bytes]", error_log: Path) -> str:
    """Wait until the registry logs the address that it listens on, and return it."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        said = error_log.read_text()
        match = _LISTENING.search(said)
        if match:
            return match[1]
        assert process.poll() is None, f"docker-registry did not start: {said}"
        time.sleep(0.005)
    raise AssertionError(f"docker-registry does not listen: {error_log.read_text()}")


def _access(match: "re.Match[str]") -> Access:
    parts = urlsplit(match[2])
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return Access(match[1], unquote(parts.path), query, int(match[3]), int(match[4]))
