"""Requests, responses, refusals, and records of requests, as values."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import field, replace
from typing import Protocol

from crossmount._dataclass import dataclass

Headers = tuple[tuple[str, str], ...]
Body = AsyncIterator[bytes]


class Content(Protocol):
    """Bytes, stored somewhere, that can be read in pieces."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        ...

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from offset `start`, in pieces of a bounded size."""
        ...


@dataclass(frozen=True, slots=True)
class Inline:
    """Content in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """Yield the bytes in one piece."""
        if length:
            yield self.data[start : start + length]


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request.

    Attributes:
        method: in capitals.
        path: percent-decoded, without the query.
        query: the decoded pairs, in order.
        headers: by name in lower case; of a repeated header the last value.
        raw_query: the query as it was sent.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    raw_query: str = ""

    def param(self, name: str) -> str | None:
        """Return the first value of a query parameter."""
        return next((value for key, value in self.query if key == name), None)

    def params(self, name: str) -> tuple[str, ...]:
        """Return all values of a query parameter."""
        return tuple(value for key, value in self.query if key == name)


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer.

    Attributes:
        body: sent unless the request is a HEAD.
        start: the first byte of `body` to send.
        length: number of bytes of `body` to send; None sends all.
    """

    status: int
    headers: Headers = ()
    body: Content = Inline(b"")
    start: int = 0
    length: int | None = None

    @property
    def sends(self) -> int:
        """Number of body bytes that a GET receives."""
        return self.body.size if self.length is None else self.length

    def chunks(self) -> Iterator[bytes]:
        """Yield the body in pieces."""
        return self.body.read(self.start, self.sends)

    def header(self, name: str) -> str | None:
        """Return the last value of a header, ignoring its case."""
        return next((value for key, value in reversed(self.headers) if key.lower() == name.lower()), None)

    def with_header(self, name: str, value: str) -> "Response":
        """Return a copy with one header replaced."""
        return replace(self, headers=(*self.without(name).headers, (name, value)))

    def without(self, name: str) -> "Response":
        """Return a copy without a header."""
        kept = tuple((key, value) for key, value in self.headers if key.lower() != name.lower())
        return replace(self, headers=kept)


RECORDED_HEADERS = frozenset(
    {"accept", "content-length", "content-range", "content-type", "expect", "host", "range", "user-agent"}
)
"""The request headers that a record includes; none of them contains a credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request and its answer.

    Attributes:
        method: in capitals.
        path: decoded.
        query: as it was sent, without the question mark.
        status: the status of the answer, 0 if there was none.
        received: number of bytes of the request's body that were read.
        sent: number of bytes of the answer's body.
        auth_scheme: `basic`, `bearer` or another; empty without an Authorization header.
        headers: the request's headers that are in `RECORDED_HEADERS`, by name in lower case.
        fault: the name of the scripted fault that applied, empty if none did.
        connection: the number of its connection, counted from 1.
    """

    method: str
    path: str
    query: str = ""
    status: int = 0
    received: int = 0
    sent: int = 0
    auth_scheme: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    fault: str = ""
    connection: int = 0


class DistributionError(Exception):
    """A request is refused with an error of the distribution specification ("Error Codes").

    The server turns it into a response.
    """

    def __init__(self, status: int, code: str, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers

    def response(self) -> Response:
        """Return the response with this error."""
        return error_response(self.status, self.code, str(self), self.headers)


def error_response(status: int, code: str, message: str, headers: Headers = ()) -> Response:
    """Return a response with the specification's error body."""
    body = {"errors": [{"code": code, "message": message, "detail": None}]}
    return json_response(body, status=status, headers=headers)


def json_response(
    document: object, *, status: int = 200, headers: Headers = (), media_type: str = "application/json"
) -> Response:
    """Return a response with a JSON document as body."""
    return Response(status, (("Content-Type", media_type), *headers), Inline(json.dumps(document).encode()))
