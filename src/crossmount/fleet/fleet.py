"""One upload of a layer at a time, in this process and among all that share an index: the I/O around `table`."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable

from crossmount import events
from crossmount._closing import Closing
from crossmount.fleet.environment import Environment
from crossmount.fleet.lease import LeaseValue, Publishes
from crossmount.fleet.lease_gateway import LeaseGateway
from crossmount.fleet.lease_keeper import LeaseKeeper
from crossmount.fleet.lease_store import Lease, LeaseStore
from crossmount.fleet.patience import HEARTBEAT_SECONDS, LEASE_SECONDS, Patience, RateMeter
from crossmount.fleet.queues import LayerQueues
from crossmount.fleet.turn import MountTurn, Slots, Turn, UploadTurn
from crossmount.fleet.waiting import (
    Decision,
    GiveUp,
    MountFrom,
    OnWait,
    ReleaseLease,
    ReturnSlot,
    StartUpload,
    Waiter,
    ignore_wait,
)
from crossmount.index.backing_server import server_of
from crossmount.index.guard import GuardedIndex
from crossmount.index.protocol import MountableLayers, Sighting
from crossmount.oci import Digest, Repository

TICK_SECONDS = (0.1, 0.25)
"""Between these is the time from one poll to the next."""

SHOW_SECONDS = 1.0
"""How often those who wait are shown to whoever looks."""


class Fleet(Closing):
    """Decides, for each layer that a push would upload, who does it; the others wait and then mount.

    Make one for a process and hand it to each push: tasks that push the same layer then share one attempt even
    without an index. It belongs to one event loop.

    Args:
        index: where sources are known from, on whose server the leases lie; None keeps everything in this process.
        observer: told once if the index does not serve.
        environment: time and identity.
        life: seconds that a lease lives without its holder.
        heartbeat: seconds between renewals.
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
        guard = index if isinstance(index, GuardedIndex) else GuardedIndex(index, observer=observer)
        server = server_of(index)
        leases = None if server is None else LeaseStore(server, life=life)
        self._environment = environment or Environment()
        self._gateway = LeaseGateway(guard, leases, pause=self._pause)
        self._keeper = LeaseKeeper(
            leases, ask=self._gateway.ask, seconds=heartbeat, life=life, clock=self._environment.clock
        )
        self._queues = LayerQueues()
        self._turns: dict[Waiter, asyncio.Future[Turn | None]] = {}
        self._show_at = float("-inf")
        self._kicked = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """End its tasks, and the leases that are still held; nobody may wait any more."""
        if self._poller is not None:
            if self._queues.idle:  # it ends by itself, after what it asked: that may have been for a lease
                self.kick()
            else:
                self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
            self._poller = None
        for turn in self._turns.values():
            turn.cancel()
        await self._keeper.aclose()

    def kick(self) -> None:
        """Look again now: an upload slot is free, or a layer is."""
        self._kicked.set()

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
    ) -> Turn:
        """Wait until `layer` can be mounted into `dest`, or until it is this caller's turn to upload it.

        Waiting takes no upload slot, no request and no connection.

        Args:
            layer: the layer.
            dest: the repository that lacks it.
            size: its bytes.
            slots: the push's upload slots: an `UploadTurn` has taken one.
            patience: how long to wait.
            excluded: sources that were tried, and dest itself if the index wrongly says that it holds the layer.
            accepts: tells whether a repository, by its name, is one to mount from: an upload into another is not
                waited for.
            on_wait: told, once, if this caller has to wait: the repository that another uploads the layer into.
            publishes: when the holder publishes, for those who look at the lease.
        """
        turn = await self._await_turn(
            self._waiter(
                layer,
                dest,
                size,
                slots=slots,
                patience=patience,
                excluded=excluded,
                accepts=accepts,
                on_wait=on_wait,
                publishes=publishes,
            )
        )
        assert turn is not None, "one that would upload is always given a turn"  # noqa: S101 a promise of the table
        return turn

    async def uploader(self, layer: Digest, registry: str) -> Repository | None:
        """Return the repository that somebody uploads `layer` into now; None if nobody is known to."""
        ours = self._queues.uploader(registry, layer)
        if ours is not None:
            return ours
        found = await self._gateway.holder(layer, registry)
        return None if found is None else found.dest

    def stop_waiting(self, dest: Repository) -> None:
        """Let all who wait to bring something into `dest` wait no more."""
        self._queues.stop_waiting(dest)
        self.kick()

    async def watch(
        self,
        layer: Digest,
        dest: Repository,
        *,
        seconds: float,
        excluded: Collection[Repository] = (),
        accepts: Callable[[str], bool] = lambda _: True,
    ) -> MountTurn | None:
        """Wait for another's upload of `layer` without ever taking a turn.

        Args:
            layer: the layer.
            dest: the repository that lacks it.
            seconds: how long at most.
            excluded: sources that were tried.
            accepts: see `turn`.

        Returns:
            Where it can be mounted from; None as soon as nobody uploads it, or when the time has passed.
        """
        patience = Patience(limit=seconds, least=seconds)
        turn = await self._await_turn(
            self._waiter(layer, dest, 0, slots=None, patience=patience, excluded=excluded, accepts=accepts)
        )
        assert not isinstance(turn, UploadTurn), "who looks is given no turn to upload"  # noqa: S101 as above
        return turn

    def _waiter(
        self,
        layer: Digest,
        dest: Repository,
        size: int,
        *,
        slots: Slots | None,
        patience: Patience,
        excluded: Collection[Repository],
        accepts: Callable[[str], bool],
        on_wait: OnWait = ignore_wait,
        publishes: Publishes = "blob",
    ) -> Waiter:
        value = LeaseValue(
            token=self._environment.token(),
            holder=self._environment.holder(),
            dest=dest,
            size=size,
            since=self._environment.epoch(),
            publishes=publishes,
        )
        return Waiter(
            layer=layer,
            dest=dest,
            size=size,
            value=value.to_text(),
            excluded={source.name for source in excluded},
            patience=patience,
            slots=slots,
            accepts=accepts,
            on_wait=on_wait,
            jitter=self._environment.rng.uniform(0.8, 1.0),
        )

    async def _await_turn(self, waiter: Waiter) -> Turn | None:
        turn: asyncio.Future[Turn | None] = asyncio.get_running_loop().create_future()
        self._turns[waiter] = turn
        self._queues.join(waiter)
        self.kick()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            return await turn
        except asyncio.CancelledError:
            await asyncio.shield(self._abandoned(waiter, turn))
            raise
        finally:
            del self._turns[waiter]

    async def _abandoned(self, waiter: Waiter, turn: "asyncio.Future[Turn | None]") -> None:
        """Hand over what a cancelled waiter had: its place in line, or the turn it never took."""
        self._queues.leave(waiter)
        if turn.done() and not turn.cancelled() and not turn.exception() and isinstance(turn.result(), UploadTurn):
            waiter.put_slot_back()
            await self._ended(waiter)
        elif waiter.busy_since is not None:
            await self._keeper.release([self._lease(waiter)])  # it is not shown as waiting any more
        self.kick()

    async def _poll(self) -> None:
        """Ask for all who wait, one round trip a tick, until nobody does."""
        try:
            while True:
                self._kicked.clear()
                await self._tick()
                if self._queues.idle:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._kicked.wait()
        except Exception as error:
            # a defect: better that they fail than that they wait for a poller that is no more
            for turn in self._turns.values():
                if not turn.done():
                    turn.set_exception(error)
            raise

    async def _tick(self) -> None:
        await self._ask_for_all()
        for waiter, into in self._queues.take_unannounced():
            waiter.on_wait(into)
        now = self._environment.clock()
        if now >= self._show_at:
            self._show_at = now + SHOW_SECONDS
            await self._show()

    async def _show(self) -> None:
        """Show who waits, and not who left in the meantime."""
        shown = self._queues.waiting()
        await self._gateway.show(shown)
        still = self._queues.waiting()
        await self._keeper.release(
            [
                Lease(registry, layer, value)
                for (registry, layer), values in shown.items()
                for value in values
                if value not in still.get((registry, layer), ())
            ]
        )

    async def _ask_for_all(self) -> None:
        claims, decisions = self._queues.ask(self._environment.clock(), self.meter.rate)
        await self._carry_out(decisions)
        if not claims:
            return
        answers = await self._gateway.answers(claims)
        now = self._environment.clock()
        for claim, answer in zip(claims, answers, strict=True):
            await self._carry_out(self._queues.apply_answer(claim, answer, now, self.meter.rate))

    async def _carry_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            waiter = decision.waiter
            match decision:
                case StartUpload():
                    await self._go(waiter, leased=decision.leased)
                case MountFrom():
                    sources = frozenset(waiter.dest.sibling(name) for name in decision.names)
                    await self._tell(waiter, MountTurn(sources=sources, waited=self._waited(waiter)))
                case ReturnSlot():
                    waiter.put_slot_back()
                case ReleaseLease():
                    await self._keeper.release([self._lease(waiter)])
                case GiveUp():
                    await self._tell(waiter, None)

    async def _go(self, waiter: Waiter, *, leased: bool) -> None:
        """Give a waiter its turn to upload."""
        if leased:
            self._keeper.hold(self._lease(waiter))

        async def publish() -> None:
            await self._gateway.record(Sighting(waiter.layer, waiter.dest, waiter.size))
            await self._carry_out(self._queues.published(waiter.dest.registry, waiter.layer, waiter.dest.name))

        async def release() -> None:
            await self._ended(waiter)

        assert waiter.slots is not None, "who only looks is not let go"  # noqa: S101 a promise of the table
        upload = UploadTurn(slots=waiter.slots, publish=publish, release=release, waited=self._waited(waiter))
        await self._tell(waiter, upload)

    async def _tell(self, waiter: Waiter, turn: Turn | None) -> None:
        """Let a waiter go on; if it was cancelled in this very moment, its turn is the next one's."""
        awaited = self._turns.get(waiter)
        if awaited is not None and not awaited.done():
            awaited.set_result(turn)
        elif isinstance(turn, UploadTurn):
            waiter.put_slot_back()
            await turn.release()

    async def _ended(self, waiter: Waiter) -> None:
        self._queues.ended(waiter)
        try:
            await self._keeper.drop(waiter.value)
        finally:
            self.kick()

    def _pause(self) -> float:
        return self._environment.rng.uniform(*TICK_SECONDS)

    def _waited(self, waiter: Waiter) -> float:
        return 0.0 if waiter.busy_since is None else self._environment.clock() - waiter.busy_since

    @staticmethod
    def _lease(waiter: Waiter) -> Lease:
        return Lease(waiter.dest.registry, waiter.layer, waiter.value)
