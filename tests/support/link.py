"""A link between two ports with a delay and a rate, so that what is on loopback is as far away as a real one.

    python tests/support/link.py --to 127.0.0.1:5000 --round-trip 0.05 [--rate BYTES_PER_SECOND]

Prints the port it listens on. Connecting costs one round trip, and so does each answer to a request; the rate
is shared by all connections, each direction has its own, as on a full-duplex wire.
"""

import argparse
import asyncio
import collections
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 64 * 1024


@contextmanager
def link(address: str, *, round_trip: float, rate: float | None = None) -> Iterator[str]:
    """Put `address` behind a link, in a process of its own; yield the address at its near end."""
    options = [] if rate is None else ["--rate", str(rate)]
    process = subprocess.Popen(
        [sys.executable, __file__, "--to", address, "--round-trip", str(round_trip), *options],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Wire:
    """One direction: a shared rate; who sends waits for its turn on it."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    def sent_at(self, size: int) -> float:
        """Take a turn for `size` bytes; return when the last of them is on its way."""
        now = time.monotonic()
        if self._rate is None:
            return now
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, wire: Wire, delay: float) -> None:
    """Carry bytes one way: each chunk arrives `delay` seconds after it left the wire."""
    in_flight: collections.deque[tuple[float, bytes]] = collections.deque()
    arrived = asyncio.Event()

    async def deliver() -> None:
        while True:
            while not in_flight:
                arrived.clear()
                await arrived.wait()
            due, data = in_flight.popleft()
            await asyncio.sleep(due - time.monotonic())
            if not data:
                break
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def collect() -> None:
        while data := await reader.read(CHUNK):
            left = wire.sent_at(len(data))
            in_flight.append((left + delay, data))
            arrived.set()
            await asyncio.sleep(left - time.monotonic())
        in_flight.append((time.monotonic() + delay, b""))
        arrived.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(deliver())
        group.create_task(collect())


async def serve(host: str, port: int, *, round_trip: float, rate: float | None) -> None:
    """Forward every connection until cancelled."""
    up, down = Wire(rate), Wire(rate)
    forwarding: set[asyncio.Task[None] | None] = set()  # asyncio itself holds the tasks of connections weakly

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        forwarding.add(task)
        try:
            await asyncio.sleep(round_trip)  # the handshake
            there_reader, there_writer = await asyncio.open_connection(host, port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(carry(reader, there_writer, wire=up, delay=round_trip / 2))
                    group.create_task(carry(there_reader, writer, wire=down, delay=round_trip / 2))
            finally:
                there_writer.close()
        except* OSError:
            pass  # either end went away, which ends both
        finally:
            writer.close()
            forwarding.discard(task)

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


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
