"""Pages as answers: the templates and their filters, the few files beside them, and the headers of every answer.

All text in a page is escaped. The headers keep a browser to what this server sends.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crossmount import _formatting
from crossmount._dataclass import dataclass


def environment(static: Callable[[str], str]) -> Environment:
    """Return the environment of the templates.

    Args:
        static: returns the address of a file that pages refer to.
    """
    made = Environment(
        loader=PackageLoader("crossmount.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "size": _formatting.size,
        "amount": _amount,
        "thousands": thousands,
        "percent": percent,
        "duration": duration,
        "ago": ago,
        "span": _formatting.duration,
        "milliseconds": _formatting.milliseconds,
        "short": lambda digest: _formatting.short(str(digest)),
        "counted": counted,
        "day": lambda day: f"{day.day} {day:%B %Y}",
        "clock": _clock,
        "rate": lambda rate: f"{_formatting.size(round(rate))}/s",
        "meter": meter,
    }
    made.globals |= {"static": static, "link": link}
    return made


def link(page: str, **query: str) -> str:
    """Return the address of a page, relative to any other page, so that it is correct behind any prefix."""
    given = {name: value for name, value in query.items() if value}
    return f"{page or './'}{'?' if given else ''}{urlencode(given)}"


def thousands(number: int) -> str:
    """Return a whole number with its thousands separated: `12,345`."""
    return f"{number:,}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return `1 layer`, `1,234 layers`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


NOTHING = "\N{EN DASH}"
"""Shown in place of a number that is not known."""


def percent(share: float | None) -> str:
    """Return a share as `84 %`. A small share is not rounded to nothing, nor a large one to all."""
    if share is None:
        return NOTHING
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{share:.0%}".replace("%", "\N{NO-BREAK SPACE}%")


def duration(seconds: float) -> str:
    """Return a duration in one or two units: `0.4 s`, `12 s`, `3 min 20 s`, `5 h 3 min`, `2 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    units = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
    unit, length, small, part = next(each for each in units if whole >= each[1])
    rest = whole % length // part
    return f"{whole // length} {unit} {rest} {small}" if rest else f"{whole // length} {unit}"


def ago(seconds: float) -> str:
    """Return how long ago something was, in one unit: `3 h ago`."""
    return f"{_formatting.duration(seconds)} ago" if seconds >= 1 else "just now"


def meter(share: float | None) -> Markup:
    """Return a bar that is filled in part. It repeats the number beside it, so screen readers skip it."""
    width = 0 if share is None else round(100 * min(max(share, 0.0), 1.0), 1)
    return Markup(
        '<svg class="meter" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="ground" width="100" height="6"/><rect class="filled" width="{}" height="6"/></svg>'
    ).format(width)


def _amount(count: int) -> Markup:
    """Return a number of bytes whose unit is smaller than its digits."""
    return Markup('{}<span class="unit">\N{NO-BREAK SPACE}{}</span>').format(*_formatting.scaled(count))


def _clock(moment: datetime | float) -> Markup:
    """Return a moment as a time of day in UTC, with its date for programs."""
    when = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    return Markup('<time datetime="{}">{}</time>').format(when.isoformat(timespec="seconds"), f"{when:%H:%M:%S}")


Headers = tuple[tuple[bytes, bytes], ...]

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""The content security policy: nothing from another host, no script or style inside a page, no frame around it."""

SECURITY: Headers = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
"""Headers of every answer."""

_KINDS = {
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class SiteAnswer:
    """An answer.

    Attributes:
        status: the HTTP status.
        headers: its headers, without the length of the body.
        body: the content.
    """

    status: int
    headers: Headers
    body: bytes


def page(html: str, status: int = 200) -> SiteAnswer:
    """Return an answer with a page. No cache may store it: it is for one reader at one moment."""
    headers = ((b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store"))
    return SiteAnswer(status, (*headers, *SECURITY), html.encode())


def text(words: bytes, kind: bytes) -> SiteAnswer:
    """Return an answer with text for programs."""
    return SiteAnswer(200, ((b"content-type", kind), (b"cache-control", b"no-store"), *SECURITY), words)


class StaticFiles:
    """The files that pages refer to. Their addresses change with their content, so browsers keep them."""

    def __init__(self) -> None:
        folder = files("crossmount.dashboard") / "static"
        self._content: Mapping[str, bytes] = {name: (folder / name).read_bytes() for name in _KINDS}

    def url(self, name: str) -> str:
        """Return the address of a file, relative to a page."""
        return f"{name}?v={hashlib.sha256(self._content[name]).hexdigest()[:12]}"

    def answer(self, name: str) -> SiteAnswer | None:
        """Return a file; None if there is no such file."""
        content = self._content.get(name)
        if content is None:
            return None
        keep = (b"cache-control", b"public, max-age=31536000, immutable")
        return SiteAnswer(200, ((b"content-type", _KINDS[name]), keep, *SECURITY), content)
