"""The leases on the index's server: one script for each operation, many leases in one round trip."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from crossmount._dataclass import dataclass
from crossmount.errors import IndexFailedError
from crossmount.fleet.lease import VALUE_MAX, LeaseValue
from crossmount.fleet.waiting import (
    LEASE_SECONDS,
    Claim,
    ClaimAnswer,
    IndexDown,
    LeaseAcquired,
    LeaseBusy,
    LeaseFree,
    SourcesFound,
)
from crossmount.index.decode import repositories
from crossmount.index.guard import GuardedIndex
from crossmount.index.protocol import BackingServer, Sighting
from crossmount.index.redis_index import SOURCES_MAX
from crossmount.oci import Digest
from crossmount.redis.execute import run_scripted
from crossmount.redis.link import ThreadedLink
from crossmount.redis.listener import Listener
from crossmount.redis.replies import Command, StartingError
from crossmount.redis.scripts import Script, load_script

WAITING_SECONDS = 8.0
"""Seconds after its last call until a waiter is removed from the list of waiters."""

_PACKAGE = "crossmount.fleet"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease of this process, as far as this process knows.

    Attributes:
        value: the lease's text, which proves the ownership.
    """

    registry: str
    layer: Digest
    value: str


@dataclass(frozen=True, slots=True)
class ClaimAnswers:
    """The answers to many claims.

    Attributes:
        answers: one for each claim, in order.
        refusal: the first error that the server returned for a claim, if any.
    """

    answers: list[ClaimAnswer]
    refusal: IndexFailedError | None = None


class LeaseStore:
    """The leases of one namespace on one server.

    Args:
        server: the index's server.
        life: seconds until a lease expires after its last renewal.
    """

    def __init__(self, server: BackingServer, *, life: float = LEASE_SECONDS) -> None:
        self._link = server.link
        self._keys = server.keys
        self._names = server.names
        self._life = round(life * 1000)
        self._publish = "SPUBLISH" if "+cluster" in server.link.where else "PUBLISH"

    async def claim(self, claims: Sequence[Claim]) -> ClaimAnswers:
        """Send claims for many layers in one round trip.

        Raises:
            IndexFailedError: the server did not answer, or refused all commands.
        """
        script = _script("claim")
        replies = await self._run(
            [
                script.call(
                    (
                        self._keys.sources(claim.waiter.layer, self._names.canonical(claim.waiter.dest.registry)),
                        *self._pair(claim.waiter.dest.registry, claim.waiter.layer),
                    ),
                    "1" if claim.take else "",
                    claim.waiter.value,
                    self._life,
                    round(WAITING_SECONDS * 1000),
                    SOURCES_MAX,
                    claim.instead_of,
                    *claim.waiter.excluded,
                    *claim.waiter.invalid_names,
                )
                for claim in claims
            ]
        )
        for reply in replies:
            if isinstance(reply, StartingError):
                raise reply  # the caller sends all claims again; leases that were acquired stay ours
        return ClaimAnswers(
            [_answer(reply, claim) for reply, claim in zip(replies, claims, strict=True)],
            next((reply for reply in replies if isinstance(reply, IndexFailedError)), None),
        )

    async def show_waiters(self, waiting: Mapping[tuple[str, Digest], Sequence[str]]) -> None:
        """Update the waiters of this process, by registry and layer, in one round trip.

        Raises:
            IndexFailedError: the server did not answer, or refused all commands.
        """
        show, patience = _script("show"), round(WAITING_SECONDS * 1000)
        await self._run(
            [
                show.call((self._pair(registry, layer)[1],), patience, *values)
                for (registry, layer), values in waiting.items()
            ]
        )

    async def read(self, layer: Digest, registry: str) -> LeaseValue | None:
        """Return the lease of a layer on a registry; None if there is none, or none of ours.

        Raises:
            IndexFailedError: the server did not answer, or refused the command.
        """
        (text,) = await self._link.run([("GETRANGE", self._pair(registry, layer)[0], 0, VALUE_MAX - 1)])
        if isinstance(text, IndexFailedError):
            raise text
        return LeaseValue.from_text(text, registry) if isinstance(text, bytes) and text else None

    async def renew(self, leases: Mapping[Lease, int | None]) -> list[bool]:
        """Extend leases in one round trip; return for each whether it is still ours.

        Args:
            leases: the leases, with the bytes that were sent; None if nobody counts them.

        Raises:
            IndexFailedError: the server did not answer, or refused all commands.
        """
        renew = _script("renew")
        replies = await self._run(
            [
                renew.call(
                    (self._pair(lease.registry, lease.layer)[0],),
                    lease.value,
                    self._life,
                    "" if sent is None else sent,
                )
                for lease, sent in leases.items()
            ]
        )
        return [reply != 0 for reply in replies]  # an error does not mean that another holds the lease

    async def release(self, leases: Sequence[Lease]) -> bool:
        """Delete our leases and waiter entries in one round trip; return whether no command failed.

        Raises:
            IndexFailedError: the server did not answer, or refused all commands.
        """
        release = _script("release")
        replies = await self._run(
            [
                release.call(
                    self._pair(lease.registry, lease.layer),
                    lease.value,
                    self.channel(lease.registry, lease.layer),
                    self._publish,
                )
                for lease in leases
            ]
        )
        return not any(isinstance(reply, IndexFailedError) for reply in replies)

    def channel(self, registry: str, layer: Digest) -> str:
        """Return the channel on which waiters for an upload are woken."""
        return self._keys.wake(layer, self._names.canonical(registry))

    def listener(self, on_news: Callable[[Collection[str]], None]) -> Listener | None:
        """Return a listener to such channels; None if this server sends no messages."""
        return self._link.listener(on_news) if isinstance(self._link, ThreadedLink) else None

    def _pair(self, registry: str, layer: Digest) -> tuple[str, str]:
        """Return the keys of a lease and of its waiters."""
        canonical = self._names.canonical(registry)
        return self._keys.lease(layer, canonical), self._keys.waiters(layer, canonical)

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        return await run_scripted(self._link, commands)


def _script(name: str) -> Script:
    return load_script(name, _PACKAGE)


def _answer(reply: Any, claim: Claim) -> ClaimAnswer:
    match reply:
        case [b"sources", *members] if all(isinstance(member, bytes) for member in members):
            names = {found.name for found in repositories(members, claim.waiter.dest.registry)}
            invalid_names = (member for member in members if member.decode("ascii", "replace") not in names)
            return SourcesFound(frozenset(names), frozenset(invalid_names))
        case [b"acquired"]:
            return LeaseAcquired()
        case [b"busy", bytes(value)]:
            holder, text = LeaseValue.from_text(value, claim.waiter.dest.registry), value.partition(b"\n")[0]
            if holder is None:
                return LeaseBusy(text=text)
            into = None if holder.dest is None else holder.dest.name
            return LeaseBusy(into, text=text, sent=holder.sent, size=holder.size)
        case [b"free"]:
            return LeaseFree()
    return IndexDown()


GRACE_SECONDS = 1.25
"""How long a server that answered before may be silent until work continues without it: enough for a restart. With
the upload that follows, an outage costs a push less than two seconds in all (tests/bench/trouble.py)."""

FIRST_SECONDS = 0.5
"""The shortest wait for the answer to the first call."""

T = TypeVar("T")


class LeaseGateway:
    """Calls one index and its server; a failure gives the result without a server.

    Args:
        guard: the index.
        store: the leases on the index's server; None if the index has no server.
        pause: returns the seconds between two tries.

    Attributes:
        called: whether the server was called before.
    """

    def __init__(self, guard: GuardedIndex, store: LeaseStore | None, *, pause: Callable[[], float]) -> None:
        self._guard = guard
        self._store = store
        self._pause = pause
        self.called = False

    async def claim(self, claims: Sequence[Claim]) -> list[ClaimAnswer]:
        """Send all claims; without a server the answers come from the sources in the index."""
        store = self._store
        if store is None:
            return [await self._from_index(claim) if claim.take else IndexDown() for claim in claims]
        found = await self.call(lambda: store.claim(claims), ClaimAnswers([IndexDown() for _ in claims]))
        if found.refusal is not None:
            self._guard.report(found.refusal)
        return found.answers

    async def read_holder(self, layer: Digest, registry: str) -> LeaseValue | None:
        """Return the lease of the upload of a layer; None if there is no upload, or no server."""
        store = self._store
        return None if store is None else await self.call(lambda: store.read(layer, registry), None)

    def listener(self, on_news: Callable[[Collection[str]], None]) -> Listener | None:
        """Return a listener to the messages that wake waiters; None if there are none."""
        return None if self._store is None else self._store.listener(on_news)

    def channel(self, registry: str, layer: Digest) -> str:
        """Return the channel on which waiters for an upload are woken; "" without a server."""
        return "" if self._store is None else self._store.channel(registry, layer)

    async def show_waiters(self, waiting: Mapping[tuple[str, Digest], Sequence[str]]) -> None:
        """Write the waiters of this process to the server, for `crossmount fleet`."""
        store = self._store
        if store is not None and waiting:
            await self.call(lambda: store.show_waiters(waiting), None)

    async def record(self, sighting: Sighting) -> None:
        """Record a new source in the index."""
        await self.call(lambda: self._guard.unguarded.record([sighting]), None)

    async def call(self, call: Callable[[], Awaitable[T]], otherwise: T, *, least: float = 0.0) -> T:
        """Call the index's server; retry for a while if a server that answered before does not answer.

        Without the retries a server that restarts would cost an upload for each waiter. The first call waits even
        if the server did not answer other callers: the cause may have been this process.

        Args:
            call: the call.
            otherwise: the result if the server does not answer.
            least: seconds during which the call is tried in any case.
        """
        least, self.called = max(least, 0.0 if self.called else FIRST_SECONDS), True
        return await self._guard.call_patiently(
            call, otherwise, seconds=GRACE_SECONDS, pause=self._pause, least=least
        )

    async def _from_index(self, claim: Claim) -> ClaimAnswer:
        waiter = claim.waiter
        known = (await self._guard.look_up([waiter.layer], waiter.dest)).of(waiter.layer)
        names = {source.name for source in known.sources} | ({waiter.dest.name} if known.in_dest else set())
        return SourcesFound(frozenset(names)) if names - waiter.excluded else IndexDown()
