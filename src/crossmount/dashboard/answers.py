"""Answers of the page's server: pages, its few files, and the headers that keep a browser to them."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from crossmount._dataclass import dataclass

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
        headers: its headers, the length of the body aside.
        body: the content.
    """

    status: int
    headers: Headers
    body: bytes


def page(html: str, status: int = 200) -> SiteAnswer:
    """Return an answer with a page, which nobody stores: it is for one reader at one moment."""
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
