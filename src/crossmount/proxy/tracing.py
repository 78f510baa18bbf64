"""The records of a proxy's requests: lines of JSON in the log, and spans of OpenTelemetry.

Attributes of spans follow the semantic conventions of OpenTelemetry for HTTP. They have no query, header,
credentials, or name of an upload session. Spans of the index's commands are made by `crossmount.redis`.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx

from crossmount import __version__
from crossmount.errors import MissingExtraError
from crossmount.proxy.http.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as ExportingProvider
    from opentelemetry.trace import TracerProvider

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that registries use."""

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
    """Return a line of the log for an event other than a request."""
    name = logging.getLevelName(level).lower()
    return json.dumps({"time": _iso(epoch), "level": name, "message": message, **details})


class JsonFormatter(logging.Formatter):
    """Formats records as lines of JSON; records of the access log are that already.

    Args:
        mask: masks everything in a text that looks like a secret.
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
    """Return the label of a method, from a fixed set, since clients can send any text."""
    return method if method in METHODS else "OTHER"


def logged_path(path: bytes) -> str:
    """Return a path without the name of an upload session, which only its caller may know."""
    return _SESSION.sub(rb"\1", path)[:512].decode("ascii", "replace")


SERVICE = "crossmount-proxy"


def exporting_provider() -> "ExportingProvider":
    """Return a provider that sends spans by OTLP over HTTP to the place in OTEL_EXPORTER_OTLP_… variables.

    It is that of the whole process, so that the index's commands are traced too.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 an extra
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"--traces needs {error.name}, which is not installed: pip install 'crossmount[otel]'"
        ) from error
    resource = Resource.create({"service.name": SERVICE, "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


class Tracing:
    """Makes the spans of a proxy.

    Args:
        provider: exports them.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import propagate, trace  # noqa: PLC0415 an extra

        self._propagate = propagate
        self._trace = trace
        self._tracer = provider.get_tracer(SERVICE, __version__)

    @contextmanager
    def request(self, exchange: Exchange) -> Iterator[Callable[[str], None]]:
        """Make the span of a client's request, in the client's trace if it sent one (traceparent).

        Args:
            exchange: the request; its answer is read at the end of the block.

        Yields:
            A function that takes the name of the route.
        """
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in exchange.headers}
        method = method_label(exchange.method)
        with self._tracer.start_as_current_span(
            method,
            context=self._propagate.extract(sent),
            kind=self._trace.SpanKind.SERVER,
            attributes={
                "http.request.method": method,
                "url.scheme": exchange.scheme,
                "url.path": logged_path(exchange.raw_path),
                "client.address": exchange.peer,
                "crossmount.request_id": exchange.request_id,
            },
        ) as span:

            def name_route(route: str) -> None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)

            try:
                yield name_route
            finally:
                span.set_attribute("http.response.status_code", exchange.status)
                span.set_attribute("crossmount.outcome", exchange.note)
                if exchange.status >= 500 or exchange.status == 0:
                    span.set_status(self._trace.StatusCode.ERROR)

    def wrapped(self, transport: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        """Return a transport that makes a span for each request, up to the head of its answer."""
        return _TracedTransport(transport, self)

    @contextmanager
    def client_request(self, request: httpx.Request) -> Iterator[Callable[[int], None]]:
        """Make the span of a request that is sent, and pass the trace on in its headers.

        Yields:
            A function that takes the status of the answer.
        """
        url, target = request.url, request.extensions.get("target", request.url.raw_path)
        with self._tracer.start_as_current_span(
            request.method,
            kind=self._trace.SpanKind.CLIENT,
            attributes={
                "http.request.method": request.method,
                "server.address": url.host,
                "server.port": url.port or (443 if url.scheme == "https" else 80),
                "url.full": f"{url.scheme}://{url.netloc.decode('ascii')}{logged_path(target.partition(b'?')[0])}",
            },
            record_exception=False,  # its text may contain a URL
        ) as span:
            self._propagate.inject(request.headers)

            def note_status(status: int) -> None:
                span.set_attribute("http.response.status_code", status)
                if status >= 400:
                    span.set_status(self._trace.StatusCode.ERROR)

            yield note_status


class _TracedTransport(httpx.AsyncBaseTransport):
    def __init__(self, transport: httpx.AsyncBaseTransport, tracing: Tracing) -> None:
        self._transport = transport
        self._tracing = tracing

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with self._tracing.client_request(request) as note_status:
            response = await self._transport.handle_async_request(request)
            note_status(response.status_code)
            return response

    async def aclose(self) -> None:
        await self._transport.aclose()
