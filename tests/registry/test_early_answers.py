"""Answers that come while a request's body is sent, and answers that do not end: raw servers, real sockets."""

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from ssl import SSLContext
from typing import Any

import httpx
import pytest

from crossmount.errors import InvalidAnswerError, RegistryRefusedError, RegistryUnreachableError
from crossmount.oci import BlobSource, BytesBlob, Descriptor, Digest, Reference, Repository
from crossmount.registry import RegistryClient, UploadSession
from crossmount.registry.http.answer_heads import HEAD_BYTES_MAX, INTERIM_MAX, AnswerHeads
from crossmount.registry.http.dialing import Dialer
from crossmount.registry.http.pool import ConnectionPool
from crossmount.testing.acceptor import Acceptor
from support.certificates import self_signed
from support.registry_kit import QUICK, blob, client_of, manifest
from support.waiting import PATIENCE

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SIZE = 16_000_000
REFUSAL = b"HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig\n"
STORED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@asynccontextmanager
async def server(talk: Talk, *, tls: SSLContext | None = None) -> AsyncIterator[str]:
    """Serve each connection with `talk`, and yield the server's address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(reader, writer)
        if not writer.is_closing():
            await asyncio.Event().wait()  # until the server closes

    async with Acceptor(serve, limit=4096, tls=tls) as acceptor:
        yield f"127.0.0.1:{await acceptor.open()}"


async def head(reader: asyncio.StreamReader) -> int:
    """Read a request's head; return the length of its body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
    return lengths[0] if lengths else 0


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset, as the kernel does with unread bytes."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


LARGE = BytesBlob(Descriptor("x/y", Digest.of(bytes(SIZE)), SIZE), bytes(SIZE))
"""A blob that no socket buffer can hold, sent in one piece."""


@dataclass(frozen=True, slots=True)
class InPieces:
    """The same blob, read in pieces."""

    descriptor: Descriptor = LARGE.descriptor

    async def stream(self, offset: int = 0) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` on."""
        for at in range(offset, SIZE, 64_000):
            yield LARGE.content[at : at + 64_000]
            await asyncio.sleep(0)


async def upload(address: str, item: BlobSource, **changes: Any) -> None:
    """Upload a blob into a session of a server."""
    async with client_of(address, **changes) as client:
        await upload_with(client, item, scheme="https" if changes else "http")


async def upload_with(client: RegistryClient, item: BlobSource, *, scheme: str = "http") -> None:
    """Upload a blob into a session."""
    repository = Repository(client.registry, "team/app")
    location = f"{scheme}://{client.registry}/v2/team/app/blobs/uploads/1"
    await client.upload_blob(UploadSession(repository=repository, location=location), item)


@pytest.mark.parametrize("blob_source", [LARGE, InPieces()])
@pytest.mark.parametrize("ending", ["reset", "close", "half", "open"])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_refusal_before_the_body_is_sent_is_read_once(
    blob_source: BlobSource, ending: str, tmp_path: Path, *, tls: bool
) -> None:
    """However the connection ends after a refusal, the refusal is raised, and the body is not sent again."""
    requests = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await head(reader)
        requests += 1
        writer.write(REFUSAL)
        await writer.drain()
        if ending == "reset":
            reset(writer)
        elif ending == "close":
            writer.close()
        elif ending == "half" and writer.can_write_eof():
            writer.write_eof()

    context, file = self_signed(tmp_path) if tls else (None, None)
    changes = {"options": {"plain_http": False, "ca_file": file}} if tls else {}
    async with server(refuse, tls=context) as address:
        with pytest.raises(RegistryRefusedError, match="413: too large"):
            await upload(address, blob_source, **changes)
    assert requests == 1


async def test_a_refusal_with_a_reset_at_once_is_read() -> None:
    """A refusal and a reset that come while the event loop is busy with something else are not lost."""
    answered = threading.Event()

    def refuse(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        connection.recv(4096)
        connection.sendall(REFUSAL)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        answered.set()

    @dataclass(frozen=True, slots=True)
    class Busy:
        descriptor: Descriptor = LARGE.descriptor

        async def stream(self, offset: int = 0) -> AsyncGenerator[bytes]:
            yield LARGE.content[offset:1000]
            answered.wait(PATIENCE)  # the loop does not run: it learns of the answer and of the reset in one turn
            yield LARGE.content[1000:]

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=refuse, args=(listening,))
        thread.start()
        with pytest.raises(RegistryRefusedError, match="413"):
            await upload(f"127.0.0.1:{listening.getsockname()[1]}", Busy())
        thread.join()


@pytest.mark.parametrize("interim", [CONTINUE, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"])
async def test_interim_answers_do_not_end_a_body(interim: bytes) -> None:
    """Interim answers before, while and after a body is sent change nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = await head(reader)
        writer.write(interim)
        while left:
            left -= len(await reader.read(1_000_000))
            if left % 7 == 0:
                writer.write(interim)
        writer.write(interim[:10])
        await writer.drain()
        writer.write(interim[10:] + STORED)

    async with server(serve) as address:
        await upload(address, InPieces())


async def test_an_early_success_does_not_end_a_body() -> None:
    """A registry that says 201 while it reads gets the whole body."""
    received = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        size = await head(reader)
        writer.write(STORED)
        while received < size:
            received += len(await reader.read(1_000_000))

    async with server(serve) as address:
        await upload(address, InPieces())
    assert received == SIZE


async def put_blob(client: RegistryClient) -> None:
    """Upload a small blob."""
    await upload_with(client, blob())


async def put_manifest(client: RegistryClient) -> None:
    """Put a manifest."""
    await client.put_manifest(Reference(Repository(client.registry, "a"), tag="1"), manifest(blob()))


async def start_upload(client: RegistryClient) -> None:
    """Open an upload session."""
    await client.start_upload(Repository(client.registry, "a"))


@pytest.mark.parametrize("request_once", [put_blob, put_manifest, start_upload])
async def test_interim_answers_without_end_are_an_error(
    request_once: Callable[[RegistryClient], Awaitable[None]],
) -> None:
    """After too many interim answers the request fails, is not repeated, and the error says why."""
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await head(reader)
        requests += 1
        while True:
            writer.write(CONTINUE * 10)
            await writer.drain()

    async with server(serve) as address, client_of(address) as client:
        with pytest.raises(InvalidAnswerError, match=f"more than {INTERIM_MAX} interim answers"):
            await request_once(client)
    assert requests == 1


async def test_an_interim_answer_without_end_ends_a_body() -> None:
    """An interim answer that never ends, as fast as it is read, is an error while a body is sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\n")
        while True:
            writer.write(b"Link: " + b"x" * 65_000 + b"\r\n")
            await writer.drain()

    async with server(serve) as address:
        with pytest.raises(InvalidAnswerError):
            await upload(address, InPieces())


@pytest.mark.parametrize("request_once", [put_manifest, start_upload])
async def test_an_answer_that_drips_ends_at_the_deadline(
    request_once: Callable[[RegistryClient], Awaitable[None]],
) -> None:
    """An answer whose head comes byte by byte ends when the policy's time is over, also after a body."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(await head(reader))
        writer.write(b"HTTP/1.1 201 Created\r\nX-Long: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    options = {"retry": replace(QUICK, timeout=0.3)}
    async with server(drip) as address, client_of(address, options=options) as client:
        with pytest.raises(RegistryUnreachableError):
            await request_once(client)


async def test_a_connection_is_used_again_after_a_body() -> None:
    """A connection that carried a body carries the next request."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            left = await head(reader)
            while left:
                left -= len(await reader.read(min(left, 1_000_000)))
            writer.write(CONTINUE + STORED)

    async with server(serve) as address, client_of(address) as client:
        for _ in range(3):
            await upload_with(client, InPieces())
    assert connections == 1


async def test_a_connection_on_which_a_body_was_not_ended_is_not_used_again() -> None:
    """A refusal that comes before the last chunk leaves the server in the body: no request may follow there."""
    refused = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n4\r\nbody\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        refused.set()

    async def body() -> AsyncIterator[bytes]:
        yield b"body"
        await refused.wait()

    pool = ConnectionPool(Dialer().dial, limit=1)
    async with server(refuse) as address, httpx.AsyncClient(transport=pool) as client:
        assert (await client.post(f"http://{address}/", content=body())).status_code == 413
        assert pool.count == 0


@pytest.mark.parametrize(
    ("parts", "status", "interim"),
    [
        ([b"HTTP/1.1 20"], None, 0),
        ([b"HTTP/1.1 20", b"1"], 201, 0),
        ([CONTINUE + CONTINUE[:-2], b"\r", b"\nHTTP/1.0 404 x"], 404, 2),
        ([b"HTTP/1.1 102 x\nA: b\n", b"\nHTTP/1.1 507"], 507, 1),
        ([b"HTTP/2.0 103 x\r\n\r\n", STORED], 201, 1),
        ([b"HTTP/1.1 101 Switching Protocols\r\n"], 101, 0),
        ([b"SSH-2.0-OpenSSH_9.6"], 0, 0),
        ([CONTINUE, STORED, CONTINUE * 1000], 201, 1),
    ],
)
def test_the_final_answer_is_found_among_interim_ones(
    parts: list[bytes], status: int | None, interim: int
) -> None:
    """Heads are read however the bytes are cut; after the final one nothing is read."""
    heads = AnswerHeads()
    for part in parts:
        heads.feed(part)
    assert (heads.status, heads.interim) == (status, interim)


def test_too_many_interim_answers_are_an_error() -> None:
    """The last interim answer that is accepted is the hundredth."""
    heads = AnswerHeads()
    heads.feed(CONTINUE * INTERIM_MAX)
    with pytest.raises(httpx.RemoteProtocolError):
        heads.feed(CONTINUE)


@pytest.mark.parametrize("size", [1, 70_000])
def test_an_interim_answer_that_is_too_long_is_an_error(size: int) -> None:
    """The head of an interim answer is not read without end, however its bytes come."""
    heads = AnswerHeads()
    begin = CONTINUE[:-2]
    heads.feed(CONTINUE + begin)
    for _ in range((HEAD_BYTES_MAX - len(begin)) // size):
        heads.feed(b"x" * size)
    with pytest.raises(httpx.RemoteProtocolError, match="100 KiB"):
        heads.feed(b"x" * size)
