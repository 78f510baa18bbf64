"""A link between two ports with a delay and a rate, so that a server on loopback seems far away.

    python tests/support/link.py --to 127.0.0.1:5000 --round-trip 0.05 [--rate BYTES_PER_SECOND]

Prints the port it listens on. Connecting costs one round trip, and so does each answer to a request; the rate is
shared by all connections, each direction has its own, as on a full-duplex wire. Bytes do not pass through Python:
a real link uses no processor of the machines that it connects, and this one takes little. Linux only (splice).
"""

import argparse
import asyncio
import collections
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CHUNK = 256 * 1024
PIPE = 1024 * 1024
"""In bytes; a pipe stores one fragment per page, so the usual 64 KiB would pass little at once."""


@dataclass(frozen=True, slots=True)
class RunningLink:
    """A link in a process of its own.

    Attributes:
        address: the address of its near end.
    """

    address: str
    process: subprocess.Popen[bytes]

    def cut(self) -> None:
        """Carry nothing more, and close nothing, as a network that is cut."""
        self.process.send_signal(signal.SIGSTOP)

    def join(self) -> None:
        """Carry what was sent meanwhile, and everything from now on."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def link(address: str, *, round_trip: float, rate: float | None = None) -> Iterator[str]:
    """Run a link to `address` in another process; yield the address of its near end."""
    with running_link(address, round_trip=round_trip, rate=rate) as running:
        yield running.address


@contextmanager
def running_link(address: str, *, round_trip: float, rate: float | None = None) -> Iterator[RunningLink]:
    """Run a link that can be cut."""
    options = [] if rate is None else ["--rate", str(rate)]
    process = subprocess.Popen(
        [sys.executable, __file__, "--to", address, "--round-trip", str(round_trip), *options],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield RunningLink(f"127.0.0.1:{int(process.stdout.readline())}", process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Wire:
    """One direction with a shared rate; senders wait for their turn."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    def sent_at(self, size: int) -> float:
        """Wait for a turn of `size` bytes; return when the last byte is sent."""
        now = time.monotonic()
        if self._rate is None:
            return now
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at


class Way:
    """One direction of one connection; bytes arrive `delay` seconds after they were sent.

    They pass through a pipe and never leave the kernel.
    """

    def __init__(self, source: socket.socket, dest: socket.socket, *, wire: Wire, delay: float) -> None:
        self._source, self._dest = source, dest
        self._wire, self._delay = wire, delay
        self._in_flight: collections.deque[tuple[float, int]] = collections.deque()
        self._arrived, self._left = asyncio.Event(), asyncio.Event()

    async def carry(self) -> None:
        """Forward all bytes, and then the end.

        Raises:
            ExceptionGroup: of OSError, if one end was closed.
        """
        way_out, way_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(PermissionError):  # too many pipes of that size; smaller ones work too
            fcntl.fcntl(way_in, fcntl.F_SETPIPE_SZ, PIPE)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._collect(way_in))
                group.create_task(self._deliver(way_out))
        finally:
            os.close(way_out)
            os.close(way_in)

    async def _collect(self, way_in: int) -> None:
        while True:
            await _ready(self._source, writing=False)
            try:
                size = os.splice(self._source.fileno(), way_in, CHUNK, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                await self._room()
                continue
            now = time.monotonic()
            sent = self._wire.sent_at(size) if size else now
            self._in_flight.append((sent + self._delay, size))
            self._arrived.set()
            if not size:
                return
            await asyncio.sleep(sent - now)

    async def _room(self) -> None:
        """Wait until the pipe has room, if it is full."""
        if self._in_flight:
            self._left.clear()
            await self._left.wait()

    async def _deliver(self, way_out: int) -> None:
        while True:
            while not self._in_flight:
                self._arrived.clear()
                await self._arrived.wait()
            due, size = self._in_flight[0]
            await asyncio.sleep(due - time.monotonic())
            if not size:
                self._dest.shutdown(socket.SHUT_WR)
                return
            while size:
                try:
                    size -= os.splice(way_out, self._dest.fileno(), size, flags=os.SPLICE_F_NONBLOCK)
                except BlockingIOError:
                    await _ready(self._dest, writing=True)
            self._in_flight.popleft()
            self._left.set()


async def _ready(end: socket.socket, *, writing: bool) -> None:
    """Wait until one end of a connection can be read, or written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(end, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(end)


async def serve(host: str, port: int, *, round_trip: float, rate: float | None) -> None:
    """Forward every connection until cancelled."""
    loop = asyncio.get_running_loop()
    up, down = Wire(rate), Wire(rate)
    forwarding: set[asyncio.Task[None]] = set()  # asyncio has only weak references to tasks

    async def forward(near: socket.socket) -> None:
        with near, socket.socket() as far, contextlib.suppress(OSError):  # if one end closes, so does the other
            for end in (near, far):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.sleep(round_trip)  # the handshake
            await loop.sock_connect(far, (host, port))
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(Way(near, far, wire=up, delay=round_trip / 2).carry())
                    group.create_task(Way(far, near, wire=down, delay=round_trip / 2).carry())
            except* OSError:
                pass

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            near, _ = await loop.sock_accept(listener)
            task = loop.create_task(forward(near))
            forwarding.add(task)
            task.add_done_callback(forwarding.discard)


def main() -> None:
    """Run a link until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True, help="host:port of the server")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    parser.add_argument("--rate", type=float, default=None, help="bytes a second, each way")
    given = parser.parse_args()
    host, _, port = given.to.rpartition(":")
    asyncio.run(serve(host, int(port), round_trip=given.round_trip, rate=given.rate))


if __name__ == "__main__":
    main()
