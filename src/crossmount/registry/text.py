"""Foreign words made fit for a one-line message."""

import unicodedata

WORDS_MAX = 300


def one_line(text: str, *, limit: int = WORDS_MAX) -> str:
    """Return `text` on one line: controls and format characters become spaces, cut at `limit` characters."""
    clean = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 4 * limit])
    joined = " ".join(clean.split())
    return joined if len(joined) <= limit else joined[:limit] + "…"
