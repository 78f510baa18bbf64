"""Answers of an upstream that do not end where they should (RFC 9112, sections 6.3 and 11)."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crossmount.registry.http.channels import READ_BYTES
from crossmount.testing.acceptor import Acceptor

FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

WHOLE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (READ_BYTES - 43)
WHOLE_BUFFER = WHOLE_HEAD + b"x" * (READ_BYTES - 43)
"""An answer after which one read of ours ends, if all of it has come by then."""

ODD = {
    "body-of-head": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n" + FORGED),
    "body-of-chunked-head": ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + FORGED),
    "body-of-204": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 45\r\n\r\n" + FORGED),
    "body-of-304": ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n" + FORGED),
    "past-the-length": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + FORGED),
    "past-length-zero": ("GET", b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n" + FORGED),
    "past-the-last-chunk": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + FORGED,
    ),
    "past-the-trailers": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n" + FORGED,
    ),
    "half-an-answer-more": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX"),
    "one-byte-more": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\n"),
    "chunks-and-length": (
        "GET",
        b"HTTP/1.1 200 OK\r\nContent-Length: 47\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FORGED,
    ),
    "chunks-and-length-without-more": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    "two-lengths": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 47\r\n\r\nok" + FORGED),
    "list-of-lengths": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2, 47\r\n\r\nok" + FORGED),
    "signed-length": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok" + FORGED),
    "negative-length": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok" + FORGED),
    "hex-length": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok" + FORGED),
    "unknown-encoding": ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n" + FORGED),
    "chunked-not-last": ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n" + FORGED),
    "encoding-in-1.0": ("GET", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FORGED),
    "kept-alive-1.0": (
        "GET",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok" + FORGED,
    ),
    "space-before-colon": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok" + FORGED),
    "folded-length": ("GET", b"HTTP/1.1 200 OK\r\nX: y\r\n Content-Length: 2\r\n\r\nok" + FORGED),
    "bare-return": ("GET", b"HTTP/1.1 200 OK\r\nX: y\rContent-Length: 2\r\n\r\nok" + FORGED),
    "bare-line-feed": ("GET", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok" + FORGED),
    "split-header": (
        "GET",
        b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n" + FORGED + b"\r\nZ: z\r\n\r\n",
    ),
    "vast-chunk": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n" + FORGED,
    ),
    "chunk-without-end": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay0\r\n\r\n" + FORGED,
    ),
    "early-hints-and-more": (
        "GET",
        b"HTTP/1.1 103 Early\r\nContent-Length: 4\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + FORGED,
    ),
    "switching": ("GET", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + FORGED),
    "whole-buffer": ("GET", WHOLE_BUFFER + FORGED),
}


@asynccontextmanager
async def odd_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve `ODD[name]` at paths that end with the name, else the path itself; X-Port has the client's port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (first := await reader.readexactly(1)) != b"\x16":  # a client may try TLS after a bad answer
            head = first + await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            plain = b"HTTP/1.1 200 OK\r\nX-Port: %d\r\nContent-Length: %d\r\n\r\n%s" % (
                writer.get_extra_info("peername")[1],
                len(path),
                path.encode(),
            )
            if path.startswith("/head"):
                plain = plain.removesuffix(path.encode())
            _, answer = ODD.get(path.rpartition("/")[2], ("", plain))
            writer.write(answer)
            await writer.drain()

    async with Acceptor(serve, tls=tls) as acceptor:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{await acceptor.open()}"
