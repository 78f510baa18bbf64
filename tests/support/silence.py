"""Servers that accept connections and never answer, as those behind a firewall or in a zone that is gone."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def silent_servers(count: int) -> Iterator[list[str]]:
    """Run such servers; yield their addresses."""
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100)) for _ in range(count)
        ]
        yield [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
