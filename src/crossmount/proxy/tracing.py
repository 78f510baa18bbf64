"""Traces of the proxy with OpenTelemetry: a span for each request, and one for each request to the registry.

Attributes follow the semantic conventions of OpenTelemetry for HTTP. They have no query, header, credentials, or
name of an upload session. Spans of the index's commands are made by `crossmount.redis`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from crossmount import __version__
from crossmount.errors import MissingExtraError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.log import logged_path, method_label

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as ExportingProvider
    from opentelemetry.trace import TracerProvider

SERVICE = "crossmount-proxy"


def exporting_provider() -> "ExportingProvider":
    """Return what sends spans by OTLP over HTTP to where OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_…).

    It counts for the whole process, so that the index's commands are traced too.

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
            exchange: the request; what it has become is read at the end of the block.

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
        url = request.url
        with self._tracer.start_as_current_span(
            request.method,
            kind=self._trace.SpanKind.CLIENT,
            attributes={
                "http.request.method": request.method,
                "server.address": url.host,
                "server.port": url.port or (443 if url.scheme == "https" else 80),
                "url.full": f"{url.scheme}://{url.netloc.decode('ascii')}{logged_path(url.raw_path.partition(b'?')[0])}",
            },
            record_exception=False,  # its text may hold a URL
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
