"""Helpers for tests of a prune: an index with existing and missing layers, and the result."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from crossmount import events
from crossmount.asyncio import PruneReport, Repository, prune
from crossmount.index import MountIndex, Sighting
from crossmount.index.entries import entries_of
from crossmount.oci import Digest
from crossmount.testing import ScriptedRegistry
from support.registry_kit import PLAIN

VERDICTS: tuple[events.Verdict, ...] = ("held", "gone", "unseen", "denied", "failed", "unreachable")


def content(number: int) -> bytes:
    """Return one of many layers."""
    return b"layer %d" % number


async def fill(
    index: MountIndex, registry: ScriptedRegistry, held: Iterable[int], gone: Iterable[int], name: str = "team/app"
) -> None:
    """Record layers of a repository in the index; the registry has only some of them."""
    there = list(held)
    for number in there:
        registry.put_blob(name, content(number))
    place = Repository(registry.address, name)
    await index.record([Sighting(Digest.of(content(number)), place) for number in (*there, *gone)])


async def pruned(index: MountIndex, **details: Any) -> PruneReport:
    """Prune over plain http."""
    return await prune(index, **{"options": PLAIN, **details})


async def known(index: MountIndex) -> set[Digest]:
    """Return the layers of which the index knows a source."""
    return {entry.layer async for entry in entries_of(index) if entry.registries}


def digests(numbers: Iterable[int]) -> set[Digest]:
    """Return the digests of layers."""
    return {Digest.of(content(number)) for number in numbers}


def counts(**numbers: int) -> dict[events.Verdict, int]:
    """Return the expected counts; counts that are not given are 0."""
    return {verdict: numbers.get(verdict, 0) for verdict in VERDICTS}


def heads(registry: ScriptedRegistry) -> Counter[str]:
    """Return the number of requests for each blob."""
    return Counter(record.path for record in registry.matching(method="HEAD", path="/v2/*/blobs/*"))
