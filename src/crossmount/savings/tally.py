"""What pushes did, as numbers that can be added up."""

from collections.abc import Iterable
from dataclasses import fields
from operator import attrgetter

from crossmount._dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What some pushes did. A blob counts once: as mounted, waited for, existing or uploaded.

    Times are whole milliseconds, so that a sum does not depend on the order of its parts.

    Attributes:
        blobs_mounted: blobs that were mounted at once.
        blobs_waited: blobs that another push uploaded meanwhile, so that this one only waited, and then mounted
            them or found them in its own repository.
        blobs_existing: blobs that the repository already had. Any client would find those: they are not saved.
        blobs_uploaded: blobs that were uploaded.
        bytes_mounted: their sizes; the same for the others.
        bytes_fetched: bytes that were read from other registries to be uploaded.
        ms_waiting: milliseconds in which a push waited for the upload of another and uploaded nothing itself.
        ms_uploading: milliseconds in which a push uploaded; concurrent uploads of one push count once.
        pushes: pushes that succeeded.
        pushes_failed: pushes that failed.
        pushes_without_index: how many of `pushes` and `pushes_failed` could not use the index.
    """

    blobs_mounted: int = 0
    bytes_mounted: int = 0
    blobs_waited: int = 0
    bytes_waited: int = 0
    blobs_existing: int = 0
    bytes_existing: int = 0
    blobs_uploaded: int = 0
    bytes_uploaded: int = 0
    bytes_fetched: int = 0
    ms_waiting: int = 0
    ms_uploading: int = 0
    pushes: int = 0
    pushes_failed: int = 0
    pushes_without_index: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        """Return the sum of both, field by field."""
        return Tally.of(map(int.__add__, self.numbers, other.numbers))

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "Tally":
        """Return a tally of numbers in the order of the fields; missing ones are 0, surplus ones are ignored."""
        return cls(**dict(zip(_NAMES, numbers, strict=False)))

    @classmethod
    def total(cls, tallies: Iterable["Tally"]) -> "Tally":
        """Return the sum of tallies."""
        return cls.of(map(sum, zip(*(tally.numbers for tally in tallies), strict=True)))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers, in the order of the fields."""
        numbers: tuple[int, ...] = _numbers(self)
        return numbers

    @property
    def blobs(self) -> int:
        """The number of all blobs."""
        return self.blobs_mounted + self.blobs_waited + self.blobs_existing + self.blobs_uploaded

    @property
    def bytes(self) -> int:
        """The bytes of all blobs."""
        return self.bytes_saved + self.bytes_existing + self.bytes_uploaded

    @property
    def blobs_saved(self) -> int:
        """Blobs that would have been uploaded without crossmount."""
        return self.blobs_mounted + self.blobs_waited

    @property
    def bytes_saved(self) -> int:
        """Bytes that would have been uploaded without crossmount: mounted, or waited for."""
        return self.bytes_mounted + self.bytes_waited

    @property
    def share_saved(self) -> float | None:
        """The saved part, 0 to 1, of the bytes that would have been uploaded without crossmount.

        None if there was nothing to save: everything existed.
        """
        needed = self.bytes_saved + self.bytes_uploaded
        return self.bytes_saved / needed if needed else None

    def saved_to_json(self) -> dict[str, int | float | None]:
        """Return what was saved, as JSON documents have it: `bytes`, and `share` from 0 to 1 or null."""
        share = self.share_saved
        return {"bytes": self.bytes_saved, "share": None if share is None else round(share, 4)}

    @property
    def rate(self) -> float | None:
        """Bytes per second of the uploads; None if none was timed."""
        return (
            1000 * self.bytes_uploaded / self.ms_uploading if self.bytes_uploaded and self.ms_uploading else None
        )

    @property
    def seconds_waiting(self) -> float:
        """Seconds in which pushes waited for the uploads of others."""
        return self.ms_waiting / 1000

    @property
    def seconds_uploading(self) -> float:
        """Seconds in which pushes uploaded."""
        return self.ms_uploading / 1000

    @property
    def seconds_saved(self) -> float | None:
        """An estimate of the time saved: see `seconds_saved_at`; None if no upload was timed."""
        return None if self.rate is None else self.seconds_saved_at(self.rate)

    def seconds_saved_at(self, rate: float) -> float:
        """Estimate the time saved: what the uploads would have taken at a rate, without the time of waiting.

        Args:
            rate: bytes per second, more than 0.
        """
        return max(0.0, self.bytes_saved / rate - self.seconds_waiting)


_NAMES = tuple(field.name for field in fields(Tally))
_numbers = attrgetter(*_NAMES)
