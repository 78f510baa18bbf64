import asyncio
import contextlib

import pytest

from crossmount.errors import RegistryUnreachableError
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RegistryClient, RetryPolicy


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "start", [b"404 Not Found\r\nX: ", b"200 OK\r\nX: ", b"500 X\r\nContent-Length: 9999\r\n\r\n"]
)
async def test_a_registry_that_drips_its_answer_is_given_up_at_the_deadline(start: bytes) -> None:
    """An answer that comes a byte at a time ends at the request's deadline, though no single wait is long.

    Of a blob that is the answer's head, and what is no blob.
    """

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + start)
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.05)

    options = ClientOptions(plain_http=True, read_timeout=1, retry=RetryPolicy(timeout=0.5, outage=0.0))
    async with await asyncio.start_server(drip, "127.0.0.1") as server:
        where = Repository.parse(f"127.0.0.1:{server.sockets[0].getsockname()[1]}/a")
        async with RegistryClient(where, options=options) as client:
            if not start.startswith(b"500"):  # whose body is not read here
                with pytest.raises(RegistryUnreachableError):
                    await client.head_blob(where, Digest.of(b"layer"))
            with pytest.raises(RegistryUnreachableError):
                await client.stream_blob(where, Digest.of(b"layer")).__aenter__()
        await asyncio.sleep(0.2)
