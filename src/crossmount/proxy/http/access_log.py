"""The access log: a line of JSON a request, without anything that may be a secret."""

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime

from crossmount.proxy.http.exchange import Exchange

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that mean something to a registry."""

_SESSION = re.compile(rb"(/blobs/uploads/).*", re.DOTALL)
_log = logging.getLogger("crossmount.proxy.access")


class AccessLog:
    """Writes down what was asked and answered.

    Args:
        epoch: epoch seconds.
    """

    def __init__(self, *, epoch: Callable[[], float]) -> None:
        self._epoch = epoch

    def write(self, exchange: Exchange, kind: str, seconds: float) -> None:
        """Write a request down.

        Args:
            exchange: the request and its answer.
            kind: what it was about; the proxy's own pages are for a verbose log: probes and scrapes would fill it.
            seconds: how long it took.
        """
        level = logging.DEBUG if kind == "own" else logging.INFO
        if not _log.isEnabledFor(level):
            return
        line = {
            "time": datetime.fromtimestamp(self._epoch(), UTC).isoformat(timespec="milliseconds"),
            "peer": exchange.peer,
            "caller": exchange.caller,
            "method": method_label(exchange.method),
            "route": kind,
            "path": _shown(exchange.raw_path),
            "status": exchange.status,
            "received": exchange.received,
            "sent": exchange.sent,
            "ms": round(seconds * 1000, 1),
            "waited_ms": round(exchange.waited * 1000, 1),
            "note": exchange.note,
        }
        _log.log(level, "%s", json.dumps(line))


def method_label(method: str) -> str:
    """Return a method as a label: of a bounded set, whatever callers send."""
    return method if method in METHODS else "OTHER"


def _shown(path: bytes) -> str:
    """Return a path for the log; whatever became of the request, a session's name is for its caller alone."""
    return _SESSION.sub(rb"\1", path)[:512].decode("ascii", "replace")
