"""A scripted registry for callers without an event loop; it runs in its own thread."""

import asyncio
import ssl
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from crossmount.testing.faults import Fault
from crossmount.testing.options import RegistryOptions
from crossmount.testing.server import ScriptedRegistry


@contextmanager
def running_registry(
    options: RegistryOptions | None = None,
    *,
    faults: Iterable[Fault] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[ScriptedRegistry]:
    """Run a registry in a thread until the block ends.

    The block may use its request log, counters, `play` and `holdings`. The arguments are those of
    `ScriptedRegistry`.

    Raises:
        OSError: the port is not available.
    """
    registry = ScriptedRegistry(options, faults=faults, host=host, port=port, tls=tls)
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(registry, ready)), name="scripted-registry", daemon=True
    )
    thread.start()
    try:
        loop, ended = ready.result()
        try:
            yield registry
        finally:
            loop.call_soon_threadsafe(ended.set)
    finally:
        thread.join()


async def _serve(
    registry: ScriptedRegistry, ready: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]"
) -> None:
    ended = asyncio.Event()
    try:
        await registry.start()
    except BaseException as error:  # noqa: BLE001 the caller's thread raises it
        ready.set_exception(error)
        return
    try:
        ready.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()
    finally:
        await registry.stop()
