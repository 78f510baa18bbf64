"""What others wrote, read with care: words for a message, a number, a JSON object. None of it is trusted."""

import json
import unicodedata
from typing import Any

WORDS_MAX = 300
DIGITS_MAX = 18
"""The longest number that surely has less than 64 bits."""


def one_line(text: str, *, limit: int = WORDS_MAX) -> str:
    """Return `text` on one line: controls and format characters become spaces, cut at `limit` characters."""
    clean = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 4 * limit])
    joined = " ".join(clean.split())
    return joined if len(joined) <= limit else joined[:limit] + "…"


def decimal(text: str, *, digits: int = DIGITS_MAX) -> int | None:
    """Return the whole number that `text` is, None if it is anything else or has more than `digits` digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= digits else None


def json_object(content: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `content` is, None if it is anything else."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):  # not JSON, or nested without end
        return None
    return document if isinstance(document, dict) else None
