"""An image in a layout: its manifests and blobs, checked before any of them is sent."""

from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import NoReturn

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidLayoutError
from crossmount.oci.blob import AbsentBlob, BlobSource, FileBlob
from crossmount.oci.descriptor import Descriptor, Digest
from crossmount.oci.layout_files import Extent, LayoutFiles, read_extent
from crossmount.oci.manifest import MANIFEST_BYTES_MAX, Manifest, ManifestWalk, children_first
from crossmount.oci.platforms import Platform, check_config, select

_FOREIGN_MARKS = (".foreign.", ".nondistributable.")


@dataclass(frozen=True, slots=True)
class Image:
    """An image with everything that a push of it sends.

    Attributes:
        root: the manifest, or the index of a multi-platform image.
        manifests: every manifest and index, each digest once, children before their parents; `root` is the last.
        blobs: every config and layer of the manifests, each digest once, without absent foreign layers.
        platforms: the platforms that were chosen, if `root` is a new index with those alone.
    """

    root: Manifest
    manifests: tuple[Manifest, ...]
    blobs: tuple[BlobSource, ...]
    platforms: tuple[str, ...] = ()


def read_image(
    files: LayoutFiles,
    descriptor: Descriptor,
    *,
    allow_absent: bool = False,
    platforms: Sequence[Platform] = (),
) -> Image:
    """Read an image from a layout.

    Each manifest's bytes are checked against its digest. Each blob must exist, be readable, and have the size in
    its descriptor. Layers are not hashed here; they are hashed while they are sent.

    Args:
        files: the layout.
        descriptor: the image's entry in the layout's `index.json`.
        allow_absent: whether a blob that is missing becomes an `AbsentBlob`. Manifests must be there.
        platforms: read these platforms of an index alone; all without any.

    Raises:
        InvalidInputError: the image has no such platform.
        InvalidLayoutError: a blob or a manifest is missing, or does not match its descriptor.
        InvalidManifestError: a manifest cannot be followed.
    """
    reader = _LayoutReader(files, allow_absent, platforms)
    manifests = reader.read(descriptor)
    return Image(manifests[-1], manifests, reader.blobs(manifests), reader.chosen)


@dataclass(slots=True)
class _LayoutReader:
    """Reads one image of a layout.

    Attributes:
        files: the layout.
        allow_absent: whether blobs may be missing.
        platforms: the platforms to read, all without any.
        chosen: the names of those that a new index has.
        named: each manifest's descriptor, and the manifest or file that names it.
        sizes: the size of each digest that is named so far.
    """

    files: LayoutFiles
    allow_absent: bool
    platforms: Sequence[Platform]
    chosen: tuple[str, ...] = ()
    named: dict[Digest, tuple[Descriptor, str]] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)

    def read(self, root: Descriptor) -> tuple[Manifest, ...]:
        """Read the root and all manifests below it; return children before the indexes that name them.

        This ends: an index cannot name its own digest, because digests are checked, and the depth is limited.
        """
        found: dict[Digest, Manifest] = {}
        walk = ManifestWalk(limit=None, exceeded=self._exceeded)

        def take(manifest: Manifest) -> None:
            found[manifest.descriptor.digest] = manifest
            for child in manifest.children:
                self._name(child, _called(manifest))
            walk.add(manifest.descriptor.digest, [child.digest for child in manifest.children])

        self._name(root, "index.json")
        whole = self._manifest(root, "index.json")
        top = self._choose(whole) if self.platforms else whole
        self._name(top.descriptor, "index.json")
        take(top)
        while level := walk.next_level():
            for digest in level:
                take(self._manifest(*self.named[digest]))
        return children_first(top.descriptor.digest, found, exceeded=self._exceeded)

    def _choose(self, root: Manifest) -> Manifest:
        """Return the index with the wanted platforms alone; check that an image without an index is of them."""
        where = f"{self.files.where}: {root.descriptor.digest}"
        if root.descriptor.is_index:
            top, self.chosen = select(root, self.platforms, where=where)
            return top
        config = root.blobs[0]
        extent = self._find(config, _called(root))
        if extent is None or extent.size > MANIFEST_BYTES_MAX:
            raise InvalidLayoutError(
                f"{where}: its platform is not known, since its config is not in the layout: leave --platform out"
            )
        check_config(read_extent(extent, what=where), self.platforms, where=where)
        return root

    def blobs(self, manifests: Iterable[Manifest]) -> tuple[BlobSource, ...]:
        """Return each blob that the manifests name once, without foreign layers that are not in the layout."""
        blobs: dict[Digest, BlobSource] = {}
        for manifest in manifests:
            for descriptor in manifest.blobs:
                named_by = _called(manifest)
                self._agree(descriptor, named_by)
                if descriptor.digest in blobs:
                    continue
                extent = self._find(descriptor, named_by)
                if extent is not None:
                    self._check_size(descriptor, extent, named_by)
                    blobs[descriptor.digest] = FileBlob(
                        descriptor, extent.path, extent.start, extent.checked_size, extent.file
                    )
                elif not is_foreign(descriptor):
                    missing = f"{self.files.where}: blob {descriptor.digest} is missing, {named_by} names it"
                    if not self.allow_absent:
                        raise InvalidLayoutError(f"{missing}: make the layout anew")
                    blobs[descriptor.digest] = AbsentBlob(descriptor, missing)
        return tuple(blobs.values())

    def _manifest(self, descriptor: Descriptor, named_by: str) -> Manifest:
        what = f"{self.files.where}: {descriptor.digest}"
        if descriptor.size > MANIFEST_BYTES_MAX:
            raise InvalidLayoutError(
                f"{what}: {named_by} gives its size as {descriptor.size} bytes, a manifest may have 4 MiB"
            )
        extent = self._find(descriptor, named_by)
        if extent is None:
            raise InvalidLayoutError(
                f"{what}: this manifest is missing, {named_by} names it: "
                f"choose the platforms that are there with --platform, such as --platform linux/amd64"
            )
        self._check_size(descriptor, extent, named_by)
        content = read_extent(extent, what=what)
        return Manifest.parse(content, media_type=descriptor.media_type, digest=descriptor.digest, where=what)

    def _name(self, descriptor: Descriptor, named_by: str) -> None:
        self._agree(descriptor, named_by)
        self.named.setdefault(descriptor.digest, (descriptor, named_by))

    def _agree(self, descriptor: Descriptor, named_by: str) -> None:
        first = self.sizes.setdefault(descriptor.digest, descriptor.size)
        if first != descriptor.size:
            raise InvalidLayoutError(
                f"{self.files.where}: {descriptor.digest} has {descriptor.size} bytes by {named_by}, "
                f"and {first} by another that names it"
            )

    def _exceeded(self, reason: str, digest: Digest) -> NoReturn:
        raise InvalidLayoutError(f"{self.files.where}: {self.named[digest][1]} is {reason}")

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


def _called(manifest: Manifest) -> str:
    """Return a manifest's name in errors."""
    return f"{'index' if manifest.descriptor.is_index else 'manifest'} {manifest.descriptor.digest}"


def is_foreign(descriptor: Descriptor) -> bool:
    """Return whether a layer may be absent, to be fetched from another server; crossmount never fetches it."""
    return bool(descriptor.urls) or any(mark in descriptor.media_type for mark in _FOREIGN_MARKS)
