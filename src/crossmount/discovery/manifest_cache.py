"""The digests that each manifest names, cached beside the index.

The cache lies on the index's own server, so it is emptied and moved together with what it describes. A digest
always stands for the same manifest, so all registries and repositories share one entry. Like the index it only
hints: a false entry makes false sources, which the registry refuses.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Protocol

from crossmount.discovery.manifest_summary import TEXT_MAX, ManifestSummary
from crossmount.index.backing_server import BackingServer, backing_server
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.oci import Digest
from crossmount.redis.execute import run_writes

LOCAL_MAX = 4096


class ManifestCache(Protocol):
    """Stores manifest summaries."""

    async def load(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestSummary]:
        """Return the summaries that are stored for these manifests, in one round trip."""
        ...

    async def store(self, manifests: Iterable[ManifestSummary]) -> None:
        """Store summaries, in one round trip, for as long as the index stores a layer."""
        ...


def manifest_cache_of(index: object) -> ManifestCache:
    """Return a cache on the index's server, or in this process if the index has no server."""
    server = backing_server(index)
    return LocalManifestCache() if server is None else ServerManifestCache(server)


class ServerManifestCache:
    """A cache on the server of an index."""

    def __init__(self, server: BackingServer, *, ttl: int = TTL_SECONDS) -> None:
        self._link = server.link
        self._keys = server.keys
        self._ttl = ttl

    async def load(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestSummary]:
        """Return the summaries that are stored; a value that breaks the format counts as missing."""
        wanted = list(dict.fromkeys(digests))
        if not wanted:
            return {}
        replies = await self._link.run(
            [("GETRANGE", self._keys.manifest(digest), 0, TEXT_MAX) for digest in wanted]
        )
        found = {}
        for digest, reply in zip(wanted, replies, strict=True):
            if isinstance(reply, bytes) and 0 < len(reply) <= TEXT_MAX:
                manifest = ManifestSummary.read(digest, reply)
                if manifest is not None:
                    found[digest] = manifest
        return found

    async def store(self, manifests: Iterable[ManifestSummary]) -> None:
        """Store summaries, without those that are too long."""
        texts = {manifest.digest: manifest.text() for manifest in manifests}
        await run_writes(
            self._link,
            [
                ("SET", self._keys.manifest(digest), text, "EX", self._ttl)
                for digest, text in texts.items()
                if 0 < len(text) <= TEXT_MAX
            ],
        )


class LocalManifestCache:
    """A cache in this process; the entry that was not used for the longest time is evicted first."""

    def __init__(self, *, limit: int = LOCAL_MAX) -> None:
        self._manifests: OrderedDict[Digest, ManifestSummary] = OrderedDict()
        self._limit = limit

    async def load(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestSummary]:
        """Return the summaries that are stored, which count as used now."""
        found = {digest: self._manifests[digest] for digest in digests if digest in self._manifests}
        for digest in found:
            self._manifests.move_to_end(digest)
        return found

    async def store(self, manifests: Iterable[ManifestSummary]) -> None:
        """Store summaries, and evict the least recently used ones beyond the limit."""
        for manifest in manifests:
            self._manifests[manifest.digest] = manifest
            self._manifests.move_to_end(manifest.digest)
        while len(self._manifests) > self._limit:
            self._manifests.popitem(last=False)
