"""The waiters of one process: one task asks the server for all of them, and carries out what follows."""

import asyncio
import contextlib
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount._tasks import collect
from crossmount.fleet.lease_keeper import LeaseKeeper
from crossmount.fleet.lease_store import Lease, LeaseGateway
from crossmount.fleet.pauses import SAFETY_SECONDS, SHOW_SECONDS, TICK_SECONDS, NewsBackoff
from crossmount.fleet.queues import LayerQueues
from crossmount.fleet.turn import MountTurn, Turn, UploadTurn
from crossmount.fleet.waiting import (
    Decision,
    EndLease,
    GiveUp,
    MountFrom,
    RateMeter,
    ReleaseLease,
    ReturnSlot,
    StartUpload,
    Waiter,
)
from crossmount.index.protocol import Sighting
from crossmount.oci import Digest
from crossmount.redis.listener import Listener


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The clock, the randomness and the identity of a fleet; tests replace them.

    Attributes:
        clock: monotonic seconds.
        epoch: epoch seconds, for people.
        rng: varies pauses and patience.
        token: returns a random token that makes a lease value unique.
        holder: returns the name of this process, for people.
    """

    clock: Callable[[], float] = time.monotonic
    epoch: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.Random)
    token: Callable[[], str] = lambda: secrets.token_hex(16)
    holder: Callable[[], str] = lambda: f"{socket.gethostname()}:{os.getpid()}"

    def tick(self) -> float:
        """Return the seconds until the next poll."""
        return self.rng.uniform(*TICK_SECONDS)

    def safety_tick(self) -> float:
        """Return the seconds until the next poll while messages wake the waiters."""
        return self.rng.uniform(*SAFETY_SECONDS)

    def jitter(self) -> float:
        """Return the part of its patience that a waiter has: not all waiters give up at the same moment."""
        return self.rng.uniform(0.8, 1.0)


class Poller:
    """Waits for the turns of all waiters of this process.

    Args:
        gateway: asks the index's server.
        keeper: renews and releases leases.
        meter: the rate of this process's uploads.
        environment: clock and randomness.
        listen: makes a listener to messages; None if there are none, and the server is asked more often.

    Attributes:
        queues: the waiters and uploads by layer.
        turns: the future turn of each waiter.
        task: polls while there are waiters.
    """

    def __init__(
        self,
        gateway: LeaseGateway,
        keeper: LeaseKeeper,
        *,
        meter: RateMeter,
        environment: Environment,
        listen: Callable[[Callable[[Collection[str]], None]], Listener | None] = lambda _: None,
    ) -> None:
        self.queues = LayerQueues()
        self.turns: dict[Waiter, asyncio.Future[Turn | None]] = {}
        self.task: asyncio.Task[None] | None = None
        self._gateway = gateway
        self._keeper = keeper
        self._meter = meter
        self._environment = environment
        self._woken = asyncio.Event()
        self._show_at = float("-inf")
        self._listen = listen
        self._listener: Listener | None = None
        self._channels: dict[str, tuple[str, Digest]] = {}  # what the listener listens to
        self._news: set[tuple[str, Digest]] = set()  # layers of which messages have arrived
        self._backoff = NewsBackoff()
        self._news_timer: asyncio.TimerHandle | None = None
        self._asks_for_all = True

    async def aclose(self) -> None:
        """Stop polling, and cancel all waiters."""
        if self._listener is not None:
            self._listener.close()
        if self._news_timer is not None:
            self._news_timer.cancel()
        if self.task is not None:
            if self.queues.idle:  # it ends by itself after its last call, which may have taken a lease
                self.wake()
            else:
                self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None
        for turn in self.turns.values():
            turn.cancel()

    def wake(self) -> None:
        """Poll at once."""
        self._asks_for_all = True
        self._woken.set()

    def _wake_for(self, channels: Collection[str]) -> None:
        """Poll for the layers of some messages: at once, or a little later if messages bring nothing new."""
        self._news |= {self._channels[channel] for channel in channels if channel in self._channels}
        seconds = self._backoff.seconds(self._environment.clock())
        if not seconds:
            self._woken.set()
        elif self._news_timer is None:
            self._news_timer = asyncio.get_running_loop().call_later(seconds, self._wake_late)

    def _wake_late(self) -> None:
        self._news_timer = None
        self._woken.set()

    async def wait(self, waiter: Waiter) -> Turn | None:
        """Wait for a waiter's turn; None if a watcher gives up."""
        turn: asyncio.Future[Turn | None] = asyncio.get_running_loop().create_future()
        self.turns[waiter] = turn
        self.queues.join(waiter)
        self.wake()
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._poll())
            self.task.add_done_callback(collect)
        try:
            return await turn
        except asyncio.CancelledError:
            await asyncio.shield(self._abandon(waiter, turn))
            raise
        finally:
            del self.turns[waiter]

    async def _abandon(self, waiter: Waiter, turn: "asyncio.Future[Turn | None]") -> None:
        """Pass on the place in the queue, or the unused turn, of a waiter that was cancelled."""
        self.queues.leave(waiter)
        if turn.done() and not turn.cancelled() and not turn.exception() and isinstance(turn.result(), UploadTurn):
            waiter.return_slot()
            await self._end_upload(waiter)
        elif waiter.busy_since is not None:
            await self._keeper.release([_lease(waiter)])  # removes it from the list of waiters
        self.wake()

    async def _poll(self) -> None:
        """Send the claims of all waiters, in one round trip a tick, while there are waiters."""
        until = float("inf")
        try:
            while True:
                self._woken.clear()
                asks_for_all = self._asks_for_all
                await self._claim_for_all()
                self._announce_waits()
                await self._show_waiters()
                now, pause = self._environment.clock(), self._pause()
                if self.queues.idle:
                    return
                until = now + pause if asks_for_all else min(until, now + pause)
                try:
                    async with asyncio.timeout(until - now):
                        await self._woken.wait()
                except TimeoutError:
                    self._asks_for_all = True
                if self._environment.clock() >= until:  # messages of some layers must not keep others waiting
                    self._asks_for_all = True
        except Exception as error:
            # a defect: the waiters must fail, since nothing polls for them any more
            for turn in self.turns.values():
                if not turn.done():
                    turn.set_exception(error)
            raise

    def _pause(self) -> float:
        """Return the seconds until the next poll, and listen to the messages that end the pause earlier."""
        foreign = self.queues.foreign()
        if self._listener is None and foreign:
            loop = asyncio.get_running_loop()

            def on_news(channels: Collection[str]) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._wake_for, channels)

            self._listener = self._listen(on_news)
        listener = self._listener
        if listener is None:
            return self._environment.tick()
        if foreign is not None or self.queues.idle:
            self._channels = {self._gateway.channel(*key): key for key in foreign or ()}
            listener.want(self._channels)
        if not foreign or not listener.hears(self._channels):
            return self._environment.tick()
        due = self.queues.next_check(self._environment.clock(), self._meter.rate)
        return min(self._environment.safety_tick(), due + self._environment.tick())

    async def _claim_for_all(self) -> None:
        by_news = not self._asks_for_all
        only = self._news if by_news else None
        self._news, self._asks_for_all = set(), False
        claims, decisions = self.queues.next_claims(self._environment.clock(), self._meter.rate, only)
        await self._carry_out(decisions)
        if not claims:
            return
        answers = await self._gateway.claim(claims)
        now = self._environment.clock()
        if by_news:
            self._backoff.note_call(now, in_vain=all(map(self.queues.is_known, claims, answers)))
        for claim, answer in zip(claims, answers, strict=True):
            await self._carry_out(self.queues.apply_answer(claim, answer, now, self._meter.rate))

    def _announce_waits(self) -> None:
        for waiter, into in self.queues.take_unannounced():
            waiter.on_wait(into)

    async def _show_waiters(self) -> None:
        """Update the list of waiters on the server; remove those that left during the update."""
        now = self._environment.clock()
        if now < self._show_at:
            return
        self._show_at = now + SHOW_SECONDS
        shown = self.queues.waiting()
        await self._gateway.show_waiters(shown)
        still = self.queues.waiting()
        await self._keeper.release(
            [
                Lease(registry, layer, value)
                for (registry, layer), values in shown.items()
                for value in values
                if value not in still.get((registry, layer), ())
            ]
        )

    async def _carry_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            waiter = decision.waiter
            match decision:
                case StartUpload():
                    await self._start_upload(waiter, leased=decision.leased)
                case MountFrom():
                    sources = frozenset(waiter.dest.sibling(name) for name in decision.names)
                    await self._resolve(waiter, MountTurn(sources=sources, waited=self._waited(waiter)))
                case ReturnSlot():
                    waiter.return_slot()
                case ReleaseLease():
                    await self._keeper.release([_lease(waiter)])
                case EndLease():
                    await self._keeper.drop(waiter.value)
                case GiveUp():
                    await self._resolve(waiter, None)

    async def _start_upload(self, waiter: Waiter, *, leased: bool) -> None:
        if leased:
            self._keeper.add(_lease(waiter), waiter.progress)

        async def publish() -> None:
            await self._gateway.record(Sighting(waiter.layer, waiter.dest, waiter.size))
            await self._carry_out(self.queues.published(waiter.dest.registry, waiter.layer, waiter.dest.name))

        async def release() -> None:
            await self._end_upload(waiter)

        assert waiter.slots is not None, "watchers never upload"  # noqa: S101 ensured by LayerQueues
        if waiter.progress is not None:
            waiter.progress.start()
        turn = UploadTurn(
            slots=waiter.slots,
            publish=publish,
            release=release,
            waited=self._waited(waiter),
            progress=waiter.progress,
        )
        await self._resolve(waiter, turn)

    async def _resolve(self, waiter: Waiter, turn: Turn | None) -> None:
        """Return a turn to its waiter; if the waiter was cancelled just now, the turn is passed on."""
        future = self.turns.get(waiter)
        if future is not None and not future.done():
            future.set_result(turn)
        elif isinstance(turn, UploadTurn):
            waiter.return_slot()
            await turn.release()

    async def _end_upload(self, waiter: Waiter) -> None:
        self.queues.ended(waiter)
        try:
            await self._keeper.drop(waiter.value)
        finally:
            self.wake()

    def _waited(self, waiter: Waiter) -> float:
        return 0.0 if waiter.busy_since is None else self._environment.clock() - waiter.busy_since


def _lease(waiter: Waiter) -> Lease:
    return Lease(waiter.dest.registry, waiter.layer, waiter.value)
