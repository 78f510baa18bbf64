"""Failures of a request as crossmount's errors: no answer (httpx's exceptions), and answers that refuse.

What a registry means by an answer is read from its body (distribution specification, "Error Codes"). No I/O.
"""

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from crossmount._dataclass import dataclass
from crossmount._parsing import json_object, one_line
from crossmount._secrets import mask_forms
from crossmount.errors import (
    AccessDeniedError,
    BlobUnknownError,
    InvalidAnswerError,
    RegistryError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.registry.credentials.authfiles import NO_CREDENTIALS
from crossmount.registry.http.connections import TlsExpectedError
from crossmount.registry.http.location import Origin, shown
from crossmount.registry.http.tls import (
    CERTIFICATE_WANTED,
    NO_HANDSHAKE,
    TLS_EXPECTED,
    explain_tls,
    os_reason,
    tls_error,
)
from crossmount.registry.http.transport import Answer

_BLOB_UNKNOWN = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})
WEB_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_DIGEST = re.compile(rb"\bsha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})\b")
_ERRORS_SHOWN = 3
_QUOTED = re.compile(r":? *(?:bytearray\()?b(['\"]).*", re.DOTALL)
_WITHOUT_REASON = re.compile(r"$|\[Errno|All connection attempts failed")
"""Words of httpx below which the operating system's are better ones."""

CUT_WORDS = ("disconnected", "closed connection", "ConnectionTerminated")
"""Words for a connection that was cut: of h11, of ours, and of httpcore on HTTP/2 below a user's transport;
one class stands for that and for what is not HTTP."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORDS = {
    401: "not with these credentials",
    403: "not allowed",
    404: "not there",
    405: "the registry does not support this",
    407: "the proxy wants a user name and a password: give them in HTTP_PROXY or HTTPS_PROXY",
    413: "too large for the registry",
    429: "too many requests",
}


@contextmanager
def translated(method: str, url: httpx.URL | Callable[[], httpx.URL]) -> Iterator[None]:
    """Turn every exception of httpx into one of ours that names the request's method and URL.

    UnicodeError is one of them: httpx decodes the host name of a redirect, and not every host name can be decoded.

    Raises:
        RegistryUnreachableError: no answer.
        InvalidAnswerError: an answer that is not HTTP.
        RegistryError: the request could not be formed.
    """
    try:
        yield
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        httpx.CookieConflict,
        httpx.StreamError,
        UnicodeError,
        ssl.SSLError,
    ) as error:
        raise _ours(error, f"{method} {shown(url() if callable(url) else url)}") from error


def is_cut(error: httpx.HTTPError) -> bool:
    """Return whether a connection failed or was cut, rather than carried something that is not HTTP."""
    if not isinstance(error, httpx.RemoteProtocolError):
        return isinstance(error, (httpx.TimeoutException, httpx.NetworkError))
    return any(word in str(error) for word in CUT_WORDS)


def describe(error: BaseException) -> str:
    """Return in a few words why there is no answer, without anything that was sent."""
    match error:
        case httpx.ConnectTimeout():
            # through a proxy the message names it; else it is ours, or empty
            words = _safe(error)
            return words if "proxy" in words or words == NO_HANDSHAKE else "no connection in time"
        case httpx.TimeoutException():
            return "no answer in time"
        case httpx.NetworkError() if _WITHOUT_REASON.match(str(error)) and (reason := os_reason(error)):
            return reason
        case httpx.ProxyError() | httpx.NetworkError() | httpx.RemoteProtocolError():
            return _safe(error).rstrip(".") or "the connection was cut"
    return type(error).__name__


def _safe(error: BaseException) -> str:
    """Return an exception's words without the peer's bytes, which h11 quotes and which may repeat a credential."""
    return one_line(mask_forms(_QUOTED.sub("", str(error))))


def _ours(error: Exception, where: str) -> RegistryError:
    if (failure := tls_error(error)) is not None:
        why = describe(error) if str(error) else _safe(failure)
        return RegistryUnreachableError(f"{where}: {explain_tls(f'{error} {failure}', why)}")
    match error:
        case TlsExpectedError():
            return RegistryUnreachableError(f"{where}: {TLS_EXPECTED}")
        case httpx.RemoteProtocolError() if not is_cut(error):
            return InvalidAnswerError(f"{where}: the answer is not HTTP: {describe(error)}")
        case httpx.TimeoutException() | httpx.NetworkError() | httpx.ProxyError() | httpx.RemoteProtocolError():
            return RegistryUnreachableError(f"{where}: {describe(error)}")
        case (
            httpx.DecodingError()
            | httpx.TooManyRedirects()
            | httpx.InvalidURL()
            | httpx.UnsupportedProtocol()
            | UnicodeError()
        ):
            return InvalidAnswerError(f"{where}: the answer cannot be followed ({describe(error)})")
    return RegistryError(f"{where}: the request could not be sent ({describe(error)})")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The errors in an answer's body.

    Attributes:
        codes: the registry's error codes.
        words: codes and messages of the first errors, on one line.
    """

    codes: tuple[str, ...] = ()
    words: str = ""


def read_errors(answer: Answer) -> ErrorBody:
    """Read the errors in a body of the specification's shape; a body of another shape has none.

    What was sent as a credential is masked before a text is cut, so that no half of it is left.
    """
    errors = (json_object(answer.body) or {}).get("errors")
    items = [item for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []
    codes = tuple(one_line(answer.masked(str(item["code"])), limit=64) for item in items[:16] if item.get("code"))
    words = "; ".join(_words_of(answer, item) for item in items[:_ERRORS_SHOWN])
    return ErrorBody(codes, words)


def _words_of(answer: Answer, item: dict[str, object]) -> str:
    code, message = item.get("code"), item.get("message")
    parts = [one_line(answer.masked(part)) for part in (code, message) if isinstance(part, str) and part.strip()]
    return ": ".join(parts) or "an error without words"


def refusal(answer: Answer, method: str, *, manifest: bool = False) -> RegistryError:
    """Return the error for an answer that refuses a request. It knows what the request was about.

    Args:
        answer: an answer whose status is not a success.
        method: the request's method, for the message.
        manifest: whether the request put a manifest; an unknown blob is then one that the manifest names.
    """
    error = _refusal(answer, method, manifest=manifest)
    return error.knowing(**answer.about, status=answer.status, method=method, url=shown(answer.url))


def _refusal(answer: Answer, method: str, *, manifest: bool) -> RegistryError:
    where = f"{method} {shown(answer.url)}"
    if answer.content_type in WEB_PAGES and (answer.status in {404, 405} or answer.status < 400):
        host = Origin.of(answer.url).authority
        return InvalidAnswerError(f"{where}: it answered {answer.status} with a web page: is {host} a registry?")
    errors = read_errors(answer)
    is_login_wanted = answer.status == 401 and answer.sent_with.startswith(NO_CREDENTIALS)
    if is_login_wanted and errors.codes == ("UNAUTHORIZED",):
        words = _words_of_status(answer)  # which says more than the registry's own words
    else:
        words = errors.words or _words_on_tls(answer) or _words_of_status(answer)
    if answer.too_long:
        words += " (the rest of its answer was too long to read)"
    message = f"{where}: {answer.status}: {words}"
    kind = RegistryRefusedError
    if answer.status in {401, 403}:
        kind = AccessDeniedError
        message += f" ({answer.sent_with})"
    elif manifest and _BLOB_UNKNOWN.intersection(errors.codes):
        blobs = frozenset(found.decode() for found in _DIGEST.findall(answer.body))
        return BlobUnknownError(message, status=answer.status, codes=errors.codes, blobs=blobs)
    return kind(message, status=answer.status, codes=errors.codes)


def _words_on_tls(answer: Answer) -> str:
    """Return what an answer says about TLS: it came to plain http, or lacks a client certificate (nginx)."""
    is_plain = answer.url.scheme == "http"
    if answer.status == 400 and is_plain and b"HTTPS" in answer.body:
        return TLS_EXPECTED
    if is_plain and answer.status in _REDIRECTS and answer.headers.get("location", "").startswith("https://"):
        return f"it sends its clients to https, {TLS_EXPECTED}"
    if answer.status in {400, 403, 496} and b"SSL certificate" in answer.body:
        return f"it wants a {CERTIFICATE_WANTED}, or does not accept the one it was shown"
    return ""


def _words_of_status(answer: Answer) -> str:
    """Return what a status means; a 401 for a request without credentials is no verdict on any."""
    if answer.status == 401 and answer.sent_with.startswith(NO_CREDENTIALS):
        return "it wants a login"
    return _WORDS.get(answer.status) or httpx.codes.get_reason_phrase(answer.status) or "no reason given"
