"""Parsers of untrusted text: a line for a message, a number, a JSON object, a date. None of them raises."""

import json
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

WORDS_MAX = 300
DIGITS_MAX = 18
"""The most digits of a number that always fits into 64 bits."""

_SIZE = re.compile(r"([0-9]{1,15})\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)


def one_line(text: str, *, limit: int = WORDS_MAX) -> str:
    """Return `text` on one line of at most `limit` characters; control and format characters become spaces."""
    clean = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 4 * limit])
    joined = " ".join(clean.split())
    return joined if len(joined) <= limit else joined[:limit] + "…"


def decimal(text: str, *, digits: int = DIGITS_MAX) -> int | None:
    """Return the whole number that `text` is, or None if it is anything else or has more than `digits` digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= digits else None


def byte_size(text: str) -> int | None:
    """Return the bytes that `text` names, such as `500`, `512MiB` or `8G`, or None. Units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    return int(match[1]) << (10 * (" KMGT".index(match[2].upper()) if match[2] else 0))


def json_object(content: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `content` is, or None if it is anything else."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):  # not JSON, or nested too deep
        return None
    return document if isinstance(document, dict) else None


def http_date(text: str) -> float | None:
    """Return the Unix time of an HTTP date (RFC 9110, 5.6.7), or None if `text` is none."""
    return _unix_time(parsedate_to_datetime, text)


def iso_date(text: str) -> float | None:
    """Return the Unix time of an ISO 8601 date and time, in UTC if it has no zone, or None if `text` is none."""
    return _unix_time(datetime.fromisoformat, text)


def _unix_time(read: Callable[[str], datetime], text: str) -> float | None:
    try:
        moment = read(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # all that `parsedate_to_datetime` raises
        return None


def is_above(value: object, least: float, *, whole: bool = False) -> bool:
    """Return whether a value that a program gave is a number above `least`; with `whole`, an integer."""
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and value > least
