"""Image layouts (image specification, image-layout.md) in a directory or a tar.

`docker save` (25 and later), `docker buildx build --output type=oci`, skopeo and podman write such tars. These
functions block while they read a few small files; from an event loop call them with `asyncio.to_thread`.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

from crossmount._arguments import kind_of
from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError, InvalidLayoutError, InvalidManifestError
from crossmount.oci.archive import ArchiveFiles
from crossmount.oci.descriptor import REF_NAME, Descriptor
from crossmount.oci.image import Image, read_image
from crossmount.oci.image_spool import ImageSpool
from crossmount.oci.layout_files import DirectoryFiles, LayoutFiles, OpenFile, read
from crossmount.oci.manifest import MANIFEST_BYTES_MAX, Manifest
from crossmount.oci.platforms import Platform
from crossmount.oci.reference import Reference

__all__ = ["Image", "Layout", "NamedImage", "load_image", "open_layout"]

CONTAINERD_NAME = "io.containerd.image.name"
LAYOUT_VERSION = "1.0.0"
STANDARD_INPUT = "-"

_LAYOUT_BYTES_MAX = 64 * 1024
_SCHEMES: tuple[Literal["oci"], Literal["oci-archive"]] = ("oci", "oci-archive")
_ELSEWHERE = ("docker", "docker-daemon", "docker-archive", "containers-storage", "dir", "ostree", "sif")


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An entry of a layout's `index.json`.

    Attributes:
        descriptor: the entry.
        names: the entry's tags and full names; may be empty.
    """

    descriptor: Descriptor
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " = ".join(self.names) or str(self.descriptor.digest)


@dataclass(frozen=True, slots=True)
class Layout:
    """An open layout.

    Attributes:
        images: its images, each digest once.
        tag: the tag in the layout's source, or None.
        files: its files.
    """

    images: tuple[NamedImage, ...]
    tag: str | None
    files: LayoutFiles = field(repr=False)

    def select(
        self, tag: str | None = None, *, allow_absent: bool = False, platforms: Sequence[Platform] = ()
    ) -> Image:
        """Read one image.

        Args:
            tag: a tag, a full name, or a digest; None selects the tag in the layout's source, or the only image.
            allow_absent: whether a blob that is missing becomes an `AbsentBlob`, which a push mounts or fetches.
            platforms: read these platforms of an index alone, into a new index; all without any.

        Raises:
            InvalidInputError: the image has no such platform.
            InvalidLayoutError: no image or several match, or the image is not complete.
            InvalidManifestError: one of its manifests cannot be followed.
        """
        wanted = self.tag if tag is None else tag
        found = self.images if wanted is None else self._named(wanted)
        if len(found) == 1:
            return read_image(self.files, found[0].descriptor, allow_absent=allow_absent, platforms=platforms)
        names = ", ".join(str(image) for image in (found or self.images)[:20])
        if not self.images:
            raise InvalidLayoutError(f"{self.files.where}: a layout without an image")
        if wanted is None:
            raise InvalidLayoutError(f"{self.files.where}: several images, choose one by its tag: {names}")
        many = "is the name of several images" if found else "names no image of it; it has"
        raise InvalidLayoutError(f"{self.files.where}: {wanted!r:.300} {many}: {names}")

    def _named(self, wanted: str) -> tuple[NamedImage, ...]:
        """Return the images with exactly this name, or else those whose name means the same reference."""
        exact = tuple(i for i in self.images if wanted in i.names or wanted == i.descriptor.digest)
        return exact or tuple(i for i in self.images if any(_means(name, wanted) for name in i.names))


def open_layout(source: str | Path, *, spool: ImageSpool | None = None) -> Layout:
    """Open an image layout.

    Args:
        source: `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]`, or only the path of a directory or a tar. As in
            skopeo the tag begins at the first colon, unless only a path with that colon exists.
        spool: allows `-`, a tar on standard input, and tars that gzip or zstd has packed: they are spooled.

    Raises:
        InvalidLayoutError: there is no readable layout.
    """
    scheme, path, tag = _parse_source(source)
    if spool is not None and str(path) == STANDARD_INPUT and scheme != "oci":
        return spooled_layout(spool.standard_input(), where="standard input", tag=tag)
    if not (path.exists() or path.is_symlink()):
        raise InvalidLayoutError(
            f"{_foreign(source) or path}: no such file or directory{_source_hint(source, path) or _GIVE}"
        )
    is_directory = path.is_dir()
    if scheme and is_directory != (scheme == "oci"):
        right = f"oci:{path}" if is_directory else f"oci-archive:{path}"
        raise InvalidLayoutError(f"{path}: {'a' if is_directory else 'not a'} directory: write {right}")
    files: LayoutFiles = DirectoryFiles.open(path) if is_directory else ArchiveFiles.open(path, spool=spool)
    return _layout(files, tag)


def spooled_layout(file: OpenFile, *, where: str, tag: str | None = None) -> Layout:
    """Open an image layout in a tar that was spooled.

    Args:
        file: the tar.
        where: its name in errors.
        tag: the tag of the image to select.

    Raises:
        InvalidLayoutError: it is no layout.
    """
    return _layout(ArchiveFiles.open(Path(where), spooled=file), tag)


def load_image(
    source: str | Path,
    *,
    allow_absent: bool = False,
    platforms: Sequence[Platform] = (),
    spool: ImageSpool | None = None,
) -> Image:
    """Open a layout and read the image with the tag in `source`, or the only image.

    Args:
        source: a source as for `open_layout`.
        allow_absent: whether a blob that is missing becomes an `AbsentBlob`, which a push mounts or fetches.
        platforms: read these platforms of an index alone, into a new index; all without any.
        spool: as for `open_layout`.

    Raises:
        InvalidLayoutError: there is no such layout or image, or it is not complete.
        InvalidManifestError: one of its manifests cannot be followed.
    """
    return open_layout(source, spool=spool).select(allow_absent=allow_absent, platforms=platforms)


def _parse_source(source: str | Path) -> tuple[Literal["oci", "oci-archive", ""], Path, str | None]:
    """Return the scheme, the path and the tag."""
    if not isinstance(source, str | os.PathLike):
        raise InvalidInputError(f"not an image: {kind_of(source)}: give a path, oci:DIR[:TAG] or an Image")
    text = source if isinstance(source, str) else ""
    for scheme in _SCHEMES:
        if text.startswith(f"{scheme}:"):
            path, tag = _split_tag(text[len(scheme) + 1 :])
            if not path:
                raise InvalidLayoutError(f"{text!r:.300}: give {scheme}:PATH or {scheme}:PATH:TAG")
            return scheme, Path(path), tag or None
    if isinstance(source, str) and (not source or "\0" in source):
        raise InvalidLayoutError("not a path: it is empty or holds a NUL byte")
    return "", Path(source), None


def _split_tag(text: str) -> tuple[str, str]:
    """Split at the first colon after an existing path; otherwise keep the whole text if it is a path."""
    colons = [at for at, c in enumerate(text) if c == ":"]
    for at in colons:
        if Path(text[:at]).exists():
            return text[:at], text[at + 1 :]
    if not colons or Path(text).exists():
        return text, ""
    return text[: colons[0]], text[colons[0] + 1 :]


def _foreign(source: str | Path) -> str:
    """Return a source of another tool's form, as it was written (a path would lose a slash)."""
    start, colon, _ = str(source).partition(":")
    return str(source)[:200] if colon and start in _ELSEWHERE else ""


def _source_hint(source: str | Path, path: Path) -> str:
    """Return a hint for a path that does not exist."""
    text = str(source)
    if text.startswith(tuple(f"{scheme}:" for scheme in _SCHEMES)):
        return ""
    start, colon, rest = text.partition(":")
    if foreign := _foreign(source):
        hint = f": bring it into a layout first, for example with skopeo copy {foreign} oci-archive:image.tar"
        return f"{hint}; crossmount copy copies from registry to registry" if start == "docker" else hint
    if colon and Path(start).exists():
        scheme = "oci" if Path(start).is_dir() else "oci-archive"
        return f": to choose an image by its tag write {scheme}:{start}:{rest[:200]}"
    if path.is_absolute():
        return ""
    return f" in {Path.cwd()}{_image_hint(text) or _GIVE}"


_GIVE = ": give an image layout, or a tar of an image (docker save, skopeo copy)"


def _image_hint(text: str) -> str:
    """Return how to get an image that is named as docker names it; nothing if it may well be meant as a path."""
    try:
        reference = Reference.parse(text)
    except InvalidInputError:
        return ""
    if reference.target is None or text.startswith(("./", "../")):
        return ""
    return f": docker save {text[:200]} | crossmount push - DEST, or skopeo copy docker://{text[:200]} oci:DIR"


def _layout(files: LayoutFiles, tag: str | None) -> Layout:
    _check_version(files)
    return Layout(_images(files), tag, files)


def _check_version(files: LayoutFiles) -> None:
    content = read(files, "oci-layout", limit=_LAYOUT_BYTES_MAX)
    if content is None:
        raise InvalidLayoutError(f"{files.where}: {_what_it_is_instead(files)}")
    try:
        version = json.loads(content)["imageLayoutVersion"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InvalidLayoutError(f"{files.where}: its file oci-layout names no imageLayoutVersion") from None
    if version != LAYOUT_VERSION:
        raise InvalidLayoutError(
            f"{files.where}: an image layout of version {version!r:.60}, only {LAYOUT_VERSION} is known"
        )


def _what_it_is_instead(files: LayoutFiles) -> str:
    has_manifest = files.find("manifest.json") is not None
    if has_manifest and files.find("version") is not None:
        return f"skopeo's own format: convert it with skopeo copy dir:{files.where} oci:image"
    if has_manifest or files.find("repositories") is not None:
        return (
            f"a legacy docker-archive: convert it with skopeo copy docker-archive:{files.where} "
            f"oci-archive:image.tar, or save it with docker 25 or later"
        )
    inner = files.folder_with("oci-layout")
    if inner is not None:
        return f"no image layout at its top, there is one in {inner!r:.300}: give that, or pack it with tar -C"
    return f"not an image layout: it has no file oci-layout{_GIVE}"


def _images(files: LayoutFiles) -> tuple[NamedImage, ...]:
    content = read(files, "index.json", limit=MANIFEST_BYTES_MAX)
    if content is None:
        raise InvalidLayoutError(f"{files.where}: an image layout without its index.json")
    try:
        index = Manifest.parse(content, where=f"{files.where}: index.json")
    except InvalidManifestError as error:
        raise InvalidLayoutError(str(error)) from error
    if not index.descriptor.is_index:
        raise InvalidLayoutError(f"{files.where}: its index.json is not an image index")
    images: dict[str, NamedImage] = {}
    for child in index.children:
        first = images.get(child.digest, NamedImage(child))
        images[child.digest] = NamedImage(first.descriptor, tuple(dict.fromkeys((*first.names, *_names(child)))))
    return tuple(images.values())


def _names(descriptor: Descriptor) -> Iterator[str]:
    for key in (CONTAINERD_NAME, REF_NAME):
        if name := descriptor.annotations.get(key):
            yield name


def _means(name: str, wanted: str) -> bool:
    """Return whether a name in a layout has the wanted tag, or is the wanted reference."""
    try:
        full = Reference.parse(name)
    except InvalidInputError:
        return False
    if full.tag == wanted:
        return True
    try:
        return full == Reference.parse(wanted)
    except InvalidInputError:
        return False
