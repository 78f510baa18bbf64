"""Moments as the other side writes them, in Unix time; None where one cannot be read."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def http_date(text: str) -> float | None:
    """Read an HTTP date (RFC 9110, 5.6.7)."""
    return _moment(parsedate_to_datetime, text)


def iso_date(text: str) -> float | None:
    """Read a date and time by ISO 8601; without a zone it is UTC."""
    return _moment(datetime.fromisoformat, text)


def _moment(read: Callable[[str], datetime], text: str) -> float | None:
    try:
        moment = read(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # what `parsedate_to_datetime` is known to raise
        return None
