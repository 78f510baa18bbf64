"""`Fleet`: for each layer that pushes would upload it gives one of them the upload, and lets the others mount."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import cached_property

from crossmount import events
from crossmount._tasks import Closing
from crossmount.fleet.lease import LeaseValue, Publishes, UploadProgress
from crossmount.fleet.lease_keeper import LeaseKeeper
from crossmount.fleet.lease_store import LeaseGateway, LeaseStore
from crossmount.fleet.poller import Environment, Poller
from crossmount.fleet.turn import MountTurn, Slots, Turn, UploadTurn
from crossmount.fleet.waiting import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    OnWait,
    Patience,
    RateMeter,
    Waiter,
    ignore_wait,
)
from crossmount.index.guard import GuardedIndex
from crossmount.index.protocol import MountableLayers, backing_server
from crossmount.oci import Digest, Repository


class Fleet(Closing):
    """Coordinates uploads of layers among the pushes of this process and all processes that share an index.

    Make one for a process and pass it to each push: tasks that push the same layer then share one upload even
    without a server. It belongs to one event loop.

    Args:
        index: the index of sources. The leases are on its server; without a server the fleet is this process.
        observer: receives one event if the index is unavailable.
        environment: clock, randomness and identity.
        life: seconds until a lease expires without a renewal.
        heartbeat: seconds between renewals.

    Attributes:
        meter: measures the rate of this process's uploads.
    """

    def __init__(
        self,
        index: MountableLayers,
        *,
        observer: events.Observer = events.ignore,
        environment: Environment | None = None,
        life: float = LEASE_SECONDS,
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.meter = RateMeter()
        self._environment = environment or Environment()
        self._guard = index if isinstance(index, GuardedIndex) else GuardedIndex(index, observer=observer)
        self._server = backing_server(index)
        self._life = life
        self._heartbeat = heartbeat

    @cached_property
    def _store(self) -> LeaseStore | None:
        return None if self._server is None else LeaseStore(self._server, life=self._life)

    @cached_property
    def _gateway(self) -> LeaseGateway:
        return LeaseGateway(self._guard, self._store, pause=self._environment.tick)

    @cached_property
    def _keeper(self) -> LeaseKeeper:
        return LeaseKeeper(
            self._store,
            call=self._gateway.call,
            seconds=self._heartbeat,
            life=self._life,
            clock=self._environment.clock,
        )

    @cached_property
    def _poller(self) -> Poller:
        """What waits for turns; made for the first one: most pushes mount everything, or have nothing to push."""
        return Poller(
            self._gateway,
            self._keeper,
            meter=self.meter,
            environment=self._environment,
            listen=self._gateway.listener,
        )

    @property
    def _has_begun(self) -> bool:
        """Whether anybody ever waited for a turn."""
        return "_poller" in vars(self)

    async def aclose(self) -> None:
        """Cancel all waiters, and release all leases."""
        if self._has_begun:
            await self._poller.aclose()
            await self._keeper.aclose()

    def wake(self) -> None:
        """Ask the server again at once: an upload slot or a layer became available."""
        if self._has_begun:
            self._poller.wake()

    async def turn(
        self,
        layer: Digest,
        dest: Repository,
        size: int,
        *,
        slots: Slots,
        patience: Patience = Patience(),  # noqa: B008 a frozen value
        excluded: Collection[Repository] = (),
        accepts: Callable[[str], bool] = lambda _: True,
        on_wait: OnWait = ignore_wait,
        publishes: Publishes = "blob",
        stall_seconds: float | None = None,
    ) -> Turn:
        """Wait until `layer` can be mounted into `dest`, or until it is the caller's turn to upload it.

        A waiter has no upload slot, no request and no connection.

        Args:
            layer: the layer.
            dest: the repository that lacks it.
            size: its bytes.
            slots: the push's upload slots; an `UploadTurn` has one of them.
            patience: how long to wait.
            excluded: sources that were tried; also dest, if the index wrongly says that dest holds the layer.
            accepts: returns whether a repository name is an allowed source. An upload into a repository that is
                not allowed is not waited for.
            on_wait: called once if the caller has to wait, with the repository that another uploads into.
            publishes: when the uploader publishes its source: on a registry that mounts a layer only after a
                manifest, an upload whose bytes are all sent is waited for until then.
            stall_seconds: how long the caller's own upload may be too slow until the next waiter gets its turn.
                The caller reports the bytes that it sends to `UploadTurn.count`. None: nobody counts, and other
                processes wait for the upload for some seconds only.
        """
        turn = await self._poller.wait(
            Waiter(
                layer=layer,
                dest=dest,
                size=size,
                value=self._lease_value(dest, size, publishes),
                publishes=publishes,
                excluded={source.name for source in excluded},
                patience=patience,
                slots=slots,
                accepts=accepts,
                on_wait=on_wait,
                jitter=self._environment.jitter(),
                progress=None
                if stall_seconds is None
                else UploadProgress(size, seconds=stall_seconds, clock=self._environment.clock),
            )
        )
        assert turn is not None, "only watchers give up"  # noqa: S101 ensured by LayerQueues
        return turn

    async def try_lease(
        self,
        layers: Collection[Digest],
        dest: Repository,
        *,
        slots: Slots,
        excluded: Collection[Repository] = (),
        accepts: Callable[[str], bool] = lambda _: True,
        publishes: Publishes = "blob",
        stall_seconds: float,
    ) -> tuple[dict[Digest, UploadTurn] | None, frozenset[Repository]]:
        """Take the turns to upload several layers of unknown sizes, all or none, without waiting for others.

        Args:
            layers: the layers.
            dest: the repository that lacks them.
            slots: the caller's upload slots; each turn has one of them.
            excluded: sources that were tried.
            accepts: returns whether a repository name is an allowed source. An upload into a repository that is
                not allowed does not count: the layer is then uploaded without a lease.
            publishes: when the uploader publishes its sources.
            stall_seconds: how long an upload may be too slow until it loses its lease.

        Returns:
            The turns; None if another uploads one of the layers, or if one can be mounted. And the sources that
            the index has for them, apart from `excluded`.
        """
        waits = [
            asyncio.create_task(
                self._poller.wait(
                    Waiter(
                        layer=layer,
                        dest=dest,
                        size=0,
                        value=self._lease_value(dest, 0, publishes),
                        excluded={source.name for source in excluded},
                        patience=Patience(limit=0.0),
                        slots=slots,
                        accepts=accepts,
                        at_once=True,
                        progress=UploadProgress(0, seconds=stall_seconds, clock=self._environment.clock),
                    )
                )
            )
            for layer in layers
        ]
        taken: dict[Digest, UploadTurn] = {}
        try:
            turns = await asyncio.gather(*waits)
            granted = {
                layer: turn for layer, turn in zip(layers, turns, strict=True) if isinstance(turn, UploadTurn)
            }
            found = [turn.sources for turn in turns if isinstance(turn, MountTurn)]
            taken = granted if len(granted) == len(turns) else {}
            return (taken if len(taken) == len(turns) else None), frozenset().union(*found)
        finally:
            if not taken:
                await asyncio.shield(_give_back(waits))

    async def watch(
        self,
        layer: Digest,
        dest: Repository,
        *,
        seconds: float,
        excluded: Collection[Repository] = (),
        accepts: Callable[[str], bool] = lambda _: True,
    ) -> MountTurn | None:
        """Wait for another's upload of `layer` without ever taking a turn to upload.

        Args:
            layer: the layer.
            dest: the repository that lacks it.
            seconds: the longest wait.
            excluded: sources that were tried.
            accepts: returns whether a repository name is an allowed source.

        Returns:
            The sources to mount from; None after `seconds`, or as soon as nobody uploads the layer.
        """
        turn = await self._poller.wait(
            Waiter(
                layer=layer,
                dest=dest,
                size=0,
                value=self._lease_value(dest, 0, "blob"),
                excluded={source.name for source in excluded},
                patience=Patience(limit=seconds, least=seconds),
                slots=None,
                accepts=accepts,
                jitter=self._environment.jitter(),
            )
        )
        assert not isinstance(turn, UploadTurn), "watchers never upload"  # noqa: S101 ensured by LayerQueues
        return turn

    async def uploader(self, layer: Digest, registry: str) -> Repository | None:
        """Return the repository that somebody uploads `layer` into now; None if no upload is known."""
        ours = self._poller.queues.uploader(registry, layer)
        if ours is not None:
            return ours
        holder = await self._gateway.read_holder(layer, registry)
        return None if holder is None else holder.dest

    def stop_waiting(self, dest: Repository) -> None:
        """End the patience of all waiters that push into `dest`."""
        self._poller.queues.stop_waiting(dest)
        self.wake()

    def _lease_value(self, dest: Repository, size: int, publishes: Publishes) -> str:
        value = LeaseValue(
            token=self._environment.token(),
            holder=self._environment.holder(),
            dest=dest,
            size=size,
            since=self._environment.epoch(),
            publishes=publishes,
        )
        return value.to_text()


async def _give_back(waits: Sequence["asyncio.Task[Turn | None]"]) -> None:
    """Pass on the turns that were granted to some waiters of a group."""
    for wait in waits:
        wait.cancel()
    for turn in await asyncio.gather(*waits, return_exceptions=True):
        if isinstance(turn, UploadTurn):
            await turn.give_up()
