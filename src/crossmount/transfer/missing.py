"""Blobs that are missing: in the layout, or in dest although the index, a HEAD or a mount said otherwise.

A blob that the layout lacks exists in dest, is mounted, or is fetched from a registry that the index names; this
is decided for all before anything is sent. A blob that dest lacks after all shows when a manifest is refused.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial

from crossmount._dataclass import dataclass
from crossmount._tasks import run_all
from crossmount.errors import BlobUnknownError, CrossmountError, InvalidLayoutError, RegistryRefusedError
from crossmount.events import Outcome
from crossmount.index.protocol import Knowledge
from crossmount.oci import AbsentBlob, BlobSource, Descriptor, Digest, Repository
from crossmount.oci.image import Image
from crossmount.registry import SIZE_UNKNOWN, RegistryClient, UploadSession
from crossmount.transfer.blobs import BlobPusher, mount_required
from crossmount.transfer.fetch import BlobOrigin, FetchedBlob
from crossmount.transfer.origins import Origins
from crossmount.transfer.report import IndexState

REMEDY = (
    "make the layout anew with it, or record in the index who has it (crossmount scan REGISTRY/REPOSITORY, "
    "or crossmount add)"
)
_IGNORANCE: dict[IndexState, str] = {
    "ok": f"the index does not know it either: {REMEDY}",
    "degraded": "the index failed, so nobody is known to have it: push again when the index works, "
    "or make the layout anew with it",
    "off": "and no index is used, which could know it: push with an index, or make the layout anew with it",
}
"""Why nobody is known to have a blob, and what to do, by how the index did."""


@dataclass(slots=True, kw_only=True)
class AbsentBlobs:
    """Finds where the blobs come from that the layout of one push lacks.

    Attributes:
        origins: finds the registries to fetch from.
        requests: limits concurrent requests.
        index_state: returns how the index did, for errors.
        fetched: the blobs that are fetched if they cannot be mounted.
    """

    origins: Origins
    requests: asyncio.Semaphore
    index_state: Callable[[], IndexState]
    fetched: list[FetchedBlob] = field(default_factory=list)

    async def resolve(self, image: Image, dest: Repository, client: RegistryClient, knowledge: Knowledge) -> Image:
        """Return the image with a source for each blob that the layout lacks.

        Args:
            image: the image as the layout has it.
            dest: the repository to push to.
            client: the client of its registry.
            knowledge: the index's answer about all blobs.

        Raises:
            MountRequiredError: a must-mount layer cannot be mounted, and dest lacks it.
            InvalidLayoutError: nobody is known to have a blob, or nobody who has it sends it.
        """
        absent = [blob for blob in image.blobs if isinstance(blob, AbsentBlob)]
        if not absent:
            return image
        causes: dict[Digest, str] = {}

        async def check(blob: AbsentBlob) -> None:
            cause = await self._why_not(blob.descriptor, dest, client, knowledge)
            if cause is not None:
                causes[blob.descriptor.digest] = cause

        await run_all([partial(check, blob) for blob in absent])
        _refuse([blob for blob in absent if blob.descriptor.digest in causes], causes)
        return replace(image, blobs=tuple(self._with_source(blob, dest) for blob in image.blobs))

    async def _why_not(
        self, descriptor: Descriptor, dest: Repository, client: RegistryClient, knowledge: Knowledge
    ) -> str | None:
        """Return why dest cannot get a blob, and what to do; None if it has it, or can mount or fetch it."""
        known = knowledge.of(descriptor.digest)
        if known.sources and knowledge.traits.mounts is not False:
            return None
        if await self._has(client, dest, descriptor) or await self._is_found(client, dest, descriptor, knowledge):
            return None
        if self.index_state() == "off":
            return _IGNORANCE["off"]
        if known.must_mount:
            raise mount_required(descriptor.digest, dest, known)
        causes = []
        for origin in await self.origins.of(descriptor, source=None, dest=dest):
            try:
                if await self._has(origin.client, origin.repository, descriptor):
                    return None
                causes.append(f"{origin.repository} does not have it")
            except CrossmountError as error:
                await origin.failed(descriptor, error)
                causes.append(str(error))
        if causes:
            return f"the index knows who may have it, but {'; '.join(causes[:2])}: {REMEDY}"
        return _IGNORANCE[self.index_state()]

    async def _is_found(
        self, client: RegistryClient, dest: Repository, descriptor: Descriptor, knowledge: Knowledge
    ) -> bool:
        """Return whether the registry mounts a blob from wherever it is; only one known for that is asked."""
        if not knowledge.traits.finds:
            return False
        async with self.requests:
            try:
                answer = await client.mount_blob(dest, descriptor.digest, None)
            except RegistryRefusedError:
                return False
            if isinstance(answer, UploadSession):
                await client.cancel_upload(answer)
                return False
        return await self._has(client, dest, descriptor)

    async def _has(self, client: RegistryClient, repository: Repository, descriptor: Descriptor) -> bool:
        async with self.requests:
            return await client.head_blob(repository, descriptor.digest) in {SIZE_UNKNOWN, descriptor.size}

    def _with_source(self, blob: BlobSource, dest: Repository) -> BlobSource:
        if not isinstance(blob, AbsentBlob):
            return blob

        async def find(descriptor: Descriptor) -> Sequence[BlobOrigin]:
            return await self.origins.of(descriptor, source=None, dest=dest)

        fetched = FetchedBlob(blob.descriptor, [find], note=f"; {blob.missing}: {REMEDY}")
        self.fetched.append(fetched)
        return fetched


def _refuse(absent: Sequence[AbsentBlob], causes: dict[Digest, str]) -> None:
    """Raise the error for blobs that no registry can send, if there are any.

    Raises:
        InvalidLayoutError: naming the first of them.
    """
    if not absent:
        return
    first, others = absent[0], len(absent) - 1
    more = f" (and {others} more)" if others else ""
    raise InvalidLayoutError(
        f"a layer is not at hand: {first.missing}, {first.descriptor.size} bytes{more}; "
        f"{causes[first.descriptor.digest]}"
    )


TIMES = 3
"""How often a blob is pushed again at most: a mount, and an upload that a HEAD confirmed, may be untrue too."""


class Repairs:
    """Pushes again the blobs that dest turns out to lack.

    Args:
        pusher: has pushed the blobs.
        blobs: all of them.
    """

    def __init__(self, pusher: BlobPusher, blobs: Iterable[BlobSource]) -> None:
        self._pusher = pusher
        self._blobs = {blob.descriptor.digest: blob for blob in blobs}
        self._done: Counter[Digest] = Counter()
        self._lock = asyncio.Lock()

    async def put(self, put: Callable[[], Awaitable[object]], digests: Iterable[Digest]) -> None:
        """Push a manifest, again after each refusal because of an unknown blob that could be mended.

        Args:
            put: sends the manifest.
            digests: the blobs that it names.

        Raises:
            RegistryError: the registry refused the manifest.
        """
        ours = [digest for digest in digests if digest in self._blobs]
        is_first = True
        while True:
            before = self._count(ours)
            try:
                await put()
            except BlobUnknownError as error:
                async with self._lock:  # another manifest may name the same blobs
                    if self._count(ours) == before:
                        await self._mend(ours, error.blobs)
                if not is_first and self._count(ours) == before:
                    raise
            else:
                return
            is_first = False

    async def check_mounts(self) -> None:
        """Push again the mounted blobs that dest lacks, if any 201 to a mount was not true."""
        if self._pusher.mounter.findings.is_untruthful:
            await self._repeat(await self._absent([mount.layer for mount in self._pusher.mounts()]))

    async def _mend(self, digests: Sequence[Digest], named: Collection[str]) -> None:
        outcomes = self._pusher.outcomes()
        times = {each: TIMES if each in named or outcomes[each] == "mounted" else 1 for each in digests}
        left = [each for each in digests if self._done[each] < times[each]]
        contradicted = [each for each in left if each in named and outcomes[each] != "uploaded"]
        absent = await self._absent([each for each in left if each not in contradicted])
        await self._repeat([*contradicted, *absent] or doubtful(left, outcomes, named))

    async def _absent(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return the blobs that dest lacks, according to HEAD."""
        absent = []

        async def check(digest: Digest) -> None:
            if not await self._pusher.exists(self._blobs[digest]):
                absent.append(digest)

        await run_all([partial(check, digest) for digest in digests])
        return absent

    async def _repeat(self, digests: Sequence[Digest]) -> None:
        await run_all([partial(self._pusher.push_again, self._blobs[digest]) for digest in digests])
        self._done.update(digests)

    def _count(self, digests: Iterable[Digest]) -> int:
        return sum(self._done[digest] for digest in digests)


def doubtful(
    digests: Sequence[Digest], outcomes: Mapping[Digest, Outcome], named: Collection[str] = ()
) -> list[Digest]:
    """Return what may be absent although HEAD says that everything exists.

    A HEAD alone proves less than a mount, and a mount less than an upload. An upload whose answer was lost is
    confirmed by a HEAD too, so those are doubted last, and only if the registry names them.
    """
    for outcome in ("existing", "mounted"):
        if found := [digest for digest in digests if outcomes[digest] == outcome]:
            return found
    return [digest for digest in digests if digest in named]
