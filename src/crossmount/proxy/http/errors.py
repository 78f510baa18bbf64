"""What the proxy itself says no with: statuses and codes of the distribution specification ("Error Codes")."""

import json
from collections.abc import Sequence
from email.utils import formatdate

Headers = Sequence[tuple[bytes, bytes]]


class RequestRefusedError(Exception):
    """A request that the proxy answers itself, with an error.

    Attributes:
        code: an error code of the specification, or one that registries share beyond it.
        headers: more headers of the answer.
        close: whether the connection is to end, because what follows on it can't be trusted.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: Headers = (), close: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = tuple(headers)
        self.close = close

    def body(self) -> bytes:
        """Return the answer's body."""
        return json.dumps({"errors": [{"code": self.code, "message": str(self), "detail": None}]}).encode()

    def answer_headers(self, size: int) -> list[tuple[bytes, bytes]]:
        """Return the answer's headers for a body of `size` bytes."""
        headers = [*plain_headers(size, b"application/json"), *self.headers]
        return [*headers, (b"connection", b"close")] if self.close else headers


class ClientGoneError(Exception):
    """The client hung up, or was silent past its deadline after the answer began: nobody is left to answer."""


def plain_headers(size: int, kind: bytes | None = None) -> list[tuple[bytes, bytes]]:
    """Return the headers that every answer of the proxy's own has."""
    headers = [
        (b"date", formatdate(usegmt=True).encode()),
        (b"content-length", str(size).encode()),
        (b"docker-distribution-api-version", b"registry/2.0"),
        (b"x-content-type-options", b"nosniff"),
    ]
    return headers if kind is None else [*headers, (b"content-type", kind)]


def name_invalid(message: str) -> RequestRefusedError:
    """Return the refusal of a path that names no repository."""
    return RequestRefusedError(400, "NAME_INVALID", message)


def digest_invalid(message: str) -> RequestRefusedError:
    """Return the refusal of a digest that is none, or not the content's."""
    return RequestRefusedError(400, "DIGEST_INVALID", message)


def upload_unknown() -> RequestRefusedError:
    """Return the refusal of a session that is not (or no longer) the caller's."""
    return RequestRefusedError(404, "BLOB_UPLOAD_UNKNOWN", "no such upload session: start a new one")


def upload_invalid(status: int, message: str, headers: Headers = ()) -> RequestRefusedError:
    """Return the refusal of a request that does not fit its session."""
    return RequestRefusedError(status, "BLOB_UPLOAD_INVALID", message, headers=headers)


def unavailable(message: str, *, status: int = 503) -> RequestRefusedError:
    """Return the refusal for want of something that may be there again later."""
    return RequestRefusedError(
        status, "UNAVAILABLE", message, headers=[(b"retry-after", b"5")] if status == 503 else ()
    )
