"""The log of a proxy: lines of JSON, one for each request and one for each other thing worth a line."""

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime

from crossmount.proxy.http.exchange import Exchange

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that mean something to a registry."""

ACCESS_LOGGER = "crossmount.proxy.access"

_SESSION = re.compile(rb"(/blobs/uploads/).*", re.DOTALL)
_access_log = logging.getLogger(ACCESS_LOGGER)


class AccessLog:
    """The access log. It contains no credentials and no names of upload sessions.

    Args:
        upstream: the name of the upstream.
        epoch: returns the time in epoch seconds.
    """

    def __init__(self, upstream: str = "", *, epoch: Callable[[], float]) -> None:
        self._upstream = upstream
        self._epoch = epoch

    def write(self, exchange: Exchange, route: str, seconds: float) -> None:
        """Log a request.

        Args:
            exchange: the request and its answer.
            route: the route's name. The proxy's own endpoints appear in a verbose log only: probes would fill it.
            seconds: how long the answer took.
        """
        level = logging.DEBUG if route == "own" else logging.INFO
        if not _access_log.isEnabledFor(level):
            return
        line = {
            "time": _iso(self._epoch()),
            "level": logging.getLevelName(level).lower(),
            "request_id": exchange.request_id,
            "upstream": self._upstream,
            "peer": exchange.peer,
            "caller": exchange.caller,
            "method": method_label(exchange.method),
            "route": route,
            "path": logged_path(exchange.raw_path),
            "status": exchange.status,
            "received": exchange.received,
            "sent": exchange.sent,
            "ms": round(seconds * 1000, 1),
            "waited_ms": round(exchange.waited * 1000, 1),
            "note": exchange.note,
        }
        _access_log.log(level, "%s", json.dumps(line))


def log_line(level: int, message: str, *, epoch: float, **details: object) -> str:
    """Return a line of the log for something else than a request."""
    name = logging.getLevelName(level).lower()
    return json.dumps({"time": _iso(epoch), "level": name, "message": message, **details})


class JsonFormatter(logging.Formatter):
    """Formats records as lines of JSON; those of the access log are that already.

    Args:
        mask: returns a text without what looks like a secret.
    """

    def __init__(self, mask: Callable[[str], str]) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        if record.name == ACCESS_LOGGER:
            return record.getMessage()
        details = {"logger": record.name}
        if record.exc_info:
            details["traceback"] = self._mask(self.formatException(record.exc_info))
        return log_line(record.levelno, self._mask(record.getMessage()), epoch=record.created, **details)


def _iso(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")


def method_label(method: str) -> str:
    """Return a method as a label, from a bounded set whatever clients send."""
    return method if method in METHODS else "OTHER"


def logged_path(path: bytes) -> str:
    """Return a path without the name of an upload session, which only its caller may know."""
    return _SESSION.sub(rb"\1", path)[:512].decode("ascii", "replace")
