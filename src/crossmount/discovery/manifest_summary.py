"""The digests that each manifest names, cached beside the index.

The cache is on the index's own server, so it is emptied and moved together with the sources. A digest always
identifies the same manifest, so all registries and repositories share one entry. Like the index it only hints: a
false entry makes false sources, which the registry refuses.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, Self

from crossmount._dataclass import dataclass
from crossmount._parsing import decimal
from crossmount.errors import InvalidDigestError
from crossmount.index.protocol import BackingServer, Sighting, backing_server
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.oci import Digest, Manifest, Repository
from crossmount.oci.image import is_foreign
from crossmount.redis.execute import run_writes

TEXT_MAX = 64 * 1024
"""The longest stored text, in bytes: a longer one names more than 700 blobs."""


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """The blobs and the manifests that one manifest or index names.

    Attributes:
        digest: the manifest's own.
        blobs: config and layers with their sizes in bytes, each once, without foreign layers, which a registry
            need not store.
        children: the manifests of an index; a build cache of BuildKit is an index of blobs.
    """

    digest: Digest
    blobs: tuple[tuple[Digest, int], ...] = ()
    children: tuple[Digest, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the summary of `manifest`."""
        return cls(
            manifest.descriptor.digest,
            tuple((blob.digest, blob.size) for blob in manifest.blobs if not is_foreign(blob)),
            tuple(dict.fromkeys(child.digest for child in manifest.children)),
        )

    @classmethod
    def read(cls, digest: Digest, text: bytes) -> Self | None:
        """Parse the text that `text` returned for the manifest `digest`; None if it breaks the format."""
        blobs: list[tuple[Digest, int]] = []
        children: list[Digest] = []
        try:
            for line in text.decode("ascii").splitlines():
                name, blank, size = line.partition(" ")
                number = decimal(size)
                if not blank:
                    children.append(Digest(name))
                elif number is not None:
                    blobs.append((Digest(name), number))
                else:
                    return None
        except (UnicodeDecodeError, InvalidDigestError):
            return None
        return cls(digest, tuple(blobs), tuple(children)) if blobs or children else None

    def text(self) -> str:
        """Return it as text: one line `digest size` for each blob, one line `digest` for each child."""
        return "\n".join([*(f"{blob} {size}" for blob, size in self.blobs), *self.children])

    def sightings(self, repository: Repository) -> Iterator[Sighting]:
        """Yield the blobs that `repository` must have, since it has the manifest."""
        for blob, size in self.blobs:
            yield Sighting(blob, repository, size)


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
