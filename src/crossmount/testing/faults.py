"""Scripted faults: the requests that a fault applies to, how often, and its action. Nothing is random."""

from collections.abc import Iterable
from dataclasses import field
from datetime import datetime
from email.utils import format_datetime
from fnmatch import fnmatchcase

from crossmount._dataclass import dataclass
from crossmount.testing.values import Headers, Inline, Request, Response, error_response


@dataclass(frozen=True, slots=True)
class Pass:
    """No action; for a fault that only delays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Send this answer instead of the registry's; the request has no effect and its body is not read.

    Attributes:
        status: the status code.
        code: an error code of the specification, for the default body.
        headers: additional headers.
        body: a body that replaces the specification's error.
        media_type: the Content-Type of `body`.
        retry_after: the Retry-After header, in seconds or as a date.
    """

    status: int
    code: str = "UNKNOWN"
    headers: Headers = ()
    body: bytes | None = None
    media_type: str = "text/html"
    retry_after: int | datetime | None = None

    def response(self) -> Response:
        """Return the answer."""
        headers = self.headers
        if self.retry_after is not None:
            headers = (*headers, ("Retry-After", _retry_after(self.retry_after)))
        if self.body is None:
            return error_response(self.status, self.code, "scripted", headers)
        return Response(self.status, (("Content-Type", self.media_type), *headers), Inline(self.body))


@dataclass(frozen=True, slots=True)
class Echo:
    """Send an error that repeats the request's headers instead of the registry's answer, as some gateways do."""

    status: int

    def response(self, request: Request) -> Response:
        """Return the answer."""
        headers = ", ".join(f"{name}: {value}" for name, value in request.headers.items())
        return error_response(self.status, "UNKNOWN", f"cannot do that with the headers {headers}")


@dataclass(frozen=True, slots=True)
class CutBefore:
    """Cut the connection after the request's head; the request has no effect."""


@dataclass(frozen=True, slots=True)
class CutReceiving:
    """Cut the connection after `after` bytes of the request's body; an upload session keeps these bytes.

    A shorter body is read to its end, and the answer is lost.
    """

    after: int


@dataclass(frozen=True, slots=True)
class CutSending:
    """Carry the request out and cut the connection after `after` bytes of the answer's body."""

    after: int


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """Carry the request out and cut the connection before the answer."""


@dataclass(frozen=True, slots=True)
class IgnoreMount:
    """Answer a mount with an upload session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alter:
    """Carry the request out and change the answer.

    Attributes:
        status: the status that replaces the original.
        set_headers: headers that replace those of the same name.
        drop: names of headers to remove.
        location_base: scheme, host and port that replace the Location's.
        corrupt: whether the first byte of the body changes; its length stays.
    """

    status: int | None = None
    set_headers: Headers = ()
    drop: tuple[str, ...] = ()
    location_base: str | None = None
    corrupt: bool = False

    def alter(self, response: Response) -> Response:
        """Return the changed answer."""
        for name in (*self.drop, *(name for name, _ in self.set_headers)):
            response = response.without(name)
        body, start, length = response.body, response.start, response.length
        if self.corrupt and response.sends:
            data = b"".join(response.chunks())
            body, start, length = Inline(bytes((data[0] ^ 0xFF,)) + data[1:]), 0, None
        headers = (*response.headers, *self.set_headers)
        altered = Response(self.status or response.status, headers, body, start, length)
        location = altered.header("location")
        if self.location_base is not None and location is not None:
            altered = altered.with_header("Location", self.location_base + path_of(location))
        return altered


Action = Pass | Reply | Echo | CutBefore | CutReceiving | CutSending | LoseAnswer | IgnoreMount | Alter


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of the script: an action, and the requests that it applies to.

    Attributes:
        action: what happens to the request or its answer.
        method: methods, separated by `|`; `*` matches any.
        path: a pattern for the decoded path; `*` matches any text, slashes included.
        query: a pattern for the query as it was sent.
        skip: number of matching requests that pass first.
        every: after them, only every n-th matching request is affected: 5 affects the fifth, the tenth and so on.
        times: number of requests that are affected; None is all.
        delay: seconds to wait before the action.
        name: the name of the fault in the request log; the action's name by default.
    """

    action: Action = field(default_factory=Pass)
    method: str = "*"
    path: str = "*"
    query: str = "*"
    skip: int = 0
    every: int = 1
    times: int | None = 1
    delay: float = 0.0
    name: str = ""

    def fits(self, request: Request) -> bool:
        """Return whether a request matches the patterns."""
        return (
            (self.method == "*" or request.method in self.method.split("|"))
            and fnmatchcase(request.path, self.path)
            and fnmatchcase(request.raw_query, self.query)
        )

    @property
    def label(self) -> str:
        """The name in the request log."""
        return self.name or type(self.action).__name__


class FaultScript:
    """Faults in order; the first one that matches a request and is not used up applies to it."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lines = [_Line(fault) for fault in faults]

    def add(self, faults: Iterable[Fault]) -> None:
        """Add faults at the end."""
        self._lines.extend(_Line(fault) for fault in faults)

    def clear(self) -> None:
        """Remove all faults."""
        self._lines.clear()

    def match(self, request: Request) -> Fault | None:
        """Return the fault that applies to a request, and count it; later faults do not count that request."""
        for line in self._lines:
            if line.fault.fits(request) and line.applies():
                return line.fault
        return None

    @property
    def unplayed(self) -> tuple[Fault, ...]:
        """The faults that were applied less often than `times`, or never if `times` is None."""
        return tuple(line.fault for line in self._lines if line.played < (line.fault.times or 1))


@dataclass(slots=True)
class _Line:
    fault: Fault
    seen: int = 0
    played: int = 0

    def applies(self) -> bool:
        """Count a matching request; return whether the fault applies to it."""
        self.seen += 1
        number = self.seen - self.fault.skip
        is_due = number > 0 and number % self.fault.every == 0
        is_affected = is_due and (self.fault.times is None or self.played < self.fault.times)
        self.played += is_affected
        return is_affected


def html(status: int = 200) -> Reply:
    """Return a web page, as a server that is no registry sends."""
    return Reply(status=status, body=b"<!doctype html><title>Sign in</title>")


def blob_unknown() -> Reply:
    """Return the refusal of a manifest that names a missing blob."""
    return Reply(status=400, code="MANIFEST_BLOB_UNKNOWN")


def path_of(location: str) -> str:
    """Return a Location without scheme, host and port."""
    _, is_absolute, rest = location.partition("://")
    return "/" + rest.partition("/")[2] if is_absolute else location


def _retry_after(value: int | datetime) -> str:
    return format_datetime(value, usegmt=True) if isinstance(value, datetime) else str(value)
