"""The accounts in an index: they are written in the round trip of the next `record`, and read by day.

Counting must cost a push nothing. So `account` only queues, and what was queued goes along with the next `record`,
as an additional command whose failure does not matter. What a record could not write stays in the queue, up to a
bound: a process that runs for long writes it once the index answers again. Each push has an id, and the server
adds an id once, so that a write whose answer was lost may be sent again.
"""

import os
from abc import abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Protocol, TypeVar, runtime_checkable

from crossmount._blocking import Driven
from crossmount.errors import IndexRefusedError, InvalidDigestError
from crossmount.index.aliases import RegistryNames
from crossmount.index.decode import as_map, registry_of
from crossmount.index.keys import STATS_SECONDS, Keys, day
from crossmount.index.look_up import HitCounter
from crossmount.index.outage import Adapted
from crossmount.index.protocol import MountIndex
from crossmount.oci import Digest
from crossmount.oci.reference import is_repository_name
from crossmount.redis.replies import Command
from crossmount.redis.scripts import load_script
from crossmount.savings import DayAccounts, LayerIncrement, Tally
from crossmount.savings.accounts import FATES, OTHER, AccountEntry, ReadsAccounts, Row, layer_accounts

SAVINGS_SECONDS = 400 * 24 * 3600
"""How long the accounts of a day are stored."""

ROWS_MAX, OTHERS_MAX, LAYERS_MAX = 64, 63, 48
"""The most rows with names of a day, of rows for what has none, and of layers; up to twice as many are stored."""

QUEUED_MAX = 256
AT_ONCE_MAX = 32
"""How many pushes one `record` writes at most, after an outage."""

REFUSALS_MAX = 3
"""How often the write of a push may be refused before it is dropped."""

_DIGITS_MAX = 15
_LAYER_TIMES_MAX = 10**9
_EMPTY = Tally()
_NUMBERS = " ".join(["%d"] * len(_EMPTY.numbers))
T = TypeVar("T")


@runtime_checkable
class KeepsAccounts(ReadsAccounts, Protocol):
    """An index that keeps accounts. A user's own index need not."""

    def account(self, *entries: AccountEntry) -> None:
        """Queue pushes, to be written with the next `record`. No I/O."""
        ...

    def take_unwritten(self) -> Sequence[AccountEntry]:
        """Remove and return the queued pushes, to be kept elsewhere when a process ends."""
        ...


def accounts_of(index: object) -> KeepsAccounts | None:
    """Return the index that keeps the accounts of another, which may be of the other flavour; None without any."""
    while not isinstance(index, KeepsAccounts):
        if isinstance(index, Driven):
            index = index.asynchronous
        elif isinstance(index, Adapted):
            index = index.adapted
        else:
            return None
    return index


class AccountQueue:
    """Pushes that are not on the server yet. There is no lock, since a fork could leave it locked.

    Args:
        process: returns the id of the process: after a fork the parent alone writes what it has queued.
    """

    def __init__(self, process: Callable[[], int] = os.getpid) -> None:
        self._process = process
        self._waiting: deque[tuple[int, int, AccountEntry]] = deque(maxlen=QUEUED_MAX)

    def add(self, entries: Iterable[AccountEntry], *, refusals: int = 0) -> None:
        """Add pushes; of too many the oldest are dropped."""
        if refusals <= REFUSALS_MAX:
            self._waiting.extend((self._process(), refusals, entry) for entry in entries)

    def take(self, limit: int = AT_ONCE_MAX) -> list[tuple[int, AccountEntry]]:
        """Remove and return some pushes of this process, each with how often its write was refused."""
        taken: list[tuple[int, AccountEntry]] = []
        while self._waiting and len(taken) < limit:
            try:
                process, refusals, entry = self._waiting.popleft()
            except IndexError:  # another thread was faster
                break
            if process == self._process():
                taken.append((refusals, entry))
        return taken


class QueuesAccounts:
    """Base class of the index in Redis: its queue, and how accounts are written and read."""

    _keys: Keys
    _names: RegistryNames
    _clock: Callable[[], float]

    def __init__(self) -> None:
        self._accounts = AccountQueue()
        self._hits = HitCounter()

    def account(self, *entries: AccountEntry) -> None:
        """Queue pushes, to be written with the next `record`."""
        self._accounts.add(entries)

    def take_unwritten(self) -> Sequence[AccountEntry]:
        """Remove and return the queued pushes, to be kept elsewhere when a process ends."""
        return [entry for _, entry in self._accounts.take(QUEUED_MAX)]

    async def read_accounts(self, days: Sequence[date]) -> Sequence[DayAccounts]:
        """Return the accounts of days, in their order, in one round trip; a day without pushes is empty.

        Raises:
            IndexFailedError: no answer, or the server refuses to read them.
        """
        commands: list[Command] = [("HGETALL", self._keys.same_registry())]
        for each in days:
            commands.append(("HGETALL", self._keys.savings(each)))
            commands.append(("ZRANGE", self._keys.savings_layers(each), 0, -1, "WITHSCORES"))
        shared, *replies = await self._read(commands)
        self._names.learn(as_map(shared), self._clock())
        return [
            DayAccounts(each, rows_of(rows, self._names), layer_accounts(layers_of(layers)))
            for each, rows, layers in zip(days, replies[::2], replies[1::2], strict=True)
        ]

    @abstractmethod
    async def _read(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands that read; return their replies, None where a command was refused."""

    async def _write_counts(
        self, now: float, write: Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]
    ) -> None:
        """Write the counts of look-ups and queued pushes along with something else.

        A push that is not written is queued again.

        Args:
            now: epoch seconds.
            write: sends commands along with its own, and returns the replies to them.
        """
        taken = self._accounts.take()
        try:
            replies = await write(self._count_commands(now, [entry for _, entry in taken]))
        except BaseException:
            for refusals, entry in taken:
                self._accounts.add([entry], refusals=refusals)
            raise
        for (refusals, entry), reply in zip(taken, replies, strict=False):
            if isinstance(reply, IndexRefusedError):
                self._accounts.add([entry], refusals=refusals + 1)

    def _count_commands(self, now: float, entries: Sequence[AccountEntry]) -> list[Command]:
        """Return a command for each push, of which the first counts look-ups too; or one for look-ups alone."""
        asked, known = self._hits.take()
        if not entries and not asked:
            return []
        script, stats = load_script("count", "crossmount.index"), self._keys.stats(day(now))
        hits = (STATS_SECONDS, asked, known)
        if not entries:
            return [script.call((stats,), *hits)]
        calls: list[Command] = []
        for entry in entries:
            keys, arguments = account_arguments(self._keys, entry, self._names)
            calls.append(script.call((stats, *keys), *hits, *arguments))
            hits = (STATS_SECONDS, 0, 0)
        return calls


class DelegatesAccounts:
    """Base class of an index whose accounts are another's."""

    _accounts: KeepsAccounts

    def account(self, *entries: AccountEntry) -> None:
        """Add pushes, or queue them to be written with the next `record`."""
        self._accounts.account(*entries)

    def take_unwritten(self) -> Sequence[AccountEntry]:
        """Remove and return the queued pushes."""
        return self._accounts.take_unwritten()

    async def read_accounts(self, days: Sequence[date]) -> Sequence[DayAccounts]:
        """Return the accounts of days, in their order; a day without pushes is empty."""
        return await self._accounts.read_accounts(days)


class GuardedAccounts:
    """Base class of the guard: accounts, for indexes that keep them."""

    _index: MountIndex

    @abstractmethod
    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call; errors propagate."""

    def account(self, *entries: AccountEntry) -> None:
        """Queue pushes, to be written with the next `record` that the index answers."""
        if (accounts := accounts_of(self._index)) is not None:
            accounts.account(*entries)

    def take_unwritten(self) -> Sequence[AccountEntry]:
        """Remove and return the queued pushes."""
        accounts = accounts_of(self._index)
        return () if accounts is None else accounts.take_unwritten()

    async def read_accounts(self, days: Sequence[date]) -> Sequence[DayAccounts]:
        """Return the accounts of days; empty ones if the index keeps none.

        Raises:
            IndexFailedError: the index failed, or is not asked for now.
        """
        index = self._index
        if not isinstance(index, ReadsAccounts):
            return [DayAccounts(each) for each in days]
        return await self.call(lambda: index.read_accounts(days))


def account_arguments(
    keys: Keys, entry: AccountEntry, names: RegistryNames
) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
    """Return the keys and arguments of the script `count` that add a push to the accounts of its day."""
    push = entry.increment
    layers: list[str] = []
    for layer in push.layers:
        size = str(layer.size)
        layers += (":".join((layer.fate, size, layer.digest)), size)  # faster than an f-string
    return (
        (keys.savings(entry.day), keys.savings_layers(entry.day), *keys.savings_pushes()),
        (
            entry.id,
            str(SAVINGS_SECONDS),
            str(ROWS_MAX),
            str(OTHERS_MAX),
            str(LAYERS_MAX),
            f"{names.canonical(push.registry)}/{push.prefix}",
            _NUMBERS % push.tally.numbers,
            *layers,
        ),
    )


def rows_of(reply: Any, names: RegistryNames) -> Mapping[Row, Tally]:
    """Parse the rows of a day; what is not ours is ignored. Several names of one registry are one row."""
    rows: dict[Row, Tally] = defaultdict(lambda: _EMPTY)
    for field, value in as_map(reply).items():
        row, numbers = _row(field), _numbers(value)
        if row is not None and numbers is not None:
            registry = row[0] if row[0] == OTHER else names.canonical(row[0])
            rows[registry, row[1]] += Tally.of(numbers[1:])  # the first is a handicap, which the script explains
    return dict(rows)


def layers_of(reply: Any) -> Iterable[tuple[LayerIncrement, int]]:
    """Parse the layers of a day: each with what happened to it, and how often; what is not ours is ignored."""
    for member, score in _scored(reply):
        fate, _, rest = member.decode("ascii", "replace").partition(":")
        size, _, digest = rest.partition(":")
        if fate not in FATES or not _is_number(size.encode()) or not (0 < score < float("inf")):
            continue
        times = round(score / int(size)) if int(size) else 0
        if 0 < times < _LAYER_TIMES_MAX:
            try:
                yield LayerIncrement(Digest(digest), int(size), fate), times
            except InvalidDigestError:
                continue


def _row(field: bytes) -> Row | None:
    registry, _, prefix = field.decode("ascii", "replace").partition("/")
    if prefix != OTHER and (not is_repository_name(prefix) or "/" in prefix):
        return None
    if registry == OTHER:
        return (OTHER, OTHER) if prefix == OTHER else None
    return None if registry_of(registry) is None else (registry, prefix)


def _numbers(value: bytes) -> list[int] | None:
    words = value.split(b" ")
    if len(words) != 1 + len(_EMPTY.numbers) or not all(map(_is_number, words)):
        return None
    return [int(word) for word in words]


def _is_number(word: bytes) -> bool:
    return word.isdigit() and len(word) <= _DIGITS_MAX


def _scored(reply: Any) -> Iterable[tuple[bytes, float]]:
    """Yield members and scores from a list of pairs (RESP3), or of alternating members and scores."""
    if not isinstance(reply, list):
        return
    items = iter(reply)
    pairs = reply if reply and isinstance(reply[0], list | tuple) else zip(items, items, strict=False)
    for pair in pairs:
        if len(pair) == 2 and isinstance(pair[0], bytes):
            try:
                yield pair[0], float(pair[1])
            except (TypeError, ValueError):
                continue
