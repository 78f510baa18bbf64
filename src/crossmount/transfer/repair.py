"""Blobs that dest lacks after all: the index, a HEAD or a mount was wrong, and a refused manifest shows it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from crossmount._tasks import run_all
from crossmount.errors import BlobUnknownError
from crossmount.events import Outcome
from crossmount.oci import BlobSource, Digest
from crossmount.transfer.blobs import BlobPusher

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
