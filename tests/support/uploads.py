"""A blob that records its reads, and an upload that is checked to have arrived once."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from crossmount.events import Event
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.testing import (
    ScriptedRegistry,
)
from support.registry_kit import client_of

SIZE = 100_000
PIECE = 1000


@dataclass(frozen=True, slots=True)
class Pieces:
    """A blob that is read in small pieces, and records the offsets of its reads."""

    descriptor: Descriptor
    content: bytes
    opened: list[int]

    async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on."""
        self.opened.append(offset)
        for at in range(offset, len(self.content), PIECE):
            yield self.content[at : at + PIECE]


def pieces(size: int = SIZE) -> Pieces:
    """Return a blob of so many bytes."""
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    return Pieces(Descriptor("x/y", Digest.of(content), size), content, [])


async def upload(registry: ScriptedRegistry, item: Pieces, chunk_size: int | None = None) -> list[Event]:
    """Upload a blob, and check that it arrived once and that no session is left."""
    events: list[Event] = []
    async with client_of(registry.address, observer=events.append) as client:
        session = await client.start_upload(Repository(registry.address, "team/app"))
        await client.upload_blob(session, item, chunk_size=chunk_size)
    assert registry.uploads(item.descriptor.digest) == 1
    assert registry.open_sessions == ()
    assert registry.unplayed == ()
    return events


CHUNKS = [None, 30_000]
