"""Faults, scripted: which request they meet, how often, and what is done to it. No chance in it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from fnmatch import fnmatchcase

from crossmount.testing.values import Headers, Inline, Request, Response, error_response


@dataclass(frozen=True, slots=True)
class Pass:
    """Nothing is done; for a fault that only delays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answer in the registry's place; the request has no effect and its body is not read.

    Attributes:
        status: the status.
        code: an error code of the specification, for the body.
        headers: more headers.
        body: the body instead of the specification's error.
        media_type: the Content-Type of `body`.
        retry_after: a Retry-After, in seconds or as a date.
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
    """Answer in the registry's place with an error that repeats the request's headers, as gateways may do."""

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
    """Cut the connection after so many bytes of the request's body; a session keeps them.

    A body that is shorter is taken whole, and the answer is lost.
    """

    after: int


@dataclass(frozen=True, slots=True)
class CutSending:
    """Carry the request out and cut the connection after so many bytes of the answer's body."""

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
        status: another status.
        set_headers: headers that take the place of those of the same name.
        drop: headers that are left out.
        location_base: scheme, host and port that take the place of the Location's.
        corrupt: the first byte of the body is another one; its length stays.
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
    """One line of the script: to these requests, so many times, this is done.

    Attributes:
        action: what is done.
        method: methods, separated by `|`; `*` is any.
        path: a pattern of the decoded path, where `*` is any text, slashes too.
        query: a pattern of the query as it was sent.
        skip: how many fitting requests go by first.
        every: of those after them, each so-many-th is met: 5 lets four go by and meets the fifth.
        times: how many are met after that; None is all.
        delay: seconds to wait before the request is looked at.
        name: what the request log calls it; the action's name by default.
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
        """Tell whether a request is of those that are met."""
        return (
            (self.method == "*" or request.method in self.method.split("|"))
            and fnmatchcase(request.path, self.path)
            and fnmatchcase(request.raw_query, self.query)
        )

    @property
    def label(self) -> str:
        """What the request log calls it."""
        return self.name or type(self.action).__name__


class FaultScript:
    """Faults in order; each request is met by the first that fits and is not used up."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lines = [_Line(fault) for fault in faults]

    def add(self, faults: Iterable[Fault]) -> None:
        """Add lines at the end."""
        self._lines.extend(_Line(fault) for fault in faults)

    def clear(self) -> None:
        """Take all lines away."""
        self._lines.clear()

    def meet(self, request: Request) -> Fault | None:
        """Return the fault that meets a request, and count it; the lines below do not see that request."""
        for line in self._lines:
            if line.fault.fits(request) and line.take():
                return line.fault
        return None

    @property
    def unplayed(self) -> tuple[Fault, ...]:
        """The faults that have not been played as often as they say; those without end, not at all."""
        return tuple(line.fault for line in self._lines if line.played < (line.fault.times or 1))


@dataclass(slots=True)
class _Line:
    fault: Fault
    seen: int = 0
    played: int = 0

    def take(self) -> bool:
        """Count a fitting request; tell whether it is met."""
        self.seen += 1
        number = self.seen - self.fault.skip
        is_due = number > 0 and number % self.fault.every == 0
        is_met = is_due and (self.fault.times is None or self.played < self.fault.times)
        self.played += is_met
        return is_met


def html(status: int = 200) -> Reply:
    """Return the answer of something that is no registry."""
    return Reply(status=status, body=b"<!doctype html><title>Sign in</title>")


def blob_unknown() -> Reply:
    """Return what a manifest is refused with when a blob is missing."""
    return Reply(status=400, code="MANIFEST_BLOB_UNKNOWN")


def path_of(location: str) -> str:
    """Return a Location without scheme, host and port."""
    _, is_absolute, rest = location.partition("://")
    return "/" + rest.partition("/")[2] if is_absolute else location


def _retry_after(value: int | datetime) -> str:
    return format_datetime(value, usegmt=True) if isinstance(value, datetime) else str(value)
