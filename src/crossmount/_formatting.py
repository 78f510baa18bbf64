"""Formats sizes, counts and times for people: of the command and of the dashboard."""

from collections.abc import Iterable

from crossmount import _parsing

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")
_SHORT_HEX = 12


def scaled(count: int) -> tuple[str, str]:
    """Return a number of bytes as three digits and a decimal unit: `0` and `B`, `12.3` and `MB`."""
    if count < 1000:
        return str(count), "B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}", unit


def size(count: int) -> str:
    """Return a number of bytes with three digits and a decimal unit: `0 B`, `12.3 MB`."""
    return " ".join(scaled(count))


def count(number: int, noun: str, plural: str = "") -> str:
    """Return `1 blob`, `2 blobs`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def short(digest: str) -> str:
    """Return the first twelve hex digits of a digest, enough for a reader to distinguish blobs."""
    return digest.partition(":")[2][:_SHORT_HEX]


def milliseconds(seconds: float) -> str:
    """Return a round trip as `0.4 ms`, `23 ms`."""
    value = seconds * 1000
    return f"{value:.1f} ms" if value < 9.95 else f"{value:.0f} ms"


def duration(seconds: float) -> str:
    """Return a duration as `0.4 s`, `3 min`, `5 h`, `2 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def one_line(words: str) -> str:
    """Return `words` on one line, without control characters, which a terminal would obey."""
    return _parsing.one_line(words, limit=len(words))


def wrapped(words: str, columns: int | None) -> str:
    """Return a message as lines of a terminal that break between words; unchanged if None says it is no terminal.

    A word is never broken, so that an address can be copied.
    """
    if columns is None or len(words) <= columns:
        return words
    import textwrap  # noqa: PLC0415 for a message on a terminal only

    return "\n".join(
        textwrap.wrap(words, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    )


def summary(groups: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return aligned lines from (what, number of blobs, bytes)."""
    cells = [(what, count(blobs, "blob"), size(total)) for what, blobs, total in groups]
    return [f"{what:<14} {blobs:>9} {total:>9}" for what, blobs, total in cells]
