"""Counts the pushes of a proxy's clients, for the accounts of the index.

The proxy sees blobs one by one, and only the manifest that names them shows which push they belong to. So it
remembers for a while how each blob came into its repository; a blob that it has not seen existed before. A push
is counted with its tag, or some time after its last manifest if there is none; one that never sends a manifest is
not counted. A client of crossmount counts its push itself too: it names the push in a header of its manifests, the
proxy counts it by that name, and the index adds a name once.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import field
from typing import Literal

from crossmount._dataclass import dataclass
from crossmount._expiring import ExpiringSet
from crossmount.index.accounts import KeepsAccounts
from crossmount.index.protocol import NOTHING_KNOWN, Knowledge, LayerKnowledge
from crossmount.oci import Digest, Manifest, Repository
from crossmount.savings import AccountEntry, LayerIncrement, PushIncrement, Tally
from crossmount.savings.accountant import named_layers, upload_reason
from crossmount.savings.accounts import LayerFate, prefix_of
from crossmount.transfer.accounting import Accounting

SEEN_MAX, PUSHES_MAX = 16_384, 4096
"""The most blobs and pushes that are remembered; the oldest are removed, a push after it is counted."""

IDLE_SECONDS = 60.0
"""Seconds after its last manifest when a push without a tag is counted."""

COUNTED_SECONDS = 3600.0
"""How long the name of a counted push is remembered, so that its further tags do not count as pushes."""

_PUSH_ID = re.compile(r"[A-Za-z0-9_-]{8}")

Outcome = Literal["mounted", "existing", "uploaded"]


@dataclass(slots=True)
class _Seen:
    """What was seen of a blob in a repository."""

    outcome: Outcome | None = None
    waited: float = 0.0
    known: LayerKnowledge = NOTHING_KNOWN
    mounts: bool | None = None
    served: bool = True
    upload: tuple[float, float] | None = None

    @property
    def fate(self) -> str:
        return "waited" if self.waited and self.outcome != "uploaded" else self.outcome or "existing"


@dataclass(slots=True)
class _Push:
    """A push so far."""

    dest: Repository
    push_id: str
    blobs: dict[Digest, tuple[int, _Seen]] = field(default_factory=dict)
    touched: float = 0.0


class PushLedger:
    """Counts the pushes of one upstream's clients.

    Args:
        accounts: receives the counts; None counts nothing.
        waits_for: whether a client's upload of so many bytes waits for another's.
        accounting: names pushes, and knows the day.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        accounts: KeepsAccounts | None,
        *,
        waits_for: Callable[[int], bool],
        accounting: Accounting = Accounting(),  # noqa: B008 a frozen value
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = accounts
        self._waits_for = waits_for
        self._accounting = accounting
        self._clock = clock
        self._seen: OrderedDict[tuple[Repository, Digest], _Seen] = OrderedDict()
        self._pushes: OrderedDict[tuple[str, Repository, str], _Push] = OrderedDict()
        self._counted: ExpiringSet[str] = ExpiringSet(COUNTED_SECONDS, limit=PUSHES_MAX, clock=clock)

    def note_known(self, dest: Repository, digest: Digest, knowledge: Knowledge, *, served: bool) -> None:
        """Note what the index knew of a blob before it came into a repository, and whether the index answered."""
        seen = self._of(dest, digest)
        seen.known, seen.mounts, seen.served = knowledge.of(digest), knowledge.traits.mounts, served

    def note_outcome(self, dest: Repository, digest: Digest, outcome: Outcome, *, waited: float = 0.0) -> None:
        """Note how a blob came into a repository. That it exists changes nothing for one that was pushed before.

        Args:
            dest: the repository.
            digest: the blob.
            outcome: how.
            waited: seconds that the client waited for another's upload.
        """
        seen = self._of(dest, digest)
        if seen.outcome is None or outcome != "existing":
            seen.outcome = outcome
        seen.waited += waited

    def note_upload(self, dest: Repository, digest: Digest, *, began: float, ended: float) -> None:
        """Note when a blob was sent to the registry, in the clock's seconds."""
        self._of(dest, digest).upload = began, ended

    def accept(self, caller: str, dest: Repository, manifest: Manifest, *, push_id: str, is_last: bool) -> bool:
        """Count the blobs of a manifest that the registry accepted.

        Args:
            caller: the key of the client.
            dest: the repository.
            manifest: the manifest.
            push_id: the value of the client's header; ignored if it is not a name.
            is_last: whether the manifest has a tag, so that the push is over.

        Returns:
            Whether the client names the push, and it is counted now.
        """
        name = push_id if _PUSH_ID.fullmatch(push_id) else ""
        if name and name in self._counted:
            return False
        key = caller, dest, name
        push = self._pushes.pop(key, None) or _Push(dest, name or self._accounting.new_id())
        push.touched = self._clock()
        for blob in manifest.blobs:
            seen = self._seen.pop((dest, blob.digest), None)
            if seen is not None or blob.digest not in push.blobs:
                push.blobs[blob.digest] = blob.size, seen or _Seen()
        if is_last:
            self._count(push)
            return bool(name)
        self._pushes[key] = push
        while len(self._pushes) > PUSHES_MAX:
            self._count(self._pushes.popitem(last=False)[1])
        return False

    def finish(self, caller: str, dest: Repository) -> None:
        """Count the pushes of a client into a repository, whose tag the registry has accepted."""
        for key in [key for key in self._pushes if key[:2] == (caller, dest)]:
            self._count(self._pushes.pop(key))

    def count_idle(self, *, seconds: float = IDLE_SECONDS) -> int:
        """Count the pushes whose last manifest is old enough, and return how many there were."""
        until = self._clock() - seconds
        idle = [key for key, push in self._pushes.items() if push.touched <= until]
        for key in idle:
            self._count(self._pushes.pop(key))
        return len(idle)

    def _of(self, dest: Repository, digest: Digest) -> _Seen:
        seen = self._seen.setdefault((dest, digest), _Seen())
        self._seen.move_to_end((dest, digest))
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        return seen

    def _count(self, push: _Push) -> None:
        self._counted.add(push.push_id)
        if self._accounts is None:
            return
        numbers: dict[str, int] = {}
        for size, seen in push.blobs.values():
            numbers[f"blobs_{seen.fate}"] = numbers.get(f"blobs_{seen.fate}", 0) + 1
            numbers[f"bytes_{seen.fate}"] = numbers.get(f"bytes_{seen.fate}", 0) + size
        uploads = [seen.upload for _, seen in push.blobs.values() if seen.upload is not None]
        tally = Tally(
            **numbers,
            ms_uploading=round(1000 * covered(uploads)),
            ms_waiting=round(1000 * max((seen.waited for _, seen in push.blobs.values()), default=0.0)),
            pushes=1,
            pushes_without_index=int(not all(seen.served for _, seen in push.blobs.values())),
        )
        layers = named_layers(
            LayerIncrement(digest, size, fate)
            for digest, (size, seen) in push.blobs.items()
            if (fate := self._layer_fate(size, seen)) is not None
        )
        increment = PushIncrement(push.dest.registry, prefix_of(push.dest), tally, layers)
        self._accounts.account(AccountEntry(push.push_id, self._accounting.today(), increment))

    def _layer_fate(self, size: int, seen: _Seen) -> LayerFate | None:
        if seen.fate == "uploaded":
            small = not self._waits_for(size)
            return upload_reason(seen.known, denied=(), dropped=(), mounts=seen.mounts, is_small=small)
        return None if seen.fate == "existing" else "mounted"


def covered(spans: list[tuple[float, float]]) -> float:
    """Return the seconds in which at least one of the spans was under way."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total
