"""An image on a registry: all its manifests are read and checked before any blob is fetched."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from functools import partial
from typing import NoReturn

from crossmount._dataclass import dataclass
from crossmount._tasks import run_all
from crossmount.errors import InvalidAnswerError, RegistryRefusedError
from crossmount.oci import BlobSource, Descriptor, Digest, Manifest, Reference
from crossmount.oci.descriptor import each_once
from crossmount.oci.image import Image, is_foreign
from crossmount.oci.manifest import MANIFEST_BYTES_MAX, ManifestWalk, children_first
from crossmount.oci.platforms import Platform, check_config, select
from crossmount.registry import RegistryClient

MANIFESTS_MAX = 1000
"""The largest number of manifests in one image; real images have far fewer."""

BYTES_MAX = 32 * 1024 * 1024
"""The largest size of all manifests of an image together, in bytes: all of them are in memory at once."""


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image on a registry.

    Attributes:
        root: the manifest or index that the reference names.
        manifests: every manifest and index, each digest once, children before their parents; `root` is the last.
        blobs: every config and layer of all manifests, each digest once. Foreign layers that the repository lacks
            are left out; they are never fetched from elsewhere.
        platforms: the platforms that were chosen, if `root` is a new index with those alone.
    """

    root: Manifest
    manifests: tuple[Manifest, ...]
    blobs: tuple[Descriptor, ...]
    platforms: tuple[str, ...] = ()

    def image(self, blob: Callable[[Descriptor], BlobSource]) -> Image:
        """Return the image with a source for each blob, ready to be pushed."""
        return Image(self.root, self.manifests, tuple(blob(descriptor) for descriptor in self.blobs))


async def read_remote(
    client: RegistryClient,
    reference: Reference,
    *,
    requests: asyncio.Semaphore,
    platforms: Sequence[Platform] = (),
) -> RemoteImage:
    """Read an image's manifests.

    Args:
        client: the client of the image's registry.
        reference: the image, by tag or digest.
        requests: limits concurrent requests.
        platforms: read these platforms of an index alone; all without any.

    Raises:
        InvalidInputError: the image has no such platform.
        RegistryError: the registry does not have the image, or the image breaks a rule or a limit.
    """
    reader = _RegistryReader(client, reference, requests)
    walk = ManifestWalk(limit=MANIFESTS_MAX, exceeded=reader.exceeded)
    root, chosen = await reader.choose(await reader.get(reference), platforms)
    reader.take(root, walk)
    while level := walk.next_level():
        await run_all([partial(reader.get_child, digest, walk) for digest in sorted(level)])
    manifests = children_first(root.descriptor.digest, reader.found, exceeded=reader.exceeded)
    blobs = each_once((blob for manifest in manifests for blob in manifest.blobs), disagree=reader.two_sizes)
    return RemoteImage(root, manifests, await reader.without_absent_foreign(blobs), chosen)


@dataclass(slots=True)
class _RegistryReader:
    """Reads one image of a registry."""

    client: RegistryClient
    reference: Reference
    requests: asyncio.Semaphore
    found: dict[Digest, Manifest] = field(default_factory=dict)
    size: int = 0

    async def get(self, reference: Reference) -> Manifest:
        """Read a manifest."""
        async with self.requests:
            manifest = await self.client.get_manifest(reference)
        self.size += manifest.descriptor.size
        if self.size > BYTES_MAX:
            raise InvalidAnswerError(f"{self.reference}: its manifests have more than {BYTES_MAX} bytes")
        return manifest

    async def get_child(self, digest: Digest, walk: ManifestWalk) -> None:
        """Read a manifest that an index names, and enter it into the walk."""
        try:
            self.take(await self.get(Reference(self.reference.repository, digest=digest)), walk)
        except RegistryRefusedError as error:
            if error.status != 404:
                raise
            raise RegistryRefusedError(
                f"{self.reference}: a manifest is missing, its index names {digest}: "
                "choose the platforms that are there with --platform, such as --platform linux/amd64",
                status=error.status,
                codes=error.codes,
            ) from error

    def take(self, manifest: Manifest, walk: ManifestWalk) -> None:
        """Enter a manifest into the walk."""
        walk.add(manifest.descriptor.digest, [child.digest for child in manifest.children])
        self.found.setdefault(manifest.descriptor.digest, manifest)

    async def choose(self, root: Manifest, platforms: Sequence[Platform]) -> tuple[Manifest, tuple[str, ...]]:
        """Return the root with these platforms alone, and their names if it is a new index."""
        where = str(self.reference)
        if not platforms:
            return root, ()
        if root.descriptor.is_index:
            return select(root, platforms, where=where)
        config, content = root.blobs[0], bytearray()
        if config.size <= MANIFEST_BYTES_MAX:
            async with self.client.stream_blob(self.reference.repository, config.digest) as stream:
                async for part in stream:
                    content += part
                    if len(content) > config.size:
                        break
        check_config(bytes(content), platforms, where=where)
        return root, ()

    async def without_absent_foreign(self, blobs: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
        """Leave out the foreign layers that the repository lacks."""
        wanted, absent = list(blobs), set[Digest]()

        async def ask(digest: Digest) -> None:
            async with self.requests:
                if await self.client.head_blob(self.reference.repository, digest) is None:
                    absent.add(digest)

        await run_all([partial(ask, blob.digest) for blob in wanted if is_foreign(blob)])
        return tuple(blob for blob in wanted if blob.digest not in absent)

    def exceeded(self, reason: str, _: Digest) -> NoReturn:
        """Refuse an image that exceeds a limit."""
        raise InvalidAnswerError(f"{self.reference}: {reason}")

    def two_sizes(self, blob: Descriptor, first: int) -> InvalidAnswerError:
        """Return the error for a blob whose size (bytes) differs between manifests."""
        return InvalidAnswerError(
            f"{self.reference}: blob {blob.digest} has {blob.size} bytes by one manifest, {first} by another"
        )
