"""Which blobs a manifest names, remembered beside the index.

It lies on the index's own server, so that it lives and dies with what it describes: an index that was emptied, or
another one, has not "seen" anything. What a digest stands for never changes, so all registries and repositories
share it. It is a hint like all: a false memory makes false sources, which the registry refuses.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Protocol

from crossmount.discovery.manifest_summary import TEXT_MAX, ManifestSummary
from crossmount.index.backing_server import Server, server_of
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.oci import Digest
from crossmount.redis.execute import write

LOCAL_MAX = 4096


class ManifestCache(Protocol):
    """Remembers outlines."""

    async def recall(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestSummary]:
        """Return those of these manifests that are remembered, in one round trip."""
        ...

    async def keep(self, outlines: Iterable[ManifestSummary]) -> None:
        """Remember manifests, in one round trip, for as long as the index remembers a layer."""
        ...


def manifest_cache_of(index: object) -> ManifestCache:
    """Return the memory of an index's server, or one of this process if it has no server."""
    server = server_of(index)
    return LocalManifestCache() if server is None else ServerManifestCache(server)


class ServerManifestCache:
    """A memory on the server of an index."""

    def __init__(self, server: Server, *, ttl: int = TTL_SECONDS) -> None:
        self._link = server.link
        self._keys = server.keys
        self._ttl = ttl

    async def recall(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestSummary]:
        """See `Memory`; what is no outline is not remembered."""
        wanted = list(dict.fromkeys(digests))
        if not wanted:
            return {}
        replies = await self._link.run(
            [("GETRANGE", self._keys.manifest(digest), 0, TEXT_MAX) for digest in wanted]
        )
        found = {}
        for digest, reply in zip(wanted, replies, strict=True):
            if isinstance(reply, bytes) and 0 < len(reply) <= TEXT_MAX:
                outline = ManifestSummary.read(digest, reply)
                if outline is not None:
                    found[digest] = outline
        return found

    async def keep(self, outlines: Iterable[ManifestSummary]) -> None:
        """See `Memory`."""
        texts = {outline.digest: outline.text() for outline in outlines}
        await write(
            self._link,
            [
                ("SET", self._keys.manifest(digest), text, "EX", self._ttl)
                for digest, text in texts.items()
                if 0 < len(text) <= TEXT_MAX
            ],
        )


class LocalManifestCache:
    """A memory of this process; what was not used for longest makes way."""

    def __init__(self, *, limit: int = LOCAL_MAX) -> None:
        self._outlines: OrderedDict[Digest, ManifestSummary] = OrderedDict()
        self._limit = limit

    async def recall(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestSummary]:
        """See `Memory`."""
        found = {digest: self._outlines[digest] for digest in digests if digest in self._outlines}
        for digest in found:
            self._outlines.move_to_end(digest)
        return found

    async def keep(self, outlines: Iterable[ManifestSummary]) -> None:
        """See `Memory`."""
        for outline in outlines:
            self._outlines[outline.digest] = outline
            self._outlines.move_to_end(outline.digest)
        while len(self._outlines) > self._limit:
            self._outlines.popitem(last=False)
