"""Manifests after their blobs, children before their index, the tag last."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from crossmount import events
from crossmount.errors import BlobUnknownError
from crossmount.oci import BlobSource, Digest, Manifest, Reference
from crossmount.oci.layout import Image
from crossmount.registry import RegistryClient
from crossmount.transfer.concurrency import run_all

Repair = Callable[[Sequence[BlobSource]], Awaitable[None]]
"""Brings those blobs into the repository that the registry does not have after all."""


async def push_manifests(
    image: Image, reference: Reference, *, client: RegistryClient, repair: Repair, observer: events.Observer
) -> None:
    """Push every manifest of `image`, the root last, under its tag or else its digest.

    A manifest that is refused because a blob is unknown is pushed once more, after `repair`.

    Raises:
        RegistryError: the registry took neither.
    """
    blobs = {blob.descriptor.digest: blob for blob in image.blobs}

    async def put(manifest: Manifest) -> None:
        digest = manifest.descriptor.digest
        target = reference if manifest is image.root else Reference(reference.repository, digest=digest)
        try:
            await client.put_manifest(target, manifest)
        except BlobUnknownError:
            await repair([blobs[blob.digest] for blob in manifest.blobs if blob.digest in blobs])
            await client.put_manifest(target, manifest)
        observer(events.ManifestPushed(digest=digest, tag=target.tag))

    for level in _levels(image):
        await run_all([partial(put, manifest) for manifest in level])


def _levels(image: Image) -> list[list[Manifest]]:
    """Group the manifests so that each level needs only the ones before it."""
    depth: dict[Digest, int] = {}
    levels: list[list[Manifest]] = []
    for manifest in image.manifests:  # children come before their parents
        level = max((depth[child.digest] + 1 for child in manifest.children if child.digest in depth), default=0)
        depth[manifest.descriptor.digest] = level
        levels.extend([] for _ in range(level + 1 - len(levels)))
        levels[level].append(manifest)
    return levels
