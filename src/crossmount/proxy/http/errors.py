"""The proxy's own error answers: statuses and codes of the distribution specification ("Error Codes")."""

import json
from collections.abc import Sequence
from email.utils import formatdate

from crossmount.errors import CrossmountError
from crossmount.registry.http.tls import HTTP_ADVICE, HTTPS_ADVICE

Headers = Sequence[tuple[bytes, bytes]]


class RequestRefusedError(Exception):
    """A request that the proxy answers with an error of its own.

    Attributes:
        status: the status of the answer.
        code: an error code of the specification, or a common one beyond it.
        code_of_404: a GET or HEAD is refused with 404 and this error code instead, since registries answer so to
            a malformed name; empty refuses it like a write.
        headers: additional headers of the answer.
        close: whether to close the connection, because the bytes that follow cannot be trusted.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        code_of_404: str = "",
        headers: Headers = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.code_of_404 = code_of_404
        self.headers = tuple(headers)
        self.close = close

    def for_method(self, method: str) -> "RequestRefusedError":
        """Return the error for a request with this method: a read of a malformed name finds nothing."""
        if not self.code_of_404 or method not in {"GET", "HEAD"}:
            return self
        return RequestRefusedError(404, self.code_of_404, str(self), headers=self.headers, close=self.close)

    def body(self) -> bytes:
        """Return the answer's body."""
        return json.dumps({"errors": [{"code": self.code, "message": str(self), "detail": None}]}).encode()

    def answer_headers(self, size: int) -> list[tuple[bytes, bytes]]:
        """Return the answer's headers for a body of `size` bytes."""
        headers = [*plain_headers(size, b"application/json"), *self.headers]
        return [*headers, (b"connection", b"close")] if self.close else headers


class OverQuotaError(RequestRefusedError):
    """A request that is beyond a quota of the policy (429)."""

    def __init__(self, message: str) -> None:
        super().__init__(429, "TOOMANYREQUESTS", message, headers=[(b"retry-after", b"60")])


class ClientGoneError(Exception):
    """The client closed the connection, or stopped reading the answer: nobody is left to answer."""


def upstream_words(error: CrossmountError) -> str:
    """Return the message of a failure upstream; the scheme of an upstream's URL decides on http or https."""
    words = str(error).replace(HTTP_ADVICE, "if that is right, begin its URL with http://")
    return words.replace(HTTPS_ADVICE, "begin its URL with https://")


def plain_headers(size: int, kind: bytes | None = None) -> list[tuple[bytes, bytes]]:
    """Return the headers of each answer of the proxy's own, with Content-Type if `kind` is given."""
    headers = [
        (b"date", formatdate(usegmt=True).encode()),
        (b"content-length", str(size).encode()),
        (b"docker-distribution-api-version", b"registry/2.0"),
        (b"x-content-type-options", b"nosniff"),
    ]
    return headers if kind is None else [*headers, (b"content-type", kind)]


def name_invalid(message: str) -> RequestRefusedError:
    """Return the error for a path without a valid repository name."""
    return RequestRefusedError(400, "NAME_INVALID", message, code_of_404="NAME_UNKNOWN")


def digest_invalid(message: str, *, code_of_404: str = "") -> RequestRefusedError:
    """Return the error for an invalid digest, or one that does not match the content."""
    return RequestRefusedError(400, "DIGEST_INVALID", message, code_of_404=code_of_404)


def upload_unknown() -> RequestRefusedError:
    """Return the error for an upload session that the caller does not have."""
    return RequestRefusedError(404, "BLOB_UPLOAD_UNKNOWN", "no such upload session: start a new one")


def upload_invalid(status: int, message: str, headers: Headers = ()) -> RequestRefusedError:
    """Return the error for a request that does not fit its upload session."""
    return RequestRefusedError(status, "BLOB_UPLOAD_INVALID", message, headers=headers)


def unavailable(message: str, *, status: int = 503) -> RequestRefusedError:
    """Return the error for a request that may succeed later."""
    return RequestRefusedError(
        status, "UNAVAILABLE", message, headers=[(b"retry-after", b"5")] if status == 503 else ()
    )
