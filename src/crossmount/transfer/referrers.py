"""Copies the referrers of an image: signatures, SBOMs, attestations, and the referrers of those.

The registry's API lists them, or an index under a tag if the registry has no such API (distribution specification,
"Listing Referrers", "Referrers Tag Schema"). cosign also uses tags of its own.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import field
from functools import partial
from typing import Any

from crossmount._dataclass import dataclass
from crossmount._parsing import json_object
from crossmount._tasks import run_all
from crossmount.errors import InvalidAnswerError, RegistryRefusedError
from crossmount.oci import Descriptor, Digest, Manifest, Reference, Repository
from crossmount.oci.descriptor import OCI_INDEX
from crossmount.oci.reference import referrers_tag
from crossmount.registry import RegistryClient
from crossmount.transfer.remote_image import BYTES_MAX, RemoteImage

COSIGN_SUFFIXES = ("sig", "att", "sbom")
DEPTH_MAX = 4
REFERRERS_MAX = 1000

_LISTED_TRIES = 3

Read = Callable[[Reference], Awaitable[RemoteImage]]
Push = Callable[[RemoteImage, Reference], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _FoundReferrer:
    """A referrer of `subject`, by its `subject` property or, with a tag, by cosign's convention."""

    subject: Digest
    image: RemoteImage
    tag: str | None = None

    @property
    def digest(self) -> Digest:
        return self.image.root.descriptor.digest


@dataclass(slots=True, kw_only=True)
class ReferrerCopier:
    """Copies the referrers of one image from one repository to another.

    Attributes:
        source: the repository to copy from.
        source_client: the client of its registry.
        dest: the repository to copy to.
        dest_client: the client of its registry.
        read: reads an image of the source.
        push: pushes an image to the destination.
        copied: the digests of the copied referrers.
    """

    source: Repository
    source_client: RegistryClient
    dest: Repository
    dest_client: RegistryClient
    read: Read
    push: Push
    copied: dict[Digest, None] = field(default_factory=dict)
    _count: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)

    async def copy(self, image: RemoteImage) -> None:
        """Copy all referrers of `image` and of its manifests, which the destination has already.

        Raises:
            InvalidAnswerError: there are too many, or they are nested too deep.
        """
        subjects = [manifest.descriptor.digest for manifest in image.manifests]
        seen = set(subjects)
        for depth in range(DEPTH_MAX + 1):
            found = await self._found(subjects)
            if not found:
                return
            if depth == DEPTH_MAX:
                raise InvalidAnswerError(f"{self.source}: referrers of referrers, more than {DEPTH_MAX} deep")
            await run_all([partial(self._push, one) for one in found])
            await run_all([partial(self._list, subject, found) for subject in subjects])
            self.copied.update((one.digest, None) for one in found)
            subjects = sorted({m.descriptor.digest for one in found for m in one.image.manifests} - seen)
            seen.update(subjects)

    async def _found(self, subjects: Iterable[Digest]) -> list[_FoundReferrer]:
        """Return the direct referrers of `subjects`."""
        found: list[_FoundReferrer] = []

        async def of(subject: Digest) -> None:
            for descriptor in await self._referrers(subject):
                reference = Reference(self.source, digest=descriptor.digest)
                found.append(_FoundReferrer(subject, await self._read(reference)))
            for suffix in COSIGN_SUFFIXES:
                tag = f"{subject.algorithm}-{subject.encoded}.{suffix}"
                if len(tag) > 128:
                    continue
                signed = await self.source_client.head_manifest(Reference(self.source, tag))
                if signed is not None and signed.digest != subject:
                    found.append(_FoundReferrer(subject, await self._read(Reference(self.source, tag)), tag))

        await run_all([partial(of, subject) for subject in subjects])
        return found

    async def _read(self, reference: Reference) -> RemoteImage:
        """Read a referrer, which counts before it is requested: each manifest of an image may list a thousand."""
        self._count += 1
        if self._count > REFERRERS_MAX:
            raise InvalidAnswerError(f"{self.source}: more than {REFERRERS_MAX} manifests refer to one image")
        image = await self.read(reference)
        self._bytes += sum(manifest.descriptor.size for manifest in image.manifests)
        if self._bytes > BYTES_MAX:
            raise InvalidAnswerError(f"{self.source}: the referrers of one image have more than {BYTES_MAX} bytes")
        return image

    async def _referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        listed = await self.source_client.list_referrers(self.source, subject)
        if listed is None:
            index = await _under_tag(self.source_client, self.source, subject)
            listed = () if index is None else index.children[:REFERRERS_MAX]
        return tuple(one for one in listed if one.digest != subject)

    async def _push(self, referrer: _FoundReferrer) -> None:
        tag = referrer.tag
        await self.push(referrer.image, Reference(self.dest, tag, None if tag else referrer.digest))

    async def _list(self, subject: Digest, found: Iterable[_FoundReferrer]) -> None:
        """Add the referrers of `subject` to the tagged index, if the destination has no referrers API.

        Another client may write the same tag at the same time, so it is read again afterwards.
        """
        entries = [_entry(one.image.root) for one in found if one.subject == subject and one.tag is None]
        if not entries or await self.dest_client.list_referrers(self.dest, subject) is not None:
            return
        tag = Reference(self.dest, referrers_tag(subject))
        for _ in range(_LISTED_TRIES):
            listed = await _under_tag(self.dest_client, self.dest, subject)
            content = with_entries(None if listed is None else listed.content, entries)
            if content is None:
                return
            await self.dest_client.put_manifest(tag, Manifest.parse(content, media_type=OCI_INDEX, where=str(tag)))


def with_entries(index: bytes | None, entries: Iterable[dict[str, Any]]) -> bytes | None:
    """Return an index of referrers with more entries; None if it has all of them already.

    Args:
        index: the present image index, if there is one.
        entries: the descriptors to add.
    """
    document = json_object(index) if index is not None else None
    if document is None or not isinstance(document.get("manifests"), list):
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    listed = {entry.get("digest") for entry in document["manifests"] if isinstance(entry, dict)}
    more = [entry for entry in entries if entry["digest"] not in listed]
    if not more:
        return None
    return json.dumps({**document, "manifests": [*document["manifests"], *more]}).encode()


async def _under_tag(client: RegistryClient, repository: Repository, subject: Digest) -> Manifest | None:
    """Return the index of referrers under a subject's tag, if there is one.

    Some registries answer such a tag with the manifest of that digest: the subject itself, no list.
    """
    try:
        index = await client.get_manifest(Reference(repository, referrers_tag(subject)))
    except RegistryRefusedError as error:
        if error.status == 404:
            return None
        raise
    return None if index.descriptor.digest == subject else index


def _entry(manifest: Manifest) -> dict[str, Any]:
    """Return a referrer's descriptor as an index of referrers has it."""
    document = json_object(manifest.content) or {}
    config = document.get("config")
    kind = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    return {
        "mediaType": manifest.descriptor.media_type,
        "digest": str(manifest.descriptor.digest),
        "size": manifest.descriptor.size,
        **({"artifactType": kind} if isinstance(kind, str) else {}),
        **({"annotations": document["annotations"]} if isinstance(document.get("annotations"), dict) else {}),
    }
