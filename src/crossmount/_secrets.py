"""Masks secrets in text that is shown: what was sent as a credential, and what looks like one. No I/O."""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from functools import cache
from urllib.parse import quote, quote_plus

MASK = "***"

_DIGEST = r"(?:md5|sha1|sha224|sha256|sha384|sha512|blake3):"
_SHORT = 8
"""A shorter secret is masked as a whole word alone: as a part of words it would hide half of a message."""

_FORMS = (
    # https://user:password@host, as a path with one slash: up to the last @, since a password may hold a raw one
    (rf"(\b[A-Za-z][A-Za-z0-9+.-]*:/{{1,2}})[^\s'\"<>]*@(?!{_DIGEST})", rf"\1{MASK}@"),
    (rf"(?<![\w/.@:%+-])[\w.+%-]+:(?!//)[^\s'\"<>@/]+@(?!{_DIGEST})(?=[\w\[])", f"{MASK}@"),
    (r"(?i)(authorization[\"'\\]*\s*[:=]\s*[\"'\\]*(?:(?:basic|bearer)\s+)?)[^\s\"',;\\]+", rf"\1{MASK}"),
    (
        r"(?i:\b(basic|bearer))\s+(?=\S*[A-Z0-9=/+._]|\S{20})(?!(?i:realm|service|scope|error)\b)[\w.~+/=-]{4,}",
        rf"\1 {MASK}",
    ),
    (
        (
            r"(?i)([\w-]*(?:passw(?:or)?d|pwd|secret|token|signature|api[-_]?key|credential)[\w-]*"
            r"[\"'\\]*\s*(?:=|(?<=[\"'\\]):)\s*[\"'\\]*)[^\s\"'\\&,;]+"
        ),
        rf"\1{MASK}",
    ),
    (r"(?i)\b((?:passw(?:or)?d|pwd|secret|token|api[-_]?key): +)(?=\S*\d)[^\s'\"<>,;]{6,}", rf"\1{MASK}"),
    (r"(?i)(\bx-[\w-]*(?:token|key|secret)[\w-]*:\s*)\S+", rf"\1{MASK}"),
    (r"(--password[ =])\S+", rf"\1{MASK}"),
    (r"\beyJ[\w-]{8,}(?:\.[\w-]*)*", MASK),
    (r"\b(?:gh[pousr]_|github_pat_|glpat-|dckr_pat_|AKIA|ASIA)[\w-]{10,}", MASK),
)
"""Patterns of secrets, and what stands in their place. They are compiled when the first text is masked."""


@cache
def _compiled_forms() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(form), instead) for form, instead in _FORMS]


def without_userinfo(text: str) -> str:
    """Return a reference or a URL, as a user wrote it, without the user name and the password before its `@`.

    Args:
        text: all of it, and nothing else; its last `@` counts, unless a digest follows.
    """
    secret = userinfo_of(text)
    return text.replace(f"{secret}@", f"{MASK}@", 1) if secret else text


def userinfo_of(text: str) -> str:
    """Return the user name and the password before the `@` of a reference or a URL; empty if it has none."""
    scheme, is_url, rest = text.partition("://")
    if not is_url or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        is_url, rest = "", text
    ends = [found.start() for found in re.finditer(rf"@(?!{_DIGEST})", rest)]
    return rest[: ends[-1]] if ends and (is_url or ":" in rest[: ends[-1]]) else ""


def mask_forms(text: str) -> str:
    """Return `text` without what is a secret by its form: passwords in URLs, Authorization, tokens, `secret=…`."""
    for form, instead in _compiled_forms():
        text = form.sub(instead, text)
    return text


def mask_values(text: str, secrets: Iterable[str]) -> str:
    """Return `text` without these secrets, however it is quoted: JSON, HTML, percent-encoding, base64, bytes.

    Args:
        text: any text.
        secrets: passwords, tokens, and whole values of Authorization.
    """
    for value in sorted(_spellings(secrets), key=len, reverse=True):
        if value not in text:
            continue
        if len(value) >= _SHORT:
            text = text.replace(value, MASK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", MASK, text)
    return text


def secrets_in(authorization: str) -> tuple[str, ...]:
    """Return what is secret in the value of an Authorization header: the password and the pair, or the token."""
    scheme, _, rest = authorization.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() != "basic":
        return (rest,) if rest else (authorization,)
    try:
        pair = base64.b64decode(rest, validate=True).decode()
    except (binascii.Error, ValueError):
        return (rest,)
    return rest, pair, pair.partition(":")[2]


def _spellings(secrets: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for secret in secrets:
        if not secret:
            continue
        coded = base64.b64encode(secret.encode()).decode()
        found |= {
            secret,
            quote(secret, safe=""),
            quote(secret),
            quote_plus(secret),
            _html(secret),
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            repr(secret)[1:-1],
            repr(secret.encode())[2:-1],  # as h11 quotes what a peer sent
        }
        if len(secret) >= _SHORT:
            found |= {coded, coded.rstrip("="), coded.replace("+", "-").replace("/", "_").rstrip("=")}
    return found


def _html(text: str) -> str:
    """Escape as `html.escape` does; that module takes a millisecond to load."""
    for raw, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#x27;")):
        text = text.replace(raw, escaped)
    return text


def scrub(error: BaseException, secrets: Iterable[str]) -> None:
    """Mask secrets in the texts of an exception and of its causes, which a traceback shows."""
    values = tuple(secrets)
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        cause.args = tuple(mask_values(arg, values) if isinstance(arg, str) else arg for arg in cause.args)
        cause = cause.__cause__ or cause.__context__
