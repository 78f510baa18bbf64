"""The demo's processes, all of which are ended with it, and its registry: a process behind a byte counter."""

import asyncio
import contextlib
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click

from crossmount._dataclass import dataclass
from crossmount._formatting import one_line
from crossmount.testing.acceptor import Acceptor

END_SECONDS = 5.0
"""Seconds that a process may take to end after SIGTERM."""


@asynccontextmanager
async def child(
    command: Sequence[str], *, env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process with its output in pipes; at the end send it SIGTERM, and SIGKILL if that is not enough.

    On Linux the kernel sends it SIGTERM if this process is killed.

    Raises:
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *_ends_with_us(),
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if env is None else dict(env),
    )
    try:
        yield process
    finally:
        await asyncio.shield(_end(process))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            # communicate reads its output, so that a full pipe does not block it
            await asyncio.wait_for(process.communicate(), END_SECONDS)
        except TimeoutError:
            process.kill()
            await process.communicate()


def _ends_with_us() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM") if setpriv else ()


START_SECONDS = 20.0

_PIECE = 256 * 1024
_LISTENS = re.compile(rb"(?:listening on |http://)127\.0\.0\.1:(?P<port>[0-9]+)")


@dataclass(slots=True)
class CountedRegistry:
    """A registry with a counter of the bytes that clients send.

    Attributes:
        kind: the program.
        address: `host:port` of the counter.
        received: bytes that clients have sent, headers included.
    """

    kind: str
    address: str = ""
    received: int = 0


@asynccontextmanager
async def demo_registry(folder: Path) -> AsyncIterator[CountedRegistry]:
    """Run `docker-registry` if it is installed, the registry of `crossmount.testing` otherwise, behind a counter.

    Args:
        folder: for its data; created here.

    Raises:
        click.ClickException: the registry does not start.
    """
    kind, command = _command(folder)
    async with child(command) as process:
        port, output = await _port_of(process, kind)
        reading = asyncio.create_task(_read_all(output))
        try:
            async with _counter(CountedRegistry(kind), port) as registry:
                yield registry
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def _command(folder: Path) -> tuple[str, list[str]]:
    data = folder / "data"
    data.mkdir(parents=True)
    program = shutil.which("docker-registry")
    if program is None:
        return "crossmount.testing", [
            sys.executable,
            "-P",
            "-m",
            "crossmount.testing",
            "--port=0",
            f"--root={data}",
        ]
    config = folder / "config.yml"
    config.write_text(  # JSON is YAML
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "info", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(data)}},
                "http": {"addr": "127.0.0.1:0"},
            }
        )
    )
    return "docker-registry", [program, "serve", str(config)]


async def _port_of(process: asyncio.subprocess.Process, kind: str) -> tuple[int, asyncio.StreamReader]:
    """Wait until the registry prints its port. Return the port, and the stream of its remaining output."""
    output = process.stderr if kind == "docker-registry" else process.stdout
    if output is None:
        raise AssertionError("children have pipes")
    said = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            while line := await output.readline():
                if found := _LISTENS.search(line):
                    return int(found["port"]), output
                said = line
    words = one_line(said.decode(errors="replace"))[-200:]
    raise click.ClickException(f"the demo's registry, {kind}, does not start: {words or 'no output'}")


async def _read_all(output: asyncio.StreamReader) -> None:
    """Read and discard the registry's output, so that it never blocks on a full pipe."""
    while await output.read(_PIECE):
        pass


@asynccontextmanager
async def _counter(registry: CountedRegistry, port: int) -> AsyncIterator[CountedRegistry]:
    """Listen in front of the registry, forward everything, and count the bytes that clients send."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
        try:
            while piece := await reader.read(_PIECE):
                if count:
                    registry.received += len(piece)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # one side closed the connection
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", port, limit=2 * _PIECE)
        await asyncio.gather(pass_on(reader, requests, count=True), pass_on(answers, writer, count=False))

    async with Acceptor(connected, limit=2 * _PIECE) as acceptor:
        registry.address = f"127.0.0.1:{await acceptor.open()}"
        yield registry
