"""What tests of a scan share: two layers, a scan, and what came of it."""

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
    """Return the repositories that hold a layer by the index."""
    return {repository.name for repository in await index.locations(Digest.of(layer))}


def asked(registry: ScriptedRegistry, method: str, path: str) -> int:
    """Return how often something was asked."""
    return len(registry.matching(method=method, path=path))
