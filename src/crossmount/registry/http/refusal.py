"""What a registry means by an answer that says no (distribution specification, "Error Codes"). No I/O."""

from dataclasses import dataclass

import httpx

from crossmount._parsing import json_object, one_line
from crossmount.errors import (
    AccessDeniedError,
    BlobUnknownError,
    InvalidAnswerError,
    RegistryError,
    RegistryRefusedError,
)
from crossmount.registry.http.transport import Answer, shown

_BLOB_UNKNOWN = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})
WEB_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_ERRORS_SHOWN = 3
_WORDS = {
    401: "not with these credentials",
    403: "not allowed",
    404: "not there",
    405: "the registry does not support this",
    413: "too large for the registry",
    429: "too many requests",
}


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The errors of an answer's body: their codes, and their words on one line."""

    codes: tuple[str, ...] = ()
    words: str = ""


def read_errors(body: bytes) -> ErrorBody:
    """Read a body by the specification; one that is anything else says nothing."""
    errors = (json_object(body) or {}).get("errors")
    items = [item for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []
    codes = tuple(one_line(str(item["code"]), limit=64) for item in items[:16] if item.get("code"))
    words = "; ".join(_words_of(item) for item in items[:_ERRORS_SHOWN])
    return ErrorBody(codes, words)


def _words_of(item: dict[str, object]) -> str:
    code, message = item.get("code"), item.get("message")
    parts = [one_line(part) for part in (code, message) if isinstance(part, str) and part.strip()]
    return ": ".join(parts) or "an error without words"


def refusal(answer: Answer, method: str, *, manifest: bool = False) -> RegistryError:
    """Return the error that `answer` to `method` is.

    Args:
        answer: any that does not say yes.
        method: the request's method, for the message.
        manifest: whether a manifest was put, so that an unknown blob is one that the manifest names.
    """
    where = f"{method} {shown(answer.url)}"
    if answer.content_type in WEB_PAGES and (answer.status in {404, 405} or answer.status < 400):
        return InvalidAnswerError(
            f"{where}: it answered {answer.status} with a web page: is {answer.url.host} a registry?"
        )
    errors = read_errors(answer.body)
    words = errors.words or _tls_words(answer) or _WORDS.get(answer.status) or _reason(answer.status)
    if answer.too_long:
        words += " (the rest of its answer was too long to read)"
    message = f"{where}: {answer.status}: {words}"
    kind = RegistryRefusedError
    if answer.status in {401, 403}:
        kind = AccessDeniedError
        message += f" ({answer.sent_with})"
    elif manifest and _BLOB_UNKNOWN.intersection(errors.codes):
        kind = BlobUnknownError
    return kind(message, status=answer.status, codes=errors.codes)


def _tls_words(answer: Answer) -> str:
    """Say it where a server that speaks TLS was spoken to in plain http (Go's and nginx's words)."""
    wants_tls = answer.status == 400 and answer.url.scheme == "http" and b"HTTPS" in answer.body
    return "it speaks TLS: leave plain http out" if wants_tls else ""


def _reason(status: int) -> str:
    return httpx.codes.get_reason_phrase(status) or "no reason given"
