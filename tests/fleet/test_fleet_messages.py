"""Messages that wake waiters, and what happens without them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import pytest

from crossmount.asyncio import open_index
from crossmount.fleet import Fleet, MountTurn, Slots, Turn, UploadTurn
from crossmount.fleet.lease_keeper import LeaseKeeper
from crossmount.fleet.lease_store import LeaseGateway, LeaseStore
from crossmount.fleet.pauses import TICK_SECONDS, NewsBackoff
from crossmount.fleet.poller import Environment, Poller
from crossmount.fleet.waiting import Claim, ClaimAnswer, LeaseBusy, RateMeter
from crossmount.index import RedisMountIndex
from crossmount.oci import Digest
from crossmount.redis.link import ThreadedLink
from crossmount.redis.listener import Listener
from support.fleets import LAYER, SIZE
from support.index_kit import repo
from support.places import Place
from support.servers import Server
from support.waiters import LAYERS, make_waiter
from support.waiters import Slots as CountedSlots
from support.waiting import PATIENCE, until

A, B = repo("team/a"), repo("team/b")


class MessagesOnly(Environment):
    """While messages wake the waiters, nothing else does."""

    def safety_tick(self) -> float:
        """Return a day."""
        return 24 * 3600.0


class Lost(LeaseStore):
    """Sends its messages where nobody listens: to a shard's channel of a server that is no Cluster."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._publish = "SPUBLISH"


@asynccontextmanager
async def two_fleets(url: str, environment: Environment | None = None) -> AsyncIterator[tuple[Fleet, Fleet]]:
    """Give the fleets of two processes; the second one has the environment."""
    async with (
        open_index(url) as one,
        open_index(url) as two,
        Fleet(one) as holder,
        Fleet(two, environment=environment) as other,
    ):
        yield holder, other


async def begin(holder: Fleet) -> UploadTurn:
    """Begin an upload."""
    turn = await holder.turn(LAYER, A, SIZE, slots=Slots(1), stall_seconds=600)
    assert isinstance(turn, UploadTurn)
    return turn


async def listening(fleet: Fleet) -> "asyncio.Task[Turn]":
    """Let a waiter wait until the subscription is in force, and return its turn to come."""
    waiting = asyncio.create_task(fleet.turn(LAYER, B, SIZE, slots=Slots(1), stall_seconds=600))
    await until(lambda: (listener := fleet._poller._listener) is not None and bool(listener._heard))
    assert not waiting.done()
    return waiting


async def test_a_finished_upload_wakes_its_waiters(any_place: Place) -> None:
    """A waiter of another process mounts as soon as the upload is done, though it never asks by itself."""
    async with two_fleets(any_place.url, MessagesOnly()) as (holder, other), asyncio.timeout(PATIENCE):
        turn = await begin(holder)
        waiting = await listening(other)
        await turn.finish()
        assert await waiting == MountTurn(sources=frozenset({A}), waited=(await waiting).waited)


async def test_a_failed_upload_wakes_the_next_uploader(any_place: Place) -> None:
    """If the upload fails, a waiter of another process gets its turn to upload."""
    async with two_fleets(any_place.url, MessagesOnly()) as (holder, other), asyncio.timeout(PATIENCE):
        turn = await begin(holder)
        waiting = await listening(other)
        turn.slots.release()
        await turn.release()
        assert isinstance(await waiting, UploadTurn)
        await (await waiting).release()  # type: ignore[union-attr]


async def test_nothing_is_lost_when_all_messages_are(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that hears nothing asks the server from time to time, and mounts."""
    monkeypatch.setattr("crossmount.fleet.fleet.LeaseStore", Lost)
    async with two_fleets(valkey.url) as (holder, other), asyncio.timeout(PATIENCE):
        turn = await begin(holder)
        waiting = await listening(other)
        await turn.finish()
        assert isinstance(await waiting, MountTurn)


async def test_a_server_that_allows_no_messages_is_asked_as_before(valkey: Server) -> None:
    """Where the access list has no channels, waiters ask often, and all goes on."""
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    try:
        url = f"redis://deaf:secret@127.0.0.1:{valkey.port}/0"
        async with two_fleets(url, MessagesOnly()) as (holder, other), asyncio.timeout(PATIENCE):
            turn = await begin(holder)
            waiting = asyncio.create_task(other.turn(LAYER, B, SIZE, slots=Slots(1), stall_seconds=600))
            await asyncio.sleep(0)
            await turn.finish()
            assert isinstance(await waiting, MountTurn)
    finally:
        with valkey.client() as client:
            client.execute_command("ACL", "DELUSER", "deaf")


def subscribers(server: Server) -> set[str]:
    """Return the clients of a server that listen to messages."""
    with server.client() as client:
        return {each["id"] for each in client.client_list(_type="pubsub")}


async def test_a_subscription_is_made_again_after_its_connection_was_lost(valkey: Server) -> None:
    """If the server closes the connection of the messages, the subscription is made anew, and wakes the waiter."""
    async with two_fleets(valkey.url, MessagesOnly()) as (holder, other), asyncio.timeout(PATIENCE):
        turn = await begin(holder)
        waiting = await listening(other)
        before = subscribers(valkey)
        with valkey.client() as client:
            client.client_kill_filter(_type="pubsub")
        await until(lambda: bool(subscribers(valkey) - before))
        await turn.finish()
        assert isinstance(await waiting, MountTurn)


async def test_a_process_has_one_connection_for_its_messages(valkey: Server) -> None:
    """However many layers a process waits for, one connection listens, and none does once it waits no more."""
    async with open_index(valkey.url) as index, asyncio.timeout(PATIENCE):
        assert isinstance(index, RedisMountIndex)
        assert isinstance(index.link, ThreadedLink)
        listener = index.link.listener(lambda _: None)
        assert listener is not None
        for count in (1, 40, 3):
            channels = [f"crossmount:default:{{{number}}}:wake:r.example" for number in range(count)]
            listener.want(channels)
            await until(partial(listener.hears, channels))
            assert len(subscribers(valkey)) == 1
        listener.close()
        await until(lambda: not subscribers(valkey))


class Flooded:
    """A server on which others upload every layer, and that sends message after message of one of them."""

    def __init__(self, noisy: Digest) -> None:
        self.asked: Counter[Digest] = Counter()
        self._noisy = noisy
        self._on_news: Callable[[Collection[str]], None] = lambda _: None

    async def claim(self, claims: Sequence[Claim]) -> list[ClaimAnswer]:
        """Answer that another uploads."""
        self.asked.update(claim.waiter.layer for claim in claims)
        self._on_news([self.channel("", self._noisy)])
        return [LeaseBusy("other", text=b"other", sent=1, size=SIZE) for _ in claims]

    def channel(self, registry: str, layer: Digest) -> str:
        """Return the layer's channel."""
        return f"{registry[:0]}{layer}"

    def listen(self, on_news: Callable[[Collection[str]], None]) -> Listener:
        """Return a listener that hears all."""
        self._on_news = on_news
        return cast(Listener, self)

    def hears(self, channels: Collection[str]) -> bool:
        """Return True."""
        return bool(channels)

    def want(self, channels: Collection[str]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    async def show_waiters(self, waiting: object) -> None:
        """Do nothing."""

    async def release(self, leases: object) -> None:
        """Do nothing."""


class Soon(Environment):
    """The server is asked for all every few milliseconds while messages wake the waiters."""

    def safety_tick(self) -> float:
        """Return some milliseconds."""
        return 0.005


async def test_messages_of_one_layer_keep_nobody_from_asking_for_another() -> None:
    """Whoever floods the channel of one layer cannot make the waiters for another one wait for ever."""
    server = Flooded(LAYERS[0])
    poller = Poller(
        cast(LeaseGateway, server),
        cast(LeaseKeeper, server),
        meter=RateMeter(),
        environment=Soon(),
        listen=server.listen,
    )
    waiters = [make_waiter("a", CountedSlots(), layer=each) for each in LAYERS]
    waiting = [asyncio.create_task(poller.wait(waiter)) for waiter in waiters]
    await until(lambda: server.asked[LAYERS[1]] > 3 or server.asked[LAYERS[0]] > 20_000)
    assert server.asked[LAYERS[1]] > 3
    await poller.aclose()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_flood_of_messages_makes_no_waiter_ask_more_often() -> None:
    """After messages that bring nothing new, the next one waits as long as a poll would; news end that."""
    backoff, now, calls = NewsBackoff(), 0.0, 0
    while now < 60.0:  # a message arrives whenever one may cause a call
        calls += 1
        backoff.note_call(now, in_vain=True)
        assert backoff.seconds(now) < TICK_SECONDS[1] + 1e-6
        now += backoff.seconds(now) + 1e-6
    assert calls <= 60 / TICK_SECONDS[1] + 5
    assert backoff.seconds(now + 1.0) == 0
    backoff.note_call(now, in_vain=False)
    assert backoff.seconds(now) == 0


async def test_a_message_after_a_flood_is_heard(valkey: Server) -> None:
    """A waiter that was flooded with messages for nothing still mounts when the upload is done."""
    async with two_fleets(valkey.url, MessagesOnly()) as (holder, other), asyncio.timeout(30):
        turn = await begin(holder)
        waiting = await listening(other)
        (channel,) = other._poller._channels
        with valkey.client() as client:
            while not other._poller._backoff.seconds(other._environment.clock()):
                client.publish(channel, "free")
                await asyncio.sleep(0)
            client.publish(channel, "free")
            await turn.finish()
        assert isinstance(await waiting, MountTurn)
