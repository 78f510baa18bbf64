"""An image read from a registry: every manifest of it, checked, before a byte of it is fetched."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from crossmount.errors import InvalidAnswerError
from crossmount.oci import BlobSource, Descriptor, Digest, Manifest, Reference
from crossmount.oci.image import Image, is_foreign
from crossmount.oci.manifest import INDEX_DEPTH_MAX
from crossmount.registry import RegistryClient
from crossmount.transfer.concurrency import run_all

MANIFESTS_MAX = 1000
"""More manifests than any image has."""

BYTES_MAX = 32 * 1024 * 1024
"""More bytes than all manifests of an image have: all are in memory at once."""


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image of a registry.

    Attributes:
        root: the manifest or index that the reference names.
        manifests: every manifest and index, each digest once, children before their parents; `root` is the last.
        blobs: every config and layer of all of them, each digest once; foreign layers that the repository does not
            hold are left out, and never fetched from elsewhere.
    """

    root: Manifest
    manifests: tuple[Manifest, ...]
    blobs: tuple[Descriptor, ...]

    def image(self, blob: Callable[[Descriptor], BlobSource]) -> Image:
        """Return the image with a source for each blob, ready to be pushed."""
        return Image(self.root, self.manifests, tuple(blob(descriptor) for descriptor in self.blobs))


async def read_remote(client: RegistryClient, reference: Reference, *, requests: asyncio.Semaphore) -> RemoteImage:
    """Read an image's manifests.

    Args:
        client: the client of the image's registry.
        reference: the image, by tag or digest.
        requests: limits requests.

    Raises:
        RegistryError: the registry does not have it, or what it has is no image that can be followed.
    """
    walk = _Walk(client, reference, requests)
    root = await walk.get(reference)
    await walk.descend([root])
    manifests = walk.in_order(root)
    return RemoteImage(root, manifests, await walk.held(_blobs(manifests, reference)))


@dataclass(slots=True)
class _Walk:
    """What was found on the way down from an image's root."""

    client: RegistryClient
    reference: Reference
    requests: asyncio.Semaphore
    found: dict[Digest, Manifest] = field(default_factory=dict)
    size: int = 0

    async def get(self, reference: Reference) -> Manifest:
        async with self.requests:
            manifest = await self.client.get_manifest(reference)
        self.size += manifest.descriptor.size
        if self.size > BYTES_MAX:
            raise InvalidAnswerError(f"{self.reference}: its manifests have more than {BYTES_MAX} bytes")
        return self.found.setdefault(manifest.descriptor.digest, manifest)

    async def descend(self, level: list[Manifest]) -> None:
        """Read all that indexes name, level by level."""
        repository = self.reference.repository
        for _ in range(INDEX_DEPTH_MAX + 1):
            wanted = {child.digest for manifest in level for child in manifest.children} - self.found.keys()
            if len(self.found) + len(wanted) > MANIFESTS_MAX:
                raise InvalidAnswerError(f"{self.reference}: an index of more than {MANIFESTS_MAX} manifests")
            if not wanted:
                return
            read: list[Manifest] = []

            async def one(digest: Digest, read: list[Manifest] = read) -> None:
                read.append(await self.get(Reference(repository, digest=digest)))

            await run_all([partial(one, digest) for digest in sorted(wanted)])
            level = read
        raise self._too_deep()

    def in_order(self, root: Manifest) -> tuple[Manifest, ...]:
        """Return all manifests, children before their parents."""
        ordered: dict[Digest, Manifest] = {}
        heights: dict[Digest, int] = {}

        def enter(manifest: Manifest, depth: int) -> int:
            """Enter a manifest after its children; return how many are above one another in it."""
            digest = manifest.descriptor.digest
            # the longest way down counts: an index may name all of a chain, which were all read in one step then
            if depth + heights.get(digest, 0) > INDEX_DEPTH_MAX:
                raise self._too_deep()
            if digest not in ordered:
                below = [enter(self.found[child.digest], depth + 1) + 1 for child in manifest.children]
                heights[digest] = max(below, default=0)
                ordered[digest] = manifest
            return heights[digest]

        enter(root, 0)
        return tuple(ordered.values())

    def _too_deep(self) -> InvalidAnswerError:
        return InvalidAnswerError(f"{self.reference}: an index in more than {INDEX_DEPTH_MAX} others")

    async def held(self, blobs: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
        """Leave out the foreign layers that the repository does not hold."""
        wanted, absent = list(blobs), set[Digest]()

        async def ask(digest: Digest) -> None:
            async with self.requests:
                if await self.client.head_blob(self.reference.repository, digest) is None:
                    absent.add(digest)

        foreign = [blob.digest for blob in wanted if is_foreign(blob)]
        await run_all([partial(ask, digest) for digest in foreign])
        return tuple(blob for blob in wanted if blob.digest not in absent)


def _blobs(manifests: Iterable[Manifest], reference: Reference) -> list[Descriptor]:
    """Return each blob once; all who name it must agree on its size."""
    blobs: dict[Digest, Descriptor] = {}
    for manifest in manifests:
        for blob in manifest.blobs:
            first = blobs.setdefault(blob.digest, blob)
            if first.size != blob.size:
                raise InvalidAnswerError(
                    f"{reference}: blob {blob.digest} has {blob.size} bytes by one manifest, "
                    f"{first.size} by another"
                )
    return list(blobs.values())
