"""Formats text for a terminal. Sizes, counts and times are formatted by `crossmount._formatting`."""

from collections.abc import Iterable

from crossmount import _parsing
from crossmount._formatting import count, duration, milliseconds, short, size

__all__ = ["count", "duration", "milliseconds", "one_line", "short", "size", "summary"]


def one_line(words: str) -> str:
    """Return `words` on one line, without control characters, which a terminal would obey."""
    return _parsing.one_line(words, limit=len(words))


def summary(groups: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return aligned lines from (what, number of blobs, bytes)."""
    cells = [(what, count(blobs, "blob"), size(total)) for what, blobs, total in groups]
    return [f"{what:<14} {blobs:>9} {total:>9}" for what, blobs, total in cells]
