"""One upload of a layer for all who push it through here, and for all who share the index.

A question for a layer that somebody is uploading is held for a little while. An upload whose bytes are here waits
at its end, one whose bytes are still in its client before them. The one whose turn it is uploads. Who waits holds
no request to the registry.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Literal

from crossmount.errors import CrossmountError
from crossmount.fleet import Fleet, MountTurn, Patience, Slots, Turn, UploadTurn, mount_or_upload, upload_in_turn
from crossmount.oci import Descriptor, Digest, Manifest, Repository
from crossmount.proxy.auth.callers import Agent, Caller
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.uploads.deferred_leases import DeferredLeases
from crossmount.proxy.uploads.mounting import Mounting, Placed

PACED_MAX = 4096
"""How many uploads that come as their clients send them are under way at once: the connections bound them."""

OCTETS = "application/octet-stream"


class NotTakenError(Exception):
    """The registry did not take a blob; its answer is the client's."""


@dataclass(frozen=True, slots=True)
class BlobOutcome:
    """How a blob came to be in its repository.

    Attributes:
        mounted: the mount, if it was mounted.
        existing: whether somebody else brought it into that repository meanwhile.
        waited: seconds that another's upload was waited for.
    """

    mounted: Placed | None = None
    existing: bool = False
    waited: float = 0.0

    @property
    def word(self) -> Literal["mounted", "existing", "uploaded"]:
        """What it is called in metrics and logs."""
        if self.mounted is not None:
            return "mounted"
        return "existing" if self.existing else "uploaded"


class Turns:
    """Who of this proxy's callers waits, and who uploads.

    Args:
        fleet: decides.
        mounting: mounts, with a caller's rights.
        recorder: told of uploads that took no turn; the others tell the index themselves.
        patience: what is worth waiting for, and how long.
        hold: seconds that a HEAD is held at most; 0 never holds one.
        uploads: how many spooled blobs are sent to the registry at once; those that come at their clients' pace
            take no place from them.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        fleet: Fleet,
        mounting: Mounting,
        recorder: ProxyRecorder,
        *,
        patience: Patience,
        hold: float,
        uploads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._mounting = mounting
        self._recorder = recorder
        self._patience = patience
        self._hold = min(hold, patience.limit)
        self._slots = Slots(uploads, on_release=fleet.kick)
        self._paced = Slots(PACED_MAX, on_release=fleet.kick)
        self._clock = clock
        self._deferred = DeferredLeases(fleet, clock=clock)

    async def look(self, caller: Caller, placed: Placed) -> BlobOutcome | None:
        """Hold a question for a blob while somebody uploads it, and mount it when it is there.

        Only for one who may read where it is being uploaded to: how long an answer takes would tell others of it.

        Args:
            caller: who asks.
            placed: the mount that was tried before.

        Returns:
            How the blob came to be there; None if it did not.
        """
        if self._hold <= 0 or caller.agent is None or not self._may_wait(caller, placed):
            return None
        try:
            async with asyncio.timeout(self._hold):
                mount = await self._watch(caller.agent, placed)
        except TimeoutError:
            return None
        return None if mount is None else await self._mount(caller, placed, mount, mount.waited)

    async def _watch(self, agent: Agent, placed: Placed) -> MountTurn | None:
        dest, digest, policy = placed.dest, placed.digest, self._mounting.policy
        uploader = await self._fleet.uploader(digest, dest.registry)
        if uploader is None or not policy.allows(uploader.name):
            return None
        if uploader != dest and not await _may_read(agent, dest, uploader, digest):
            return None
        return await self._fleet.watch(
            digest, dest, seconds=self._hold, excluded=placed.tried, accepts=policy.allows
        )

    def _may_wait(self, caller: Caller, placed: Placed) -> bool:
        """Tell whether what another uploads could be mounted for a caller, and may be uploaded at all."""
        knowledge = placed.knowledge
        return (
            caller.may_push(placed.dest.name)
            and knowledge.traits.mounts is not False
            and not knowledge.of(placed.digest).must_mount
            and not self._deferred.has_any(placed.dest)
        )

    def takes(self, caller: Caller, size: int | None) -> bool:
        """Tell whether a blob of `size` bytes, None if that is not known, is uploaded in turn."""
        return caller.agent is not None and size is not None and self._patience.waits_for(size)

    async def bring(
        self,
        caller: Caller,
        blob: Descriptor,
        placed: Placed,
        *,
        upload: Callable[[], Awaitable[None]],
        paced: bool = False,
    ) -> BlobOutcome:
        """Upload a blob when it is its turn, or mount it from where another brought it meanwhile.

        Args:
            caller: whose blob it is.
            blob: its digest and size.
            placed: the mount that was tried before.
            upload: sends it to the registry; returns when the registry has confirmed it.
            paced: its bytes come as the client sends them: it takes no place from those that do not wait for
                anybody, and says nothing of how fast the registry is.

        Raises:
            RegistryError: the registry did not take it.
        """
        agent, slots = caller.agent, self._paced if paced else self._slots

        async def take_turn(excluded: Collection[Repository]) -> Turn | None:
            waits = self._patience.waits_for(blob.size) and agent is not None and self._may_wait(caller, placed)
            return await self._turn(blob, placed, excluded, slots) if waits else None

        async def mount(turn: MountTurn, waited: float) -> BlobOutcome | None:
            return await self._mount(caller, placed, turn, waited)

        async def upload_it(turn: UploadTurn | None, waited: float) -> BlobOutcome:
            if turn is None:
                async with slots:
                    await upload()
                self._recorder.record_blob(placed.dest, blob.digest, blob.size)
            else:
                await self._upload_in_turn(turn, blob, placed, upload, paced=paced)
            return BlobOutcome(waited=waited)

        return await mount_or_upload(take_turn, mount, upload_it, excluded=placed.tried)

    async def bring_unread(
        self, caller: Caller, placed: Placed, size: int | None, *, upload: Callable[[], Awaitable[None]]
    ) -> BlobOutcome | None:
        """As `bring`, for a blob that is still in the client, and of `size` bytes as far as that says.

        `upload` raises `NotTakenError` if the registry did not take it, which is then no failure here, but None.
        """
        try:
            return await self.bring(
                caller, Descriptor(OCTETS, placed.digest, size or 0), placed, upload=upload, paced=True
            )
        except NotTakenError:
            return None

    async def accepted(self, dest: Repository, manifest: Manifest) -> None:
        """The registry took a manifest: on one that mounts only after that, its layers can be mounted now."""
        for turn in self._deferred.take(dest, [blob.digest for blob in manifest.blobs]):
            await turn.finish()

    async def release_quiet(self, busy: Callable[[str], bool]) -> None:
        """Let go of leases that wait for a manifest which does not come.

        Args:
            busy: tells whether anything still goes on in a repository.
        """
        for turn in self._deferred.take_idle(busy):
            await turn.release()

    async def aclose(self) -> None:
        """Release what is kept."""
        for turn in self._deferred.take_all():
            await turn.release()

    async def _turn(
        self, blob: Descriptor, placed: Placed, excluded: Collection[Repository], slots: Slots
    ) -> Turn:
        return await self._fleet.turn(
            blob.digest,
            placed.dest,
            blob.size,
            slots=slots,
            patience=self._patience,
            excluded=excluded,
            accepts=self._mounting.policy.allows,
            publishes="manifest" if placed.after_manifest else "blob",
        )

    async def _mount(self, caller: Caller, placed: Placed, turn: MountTurn, waited: float) -> BlobOutcome | None:
        """Mount a blob from where it appeared; whatever goes wrong, there is still the upload."""
        dest, digest, agent = placed.dest, placed.digest, caller.agent
        if agent is not None and dest in turn.sources:
            with contextlib.suppress(CrossmountError):
                if await agent.client.head_blob(dest, digest) is not None:
                    return BlobOutcome(existing=True, waited=waited)
        placed = await self._mounting.place_from(caller, dest, digest, turn.sources - {dest})
        return BlobOutcome(mounted=placed, waited=waited) if placed.mounted else None

    async def _upload_in_turn(
        self,
        turn: UploadTurn,
        blob: Descriptor,
        placed: Placed,
        upload: Callable[[], Awaitable[None]],
        *,
        paced: bool,
    ) -> None:
        def measure(seconds: float) -> None:
            if not paced:
                self._fleet.meter.add(blob.size, seconds)

        def defer(turn: UploadTurn) -> None:
            self._deferred.add(placed.dest, blob.digest, turn)

        await upload_in_turn(
            turn, upload, measure=measure, clock=self._clock, defer=defer if placed.after_manifest else None
        )


async def _may_read(agent: Agent, dest: Repository, source: Repository, digest: Digest) -> bool:
    """Tell whether the caller may certainly read a repository; a 404 alone may be what hides it.

    Any doubt is a no: the client is told what the registry said, and uploads.
    """
    try:
        if source in (await agent.client.prepare(dest, [source])).refused:
            return False
        if await agent.client.head_blob(source, digest) is not None:
            return True
        await agent.client.ping()  # a registry that was never asked properly has had no reason to want credentials
        return await agent.client.is_readable(source)
    except CrossmountError:
        return False
