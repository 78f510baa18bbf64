"""Helpers for tests of a scan: two layers, a scan, and its result."""

from crossmount.asyncio import ScanReport, scan
from crossmount.index import MountIndex
from crossmount.oci import Digest
from crossmount.testing import ScriptedRegistry
from support.registry_kit import PLAIN

BASE, OWN = b"base layer", b"own layer"


async def scanned(registry: ScriptedRegistry, index: MountIndex, **details: object) -> ScanReport:
    """Scan a registry in this process."""
    return await scan(registry.address, index=index, **{"options": PLAIN, **details})  # type: ignore[arg-type]


async def known(index: MountIndex, layer: bytes) -> set[str]:
    """Return the repositories that have a layer according to the index."""
    return {repository.name for repository in await index.locations(Digest.of(layer))}


def asked(registry: ScriptedRegistry, method: str, path: str) -> int:
    """Return the number of requests with this method and path."""
    return len(registry.matching(method=method, path=path))
