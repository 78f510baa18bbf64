"""Counts pushes: each is added once to the accounts of the index, in the round trip that records its blobs."""

import secrets
from collections.abc import Callable, Iterable
from datetime import date

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount.index.accounts import accounts_of
from crossmount.index.guard import GuardedIndex
from crossmount.index.protocol import Knowledge, MountIndex
from crossmount.oci import BlobSource, Repository
from crossmount.savings.accountant import PushAccountant, utc_today
from crossmount.savings.accounts import AccountEntry
from crossmount.transfer.fetch import FetchedBlob


def new_push_id() -> str:
    """Return a random name for a push: eight letters, digits, `-` and `_`, which reveal nothing."""
    return secrets.token_urlsafe(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """What counting needs from outside.

    Attributes:
        new_id: returns a new name for a push.
        today: returns the day, in UTC. A push counts on the day on which it ends.
    """

    new_id: Callable[[], str] = new_push_id
    today: Callable[[], date] = utc_today


class PushAccount:
    """The account of one push.

    Args:
        accounting: the day.
        index: the index that the push uses.
        push_id: the push's name.

    Attributes:
        push_id: the same.
    """

    def __init__(self, accounting: Accounting, index: MountIndex, push_id: str) -> None:
        self._accounting = accounting
        self._index = index
        self.push_id = push_id
        self._unserved = _unserved(index)
        self._used_index = True
        self._accountant: PushAccountant | None = None

    def begin(
        self,
        dest: Repository,
        knowledge: Knowledge,
        *,
        waits_for: Callable[[int], bool],
        clock: Callable[[], float],
    ) -> events.Observer:
        """Begin with what the index knew, and return an observer of the push.

        Args:
            dest: the destination.
            knowledge: the answer of the index.
            waits_for: whether the push waits for another's upload of a layer of so many bytes.
            clock: seconds, from any start.
        """
        self._used_index = _unserved(self._index) == self._unserved
        self._accountant = PushAccountant(
            dest,
            known=knowledge.of,
            denied=knowledge.denied,
            mounts=knowledge.traits.mounts,
            waits_for=waits_for,
            clock=clock,
        )
        return events.never_raising(self._accountant)

    def end(self, blobs: Iterable[BlobSource], *, succeeded: bool) -> None:
        """Queue the account in the index, whose next `record` writes it.

        Args:
            blobs: the blobs of the image.
            succeeded: whether the registry has the image.
        """
        accounts = accounts_of(self._index)
        if accounts is None or self._accountant is None:
            return
        fetched = sum(sum(blob.fetched.values()) for blob in blobs if isinstance(blob, FetchedBlob))
        increment = self._accountant.increment(succeeded=succeeded, fetched=fetched, used_index=self._used_index)
        accounts.account(AccountEntry(self.push_id, self._accounting.today(), increment))


def _unserved(index: MountIndex) -> int:
    """Return how many calls the index has not answered so far."""
    return index.unserved if isinstance(index, GuardedIndex) else 0
