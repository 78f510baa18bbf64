"""Spans of OpenTelemetry for runs of commands."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crossmount._blocking import run_now
from crossmount.errors import IndexUnavailableError
from crossmount.redis.link import run_span
from support.links import async_link, blocking_link
from support.servers import Server, StartServer

WORD = "s3cret-pass-word"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Set OpenTelemetry up for this test, and return what collects the spans."""
    made, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield made
    provider.shutdown()


def only(made: InMemorySpanExporter) -> ReadableSpan:
    """Return the one span that was made since the last call."""
    (span,) = made.get_finished_spans()
    made.clear()
    return span


def test_a_run_is_one_span(spans: InMemorySpanExporter, start_server: StartServer) -> None:
    """A run of many commands is one client span, which names the server and none of the arguments or secrets."""
    server = start_server("--requirepass", WORD)
    link = blocking_link(f"redis://:{WORD}@127.0.0.1:{server.port}")
    with trace.get_tracer("program").start_as_current_span("outer") as outer:
        run_now(link.run([("ECHO", "argument")] * 40))
    run, _ = spans.get_finished_spans()
    assert run.parent is not None
    assert run.parent.span_id == outer.get_span_context().span_id
    assert (run.name, run.kind) == ("PIPELINE ECHO", trace.SpanKind.CLIENT)
    assert dict(run.attributes or {}) == {
        "db.system.name": "redis",
        "db.operation.name": "PIPELINE ECHO",
        "db.operation.batch.size": 40,
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    assert WORD not in run.to_json()
    run_now(link.aclose())


async def test_tasks_have_spans_of_their_own(spans: InMemorySpanExporter, valkey: Server) -> None:
    """Calls that share a round trip are spans in the traces of their own tasks."""
    link, tracer = async_link(valkey.url), trace.get_tracer("program")

    async def one(number: int) -> None:
        with tracer.start_as_current_span(f"task {number}"):
            await link.run([("GET", "x")])

    await asyncio.gather(*map(one, range(50)))
    finished = spans.get_finished_spans()
    tasks = {span.context.span_id for span in finished if span.parent is None and span.context is not None}
    assert len(tasks) == 50
    assert {span.parent.span_id for span in finished if span.parent is not None} == tasks
    await link.aclose()


def test_a_failed_run_is_a_span_with_the_error(spans: InMemorySpanExporter) -> None:
    """The span says why, in our words."""
    link = blocking_link(f"redis://:{WORD}@127.0.0.1:1")
    with pytest.raises(IndexUnavailableError) as caught:
        run_now(link.run([("GET", "x")]))
    span = only(spans)
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, str(caught.value))
    assert (span.attributes or {})["error.type"] == "IndexUnavailableError"
    assert WORD not in span.to_json()


@pytest.mark.parametrize(
    ("where", "address"),
    [
        ("redis+cluster://a:1,b:2", ("a", 1)),
        ("redis+sentinel://[::1]:26379/service", ("::1", 26379)),
        ("unix:///run/redis.sock", ("/run/redis.sock", None)),
        ("the embedded index", ("the embedded index", None)),
    ],
)
def test_a_span_names_the_first_server(
    spans: InMemorySpanExporter, where: str, address: tuple[str, int | None]
) -> None:
    """A span has the address of the server, or of the first one of several."""
    with run_span(where, [("GET", "x"), ("TTL", "x")]):
        pass
    span = only(spans)
    attributes = span.attributes or {}
    assert (attributes["server.address"], attributes.get("server.port")) == address
    assert span.name == "PIPELINE"


@pytest.mark.parametrize("is_imported", [True, False])
def test_a_program_that_does_not_trace_has_no_spans(monkeypatch: pytest.MonkeyPatch, *, is_imported: bool) -> None:
    """Where OpenTelemetry is not imported, or imported and not set up, nothing is made for a run."""
    if is_imported:
        monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    else:
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert isinstance(run_span("somewhere", [("GET", "x")]), nullcontext)
