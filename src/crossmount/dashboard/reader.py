"""Reads the index for the page: each part on request, if its last value is old.

Nothing is written. A part that cannot be read keeps its last value, and says why that is old; the other parts
are not affected.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Generic, TypeVar

from crossmount._dataclass import dataclass
from crossmount._secrets import mask_forms
from crossmount._tasks import Closing
from crossmount.errors import CrossmountError, IndexFailedError
from crossmount.fleet.active_uploads import MeasuredUpload, UploadRates, active_uploads
from crossmount.index.entries import read_layer
from crossmount.index.protocol import LayerEntry, MountIndex, RegistryTraits, backing_server, local_entries_of
from crossmount.index.registries import last_scans, recorded_traits
from crossmount.maintenance import IndexInfo, index_info
from crossmount.oci import Digest
from crossmount.savings.accounts import OTHER
from crossmount.savings.report import DAYS_MAX, Savings, read_savings

T = TypeVar("T")

_REST = 10
"""After a slow read, the next one begins only when this many times its duration has passed."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """The newest value that could be read.

    Attributes:
        value: the value; None if none was ever read.
        at: when it was read, in epoch seconds; None without a value.
        trouble: why the last attempt failed; empty if it succeeded.
    """

    value: T | None = None
    at: float | None = None
    trouble: str = ""


class Refreshed(Generic[T]):
    """Reads a value on request, and keeps it for a while.

    Args:
        read: reads the value. Errors of crossmount become the reading's trouble; others propagate.
        seconds: how old a value may be.
        patience: seconds that a caller waits for a read in progress before it gets the older value.
        clock: epoch seconds.
        monotonic: seconds, from any start.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[T]],
        *,
        seconds: float,
        patience: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._patience = patience
        self._clock = clock
        self._monotonic = monotonic
        self._reading: Reading[T] = Reading()
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    async def get(self) -> Reading[T]:
        """Return the newest reading, after a new read if it is old."""
        if self._task is None and self._monotonic() >= self._due:
            self._task = asyncio.create_task(self._refresh())
        task = self._task
        if task is not None:
            await asyncio.wait([task], timeout=self._patience)
            if task.done():
                self._task = None if self._task is task else self._task
                task.result()  # a defect propagates
        return self._reading

    async def aclose(self) -> None:
        """End a read in progress."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _refresh(self) -> None:
        started = self._monotonic()
        try:
            self._reading = Reading(await self._read(), self._clock())
        except CrossmountError as error:
            self._reading = replace(self._reading, trouble=mask_forms(str(error)))
        finally:
            now = self._monotonic()
            self._due = now + max(self._seconds, _REST * (now - started))


SAMPLE_KEYS = 50_000
"""How many keys of an index are read to describe its contents; for a larger index the rest is estimated."""

TRAITS_MAX = 100
"""The most registries whose traits are shown."""


@dataclass(frozen=True, slots=True)
class IndexConnection:
    """How the index's server is reached.

    Attributes:
        round_trip: seconds; None if the index is in this process.
    """

    round_trip: float | None


@dataclass(frozen=True, slots=True)
class RegistryState:
    """What the index knows of a registry itself.

    Attributes:
        traits: its observed behaviour.
        scanned: seconds since a scan of it was last finished; None if none is known.
    """

    traits: RegistryTraits
    scanned: int | None = None


class IndexReader(Closing):
    """Reads one namespace of an index.

    Args:
        index: the index; the caller closes it.
        namespace: its namespace, for people.
        address: where it is, for people: without secrets.
        clock: epoch seconds.
        monotonic: seconds, from any start.
    """

    def __init__(
        self,
        index: MountIndex,
        *,
        namespace: str,
        address: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.namespace = namespace
        self.address = address
        self._index = index
        self._clock = clock
        self._monotonic = monotonic
        self._meter = UploadRates()
        self._older: Savings | None = None
        self._older_read = 0.0
        self._connection = self._part(self._ping, seconds=2.0, patience=3.0)
        self._savings = self._part(self._read_savings, seconds=2.0, patience=10.0)
        self._uploads = self._part(self._read_uploads, seconds=1.0, patience=3.0)
        self._contents = self._part(self._read_contents, seconds=30.0, patience=0.5)
        self._registries = self._part(self._read_registries, seconds=10.0, patience=3.0)

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self._clock(), UTC)

    async def connection(self) -> Reading[IndexConnection]:
        """Return how the index is reached; trouble if it is not."""
        return await self._connection.get()

    async def savings(self) -> Reading[Savings]:
        """Return the accounts of all days that are kept."""
        return await self._savings.get()

    async def uploads(self) -> Reading[list[MeasuredUpload]]:
        """Return the uploads in progress."""
        return await self._uploads.get()

    async def contents(self) -> Reading[IndexInfo]:
        """Return what the index contains. For a large index, the first reading has no value yet."""
        return await self._contents.get()

    async def registries(self) -> Reading[Mapping[str, RegistryState]]:
        """Return the observed behaviour of the registries in the accounts and in the index, by name."""
        return await self._registries.get()

    async def layer(self, digest: Digest) -> Reading[LayerEntry]:
        """Return the entry of a layer; without a value if the index knows nothing of it."""
        try:
            entry = await self._read_layer(digest)
        except IndexFailedError as error:
            return Reading(trouble=str(error))
        return Reading(entry, self._clock())

    async def aclose(self) -> None:
        """End reads in progress."""
        parts = (self._connection, self._savings, self._uploads, self._contents, self._registries)
        await asyncio.gather(*(part.aclose() for part in parts))

    def _part(self, read: Callable[[], Awaitable[T]], *, seconds: float, patience: float) -> Refreshed[T]:
        return Refreshed(read, seconds=seconds, patience=patience, clock=self._clock, monotonic=self._monotonic)

    async def _ping(self) -> IndexConnection:
        server = backing_server(self._index)
        if server is None:
            return IndexConnection(None)
        started = self._monotonic()
        (reply,) = await server.link.run([("PING",)])
        if isinstance(reply, IndexFailedError):
            raise reply
        return IndexConnection(self._monotonic() - started)

    async def _read_savings(self) -> Savings:
        """Read the accounts. Yesterday and older days hardly change: they are read again once an hour."""
        today = self.now.date()
        recent = await self._read_days(today - timedelta(days=1), today)
        older = self._older
        if older is None or older.until != recent.since - timedelta(days=1) or self._is_stale():
            older = await self._read_days(today - timedelta(days=DAYS_MAX), recent.since - timedelta(days=1))
            self._older, self._older_read = older, self._monotonic()
        return Savings(older.days + recent.days)

    def _is_stale(self) -> bool:
        return self._monotonic() - self._older_read > 3600

    async def _read_days(self, since: date, until: date) -> Savings:
        return await read_savings(self._index, since=since, until=until)

    async def _read_uploads(self) -> list[MeasuredUpload]:
        server = backing_server(self._index)
        found = [] if server is None else await active_uploads(server)
        return self._meter.measure(found, self._clock())

    async def _read_contents(self) -> IndexInfo:
        return await index_info(self._index, sample=SAMPLE_KEYS)

    async def _read_registries(self) -> Mapping[str, RegistryState]:
        savings, contents = await self.savings(), await self.contents()
        counted = [] if savings.value is None else [name for name in savings.value.by_registry if name != OTHER]
        listed = [] if contents.value is None else list(contents.value.registries)
        names = list(dict.fromkeys([*counted, *listed]))[:TRAITS_MAX]
        found = await asyncio.gather(*(recorded_traits(self._index, name) for name in names))
        server = backing_server(self._index)
        scans = {} if server is None or not names else await last_scans(server, names)
        return {
            name: RegistryState(recorded.traits, scans.get(name))
            for name, recorded in zip(names, found, strict=True)
        }

    async def _read_layer(self, digest: Digest) -> LayerEntry | None:
        for entry in local_entries_of(self._index) or ():
            if entry.layer == digest:
                return entry
        server = backing_server(self._index)
        return None if server is None else await read_layer(server, digest)
