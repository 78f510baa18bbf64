"""Turns the events of one push into what it adds to the accounts. No I/O."""

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, date, datetime
from typing import Protocol

from crossmount import events
from crossmount.oci import Digest, Repository
from crossmount.savings.accounts import LayerFate, LayerIncrement, PushIncrement, UploadReason, prefix_of
from crossmount.savings.tally import Tally

LAYERS_A_PUSH = 3
"""How many layers of a push are counted one by one: the largest, among them a mounted and an uploaded one.
Each costs nearly half a percent of the time of a look-up and a record."""


class KnownLayer(Protocol):
    """What an index knew of a layer when the push began."""

    @property
    def sources(self) -> Collection[Repository]:
        """Repositories that it could be mounted from."""
        ...

    @property
    def in_dest(self) -> bool:
        """Whether the destination was said to have it."""
        ...


class PushAccountant:
    """An observer of one push.

    Args:
        dest: the repository that is pushed to; events of others are ignored.
        known: returns what the index knew of a layer.
        denied: repositories that this account was known not to be able to read.
        mounts: whether the registry was known to mount; None if that was not known.
        waits_for: whether a push waits for another's upload of a layer of so many bytes.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        dest: Repository,
        *,
        known: Callable[[Digest], KnownLayer],
        denied: Collection[Repository],
        mounts: bool | None,
        waits_for: Callable[[int], bool],
        clock: Callable[[], float],
    ) -> None:
        self._dest = dest
        self._known = known
        self._denied = denied
        self._mounts = mounts
        self._waits_for = waits_for
        self._clock = clock
        self._finished: dict[Digest, events.BlobFinished] = {}
        self._dropped: dict[Digest, set[str]] = {}
        self._waited: set[Digest] = set()
        self._waiting: set[Digest] = set()
        self._uploading: set[Digest] = set()
        self._since: float | None = None
        self._seconds_waiting = self._seconds_uploading = 0.0

    def __call__(self, event: events.Event) -> None:
        """Count an event."""
        match event:
            case events.BlobProgress(digest=digest, dest=self._dest):
                if digest not in self._uploading:
                    self._pass_time()
                    self._waiting.discard(digest)
                    self._uploading.add(digest)
            case events.BlobWaiting(digest=digest, dest=self._dest):
                self._pass_time()
                self._waited.add(digest)
                self._waiting.add(digest)
            case events.BlobFinished(digest=digest, dest=self._dest):
                self._pass_time()
                self._waiting.discard(digest)
                self._uploading.discard(digest)
                self._finished[digest] = event  # a blob that is pushed again counts by its last outcome
            case events.SourceDropped(layer=layer, reason=reason):
                self._dropped.setdefault(layer, set()).add(reason)
            case _:
                pass

    def increment(self, *, succeeded: bool, fetched: int = 0, used_index: bool = True) -> PushIncrement:
        """Return what the push adds to the accounts.

        Args:
            succeeded: whether the registry has the image.
            fetched: bytes that were read from other registries.
            used_index: whether the index answered.
        """
        self._pass_time()
        numbers: dict[str, int] = {}
        for digest, blob in self._finished.items():
            fate = self._fate(digest, blob)
            numbers[f"blobs_{fate}"] = numbers.get(f"blobs_{fate}", 0) + 1
            numbers[f"bytes_{fate}"] = numbers.get(f"bytes_{fate}", 0) + blob.size
        tally = Tally(
            **numbers,
            bytes_fetched=fetched,
            ms_waiting=round(1000 * self._seconds_waiting),
            ms_uploading=round(1000 * self._seconds_uploading),
            pushes=int(succeeded),
            pushes_failed=int(not succeeded),
            pushes_without_index=int(not used_index),
        )
        layers = named_layers(
            LayerIncrement(digest, blob.size, known)
            for digest, blob in self._finished.items()
            if (known := self._layer_fate(digest, blob)) is not None
        )
        return PushIncrement(self._dest.registry, prefix_of(self._dest), tally, layers)

    def _fate(self, digest: Digest, blob: events.BlobFinished) -> str:
        return "waited" if digest in self._waited and blob.outcome != "uploaded" else blob.outcome

    def _layer_fate(self, digest: Digest, blob: events.BlobFinished) -> LayerFate | None:
        fate = self._fate(digest, blob)
        if fate == "uploaded":
            return self._reason(digest, blob.size)
        return None if fate == "existing" else "mounted"

    def _reason(self, digest: Digest, size: int) -> UploadReason:
        known, dropped = self._known(digest), self._dropped.get(digest, set())
        return upload_reason(
            known,
            denied=self._denied,
            dropped=dropped,
            mounts=self._mounts,
            is_small=not self._waits_for(size),
        )

    def _pass_time(self) -> None:
        """Count the time since the last event: as uploading if anything was uploaded, else as waiting."""
        now = self._clock()
        passed = 0.0 if self._since is None else now - self._since
        if self._uploading:
            self._seconds_uploading += passed
        elif self._waiting:
            self._seconds_waiting += passed
        self._since = now


def upload_reason(
    known: KnownLayer,
    *,
    denied: Collection[Repository],
    dropped: Collection[str],
    mounts: bool | None,
    is_small: bool,
) -> UploadReason:
    """Return why a layer was uploaded.

    Args:
        known: what the index knew of it.
        denied: repositories that this account was known not to be able to read.
        dropped: why sources were dropped, as events say.
        mounts: whether the registry mounts; None if that is not known.
        is_small: whether it is too small to wait for another's upload.
    """
    if mounts is False:
        return "unmountable"
    if not known.sources:
        if known.in_dest:
            return "gone"
        return "small" if is_small else "unknown"
    if all(source in denied for source in known.sources):
        return "unreadable"
    if "unreadable" in dropped:
        return "unreadable"
    return "gone" if "gone" in dropped and "unmountable" not in dropped else "unmountable"


def named_layers(layers: Iterable[LayerIncrement]) -> tuple[LayerIncrement, ...]:
    """Return the layers of a push that are counted one by one: see `LAYERS_A_PUSH`."""
    by_size = sorted(
        (each for each in layers if each.size), key=lambda each: (each.size, each.digest), reverse=True
    )
    named = by_size[:LAYERS_A_PUSH]
    for mounted in (True, False):
        if all((each.fate == "mounted") != mounted for each in named):
            other = next((each for each in by_size if (each.fate == "mounted") == mounted), None)
            named = named if other is None else [*named[: LAYERS_A_PUSH - 1], other]
    return tuple(named)


def utc_today() -> date:
    """Return the day of this moment, in UTC."""
    return datetime.now(UTC).date()
