"""Messages from a server: a thread subscribes to channels while they are wanted, and reports what arrives.

One connection for a process; on a Cluster one to each server that has the slot of a wanted channel. Messages may
be lost, as always with publish/subscribe: whoever waits for one also looks from time to time.
"""

import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

from crossmount._dataclass import dataclass
from crossmount.errors import IndexFailedError
from crossmount.redis.pipeline import FOREIGN, UNEXPECTED

POLL_SECONDS = 0.05
"""How long the thread waits for a message until it looks whether other channels are wanted."""

AGAIN_SECONDS = 2.0
"""Pause after a failure."""

CHANNELS_MAX = 10_000
_AT_ONCE_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePlace:
    """A server and the channels that it sends messages of.

    Attributes:
        key: the same for the same server.
        make: makes a `PubSub` of redis-py.
        is_sharded: whether the channels belong to slots of a Cluster (SSUBSCRIBE).
        channels: the channels.
    """

    key: Hashable
    make: Callable[[], Any]
    is_sharded: bool
    channels: Sequence[str]


@runtime_checkable
class SendsMessages(Protocol):
    """A client whose servers send messages."""

    def message_places(self, channels: Sequence[str]) -> Sequence[MessagePlace]:
        """Return the servers to subscribe at; none if that is not known yet."""
        ...


class Listener:
    """Subscribes to the channels that are wanted, in a thread that runs while there are any.

    Args:
        client: the client of the servers.
        on_news: called in the thread with the channels on which messages have arrived, or whose subscription is in
            force since.
    """

    def __init__(self, client: SendsMessages, on_news: Callable[[Collection[str]], None]) -> None:
        self._client = client
        self._on_news = on_news
        self._wanted: frozenset[str] = frozenset()
        self._heard: frozenset[str] = frozenset()
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def want(self, channels: Collection[str]) -> None:
        """Listen to these channels from now on, and to no others."""
        wanted = frozenset(channels) if len(channels) <= CHANNELS_MAX else frozenset[str]()
        if wanted == self._wanted:
            return
        with self._lock:
            self._wanted = wanted
            self._changed.set()
            if wanted and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="crossmount-messages", daemon=True)
                self._thread.start()

    def hears(self, channels: Collection[str]) -> bool:
        """Return whether the subscriptions to all these channels are in force."""
        return self._heard.issuperset(channels)

    def close(self) -> None:
        """End the thread and its connections."""
        self.want(())

    def _run(self) -> None:
        ears: dict[Hashable, _Ear] = {}
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    break
                wanted = self._wanted
            try:
                self._listen(ears, sorted(wanted))
            except (*FOREIGN, *UNEXPECTED, IndexFailedError):  # also of a connection that is closed meanwhile
                self._heard = frozenset()
                _close(ears)
                self._changed.clear()
                self._changed.wait(AGAIN_SECONDS)
        self._heard = frozenset()
        _close(ears)

    def _listen(self, ears: "dict[Hashable, _Ear]", wanted: Sequence[str]) -> None:
        """Subscribe to the wanted channels, and read until others are wanted."""
        self._changed.clear()
        places = self._client.message_places(wanted)
        for place in places:
            if place.key not in ears:
                ears[place.key] = _Ear(place.make(), is_sharded=place.is_sharded)
            ears[place.key].want(place.channels)
        if not places:
            self._changed.wait(AGAIN_SECONDS)
        while not self._changed.is_set() and places:
            news = set[str]()
            for ear in ears.values():
                news |= ear.read(POLL_SECONDS / len(ears))
            if news:
                self._heard = frozenset().union(*(ear.heard for ear in ears.values()))
                self._on_news(news)


class _Ear:
    """The subscriptions at one server."""

    def __init__(self, pubsub: Any, *, is_sharded: bool) -> None:
        self._pubsub = pubsub
        self._subscribe = pubsub.ssubscribe if is_sharded else pubsub.subscribe
        self._unsubscribe = pubsub.sunsubscribe if is_sharded else pubsub.unsubscribe
        self._wanted: set[str] = set()
        self.heard: set[str] = set()

    def want(self, channels: Collection[str]) -> None:
        """Subscribe to these channels alone."""
        wanted = set(channels)
        if new := wanted - self._wanted:
            self._subscribe(*sorted(new))
        if old := self._wanted - wanted:
            self._unsubscribe(*sorted(old))
        self._wanted = wanted

    def read(self, seconds: float) -> set[str]:
        """Read what arrives within some seconds, of a flood a part; return the channels with news."""
        news = set[str]()
        for _ in range(_AT_ONCE_MAX):
            message = self._pubsub.get_message(timeout=seconds)
            if message is None:
                break
            seconds, channel = 0.0, message["channel"].decode("ascii", "replace")
            if message["type"] in {"unsubscribe", "sunsubscribe"}:
                self.heard.discard(channel)
            else:
                news.add(channel)
            if message["type"] in {"subscribe", "ssubscribe"}:
                self.heard.add(channel)
        return news

    def close(self) -> None:
        """Close the connection."""
        self._pubsub.close()


def _close(ears: "dict[Hashable, _Ear]") -> None:
    for ear in ears.values():
        ear.close()
    ears.clear()
