"""Runners of a fleet that share an index in Redis, and a layer that all of them push."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from crossmount.fleet import Fleet, Slots, Turn, UploadTurn
from crossmount.index import Keys, open_index
from crossmount.oci import Digest
from support.index_kit import layer, repo
from support.places import Place

LAYER = layer()
SIZE = 10_000_000
LIFE, HEARTBEAT = 1.0, 0.2


async def turn_of(fleet: Fleet, name: str, *, slots: Slots | None = None, **options: Any) -> Turn:
    """Request a turn for LAYER."""
    return await fleet.turn(LAYER, repo(name), SIZE, slots=slots or Slots(1), **options)


async def upload_of(fleet: Fleet, name: str, **options: Any) -> UploadTurn:
    """Request a turn, and expect an upload."""
    turn = await turn_of(fleet, name, **options)
    assert isinstance(turn, UploadTurn)
    return turn


@asynccontextmanager
async def fleet_on(server: Place, *, life: float = LIFE) -> AsyncIterator[Fleet]:
    """Another runner, with its own connections and fleet."""
    async with open_index(server.url) as index, Fleet(index, life=life, heartbeat=HEARTBEAT) as fleet:
        yield fleet


def waiting_on(server: Place, layer: Digest = LAYER, registry: str = "r.example") -> int:
    """Return the number of waiters for a layer in Redis."""
    with server.client() as client:
        count = client.zcard(Keys().waiters(layer, registry))
        assert isinstance(count, int)
        return count
