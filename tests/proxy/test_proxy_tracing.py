"""Traces of the proxy: one span for each request, and for each request to the registry, without secrets."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from crossmount.index import MemoryMountIndex
from crossmount.oci import Digest
from crossmount.proxy.server import running
from crossmount.proxy.settings import ProxySettings
from crossmount.testing import ScriptedRegistry, running_registry
from support.running_proxy import crossmount_process
from support.waiting import until_now

TRACE = "0af7651916cd43dd8448eb211c80319c"
DIGEST = Digest.of(b"x")


async def spans_of(path: str, *, upstream: str, headers: dict[str, str]) -> list[ReadableSpan]:
    """Send a GET through a proxy, and return the spans that were made."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    made = ProxySettings(upstreams=(upstream,), port=0)
    async with (
        running(made, MemoryMountIndex(), provider=provider) as proxy,
        httpx.AsyncClient(base_url=proxy.url, headers=headers) as client,
    ):
        await client.get(path)
    return list(exporter.get_finished_spans())


async def test_a_request_and_what_it_asks_of_the_registry_are_one_trace() -> None:
    """The span of a request continues the client's trace, and that of the registry's request is its child."""
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "Authorization": "Basic aHVudGVyOmh1bnRlcjI="}
    async with ScriptedRegistry() as registry:
        found = await spans_of("/v2/a/tags/list?n=1&secret=hunter2", upstream=registry.url, headers=headers)
    own = next(span for span in found if span.kind is SpanKind.SERVER)
    sent = next(span for span in found if span.kind is SpanKind.CLIENT)
    assert own.attributes is not None
    assert sent.attributes is not None
    assert own.parent is not None
    assert f"{own.parent.trace_id:032x}" == TRACE
    assert own.context is not None
    assert sent.parent == own.context
    assert (own.name, own.attributes["http.response.status_code"]) == ("GET tags", 404)
    assert (sent.name, sent.attributes["http.response.status_code"]) == ("GET", 404)
    assert sent.attributes["url.full"] == f"{registry.url}/v2/a/tags/list"
    words = " ".join(span.to_json() for span in found)
    assert not [secret for secret in ("hunter2", "aHVudGVyOmh1bnRlcjI=") if secret in words]


async def test_a_registry_that_does_not_answer_is_an_error() -> None:
    """A failed request to the registry is an error in its span and in the client's."""
    found = await spans_of("/v2/a/tags/list", upstream="http://127.0.0.1:1", headers={})
    assert {span.status.status_code for span in found} == {StatusCode.ERROR}
    assert not [event for span in found for event in span.events]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Run a collector of traces; yield its URL and what it received."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.path.encode() + self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the library's name
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_traces_are_sent_where_opentelemetrys_variables_say(
    tmp_path: Path, collector: tuple[str, list[bytes]]
) -> None:
    """`proxy --traces` sends its spans by OTLP; without the option nothing is sent."""
    url, received = collector
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    with running_registry() as registry:
        line = ["proxy", "--upstream", registry.url, "--listen", "127.0.0.1:0", "--index", "memory://"]
        line += ["--spool", "off", "--no-access-log"]
        for options in ([], ["--traces"]):
            with crossmount_process([*line, *options], tmp_path, environment=environment) as address:
                httpx.get(f"{address}/v2/a/tags/list")
            if not options:
                assert not received
    until_now(lambda: bool(received))
    assert all(message.startswith(b"/v1/traces") for message in received)
    assert b"GET tags" in b"".join(received)
