"""A span of OpenTelemetry for each run of commands, in programs that trace.

OpenTelemetry is no dependency, and never imported here: a program that has set it up has imported it. Attributes
follow the semantic conventions for databases. They have the names of commands and none of their arguments, which
name repositories.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from crossmount.redis.replies import Command

_NO_SPAN: AbstractContextManager[None] = nullcontext()


def run_span(where: str, commands: Sequence[Command]) -> AbstractContextManager[None]:
    """Return the context of a run: within a span of its own, if the program traces.

    Args:
        where: the server's address for messages, without any secret.
        commands: the commands of the run.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # it is not set up
        return _NO_SPAN
    return _span(trace, where, commands)


@contextmanager
def _span(trace: Any, where: str, commands: Sequence[Command]) -> Iterator[None]:
    names = {str(command[0]) for command in commands}
    name = " ".join((*(["PIPELINE"] if len(commands) > 1 else []), *(names if len(names) == 1 else [])))
    tracer = trace.get_tracer("crossmount.redis")
    with tracer.start_as_current_span(
        name,
        kind=trace.SpanKind.CLIENT,
        attributes={"db.system.name": "redis", "db.operation.name": name, **_batch(commands), **_server(where)},
        record_exception=False,  # it would record the causes too, which are redis-py's
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
            raise


def _batch(commands: Sequence[Command]) -> dict[str, int]:
    return {"db.operation.batch.size": len(commands)} if len(commands) > 1 else {}


def _server(where: str) -> dict[str, str | int]:
    """Return the attributes of a server; of a Cluster or of sentinels those of the first one in the URL."""
    first = where.partition("://")[2].partition(",")[0]
    host, colon, port = first.partition("/")[0].rpartition(":")
    if not (colon and port.isdigit()):  # a socket, or the embedded index
        return {"server.address": first or where}
    return {"server.address": host.strip("[]"), "server.port": int(port)}
