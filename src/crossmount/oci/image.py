"""A whole image read from a layout, and checked before a byte of it is sent."""

from dataclasses import dataclass, field

from crossmount.errors import InvalidLayoutError
from crossmount.oci.blob import BlobSource, FileBlob
from crossmount.oci.descriptor import Descriptor
from crossmount.oci.digest import Digest
from crossmount.oci.layout_files import Extent, LayoutFiles, read_extent
from crossmount.oci.manifest import INDEX_DEPTH_MAX, MANIFEST_BYTES_MAX, Manifest

_FOREIGN_MARKS = (".foreign.", ".nondistributable.")


@dataclass(frozen=True, slots=True)
class Image:
    """An image, with all it takes to push it.

    Attributes:
        root: the manifest, or the index of a multi-platform image.
        manifests: every manifest and index, each digest once, children before their parents; `root` is the last.
        blobs: every config and layer of all of them, each digest once; foreign layers that are not there are left
            out.
    """

    root: Manifest
    manifests: tuple[Manifest, ...]
    blobs: tuple[BlobSource, ...]


def read_image(files: LayoutFiles, descriptor: Descriptor) -> Image:
    """Read an image from a layout.

    Every manifest's bytes are checked against its digest, and every blob is there, readable, and of the size that
    its descriptor names. Layers are not hashed here: whoever takes them does.

    Args:
        files: the layout.
        descriptor: the image's entry in the layout's `index.json`.

    Raises:
        InvalidLayoutError: a blob is missing, or is not what its descriptor says.
        InvalidManifestError: a manifest cannot be followed.
    """
    walk = _Walk(files)
    walk.enter(descriptor, named_by="index.json", depth=0)
    manifests = tuple(walk.manifests.values())
    return Image(manifests[-1], manifests, tuple(walk.blobs.values()))


@dataclass(slots=True)
class _Walk:
    """What was found on the way down from an image's root.

    Attributes:
        heights: of each manifest done: how many indexes are above one another in it.
    """

    files: LayoutFiles
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, BlobSource] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)
    heights: dict[Digest, int] = field(default_factory=dict)

    def enter(self, descriptor: Descriptor, *, named_by: str, depth: int) -> int:
        """Read a manifest after all that it names; return its height.

        It ends: an index cannot hold its own digest, since digests are checked, and depth is bounded.
        """
        digest = descriptor.digest
        self._agree(descriptor, named_by)
        depth_here = depth + self.heights.get(digest, 0)
        if depth_here > INDEX_DEPTH_MAX:
            raise InvalidLayoutError(
                f"{self.files.where}: {named_by} is an index in more than {INDEX_DEPTH_MAX} others"
            )
        if digest not in self.manifests:
            manifest = self._read(descriptor, named_by)
            own_name = f"{'index' if descriptor.is_index else 'manifest'} {digest}"
            self.heights[digest] = max(
                (self.enter(child, named_by=own_name, depth=depth + 1) + 1 for child in manifest.children),
                default=0,
            )
            for blob in manifest.blobs:
                self._take(blob, named_by=own_name)
            self.manifests[digest] = manifest
        return self.heights[digest]

    def _read(self, descriptor: Descriptor, named_by: str) -> Manifest:
        what = f"{self.files.where}: {descriptor.digest}"
        if descriptor.size > MANIFEST_BYTES_MAX:
            raise InvalidLayoutError(
                f"{what}: {named_by} gives its size as {descriptor.size} bytes, a manifest may have 4 MiB"
            )
        extent = self._find(descriptor, named_by)
        if extent is None:
            raise InvalidLayoutError(
                f"{what}: this manifest is missing, {named_by} names it: "
                f"if only one platform of the image was saved, save it with --platform"
            )
        self._check_size(descriptor, extent, named_by)
        content = read_extent(extent, what=what)
        return Manifest.parse(content, media_type=descriptor.media_type, digest=descriptor.digest, where=what)

    def _take(self, descriptor: Descriptor, *, named_by: str) -> None:
        self._agree(descriptor, named_by)
        if descriptor.digest in self.blobs:
            return
        extent = self._find(descriptor, named_by)
        if extent is not None:
            self._check_size(descriptor, extent, named_by)
            self.blobs[descriptor.digest] = FileBlob(descriptor, extent.path, extent.start)
        elif not is_foreign(descriptor):
            raise InvalidLayoutError(
                f"{self.files.where}: blob {descriptor.digest} is missing, {named_by} names it: "
                f"make the layout anew"
            )

    def _agree(self, descriptor: Descriptor, named_by: str) -> None:
        first = self.sizes.setdefault(descriptor.digest, descriptor.size)
        if first != descriptor.size:
            raise InvalidLayoutError(
                f"{self.files.where}: {descriptor.digest} has {descriptor.size} bytes by {named_by}, "
                f"and {first} by another that names it"
            )

    def _find(self, descriptor: Descriptor, named_by: str) -> Extent | None:
        digest = descriptor.digest
        try:
            return self.files.find(f"blobs/{digest.algorithm}/{digest.encoded}")
        except InvalidLayoutError as error:
            raise InvalidLayoutError(f"{error}: this is blob {digest}, {named_by} names it") from error

    def _check_size(self, descriptor: Descriptor, extent: Extent, named_by: str) -> None:
        if extent.size != descriptor.size:
            what = "truncated" if extent.size < descriptor.size else "too long"
            raise InvalidLayoutError(
                f"{self.files.where}: blob {descriptor.digest} is {what}: it has {extent.size} bytes, "
                f"{named_by} says {descriptor.size}"
            )


def is_foreign(descriptor: Descriptor) -> bool:
    """Tell whether a layer may be missing from a layout, to be fetched elsewhere, which crossmount never does."""
    return bool(descriptor.urls) or any(mark in descriptor.media_type for mark in _FOREIGN_MARKS)
