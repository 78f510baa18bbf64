"""The blocking flavour of what needs an event loop: one loop in one background thread a process.

A call runs a coroutine there and waits for it, from any thread, whether or not that thread has a running loop
of its own. A forked child starts a loop of its own on first use, and makes its own clients on it.
"""

import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast

from crossmount.errors import CrossmountError

if TYPE_CHECKING:  # imported where a portal is started: it would be a tenth of what importing crossmount costs
    from anyio.from_thread import BlockingPortal

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound="Closable")

_CLEAN_UP_SECONDS = 10.0
"""How long an interrupted call may take to clean up before the interrupt goes on without it."""


class Closable(Protocol):
    """What is closed in the end."""

    async def aclose(self) -> None:
        """Let go of what it holds."""
        ...


class Portal:
    """A background event loop for this process, started on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: BlockingPortal | None = None
        self._thread_id: int | None = None

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await what `function` returns, on the loop, and return its result or raise its error.

        An interrupt (Ctrl-C) in the waiting thread cancels it, lets it clean up, and is raised then.
        """
        ended = threading.Event()

        async def run() -> T:
            try:
                return await function()
            finally:
                ended.set()

        portal = self._started()
        if threading.get_ident() == self._thread_id:
            raise CrossmountError(
                "the blocking API was called on crossmount's own loop (by an observer?): use crossmount.asyncio"
            )
        future = portal.start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            if not ended.is_set():
                future.cancel()
                ended.wait(_CLEAN_UP_SECONDS)
            raise

    def forked(self) -> None:
        """Forget, in a forked child, a lock and a loop whose thread stayed with the parent."""
        self._lock = threading.Lock()
        self._running = None
        self._thread_id = None

    def _started(self) -> "BlockingPortal":
        with self._lock:
            if self._running is None:
                ready: Future[BlockingPortal] = Future()
                # a daemon: it ends with the process
                threading.Thread(target=_serve, args=(ready,), name="crossmount", daemon=True).start()
                self._running = ready.result()
                self._thread_id = self._running.call(threading.get_ident)
            return self._running


def _serve(ready: "Future[BlockingPortal]") -> None:
    """Be the portal, for good.

    anyio's `start_blocking_portal` would be stopped when its generator is collected, which a forked child, where
    that thread does not run, would wait for without end.
    """
    import anyio  # noqa: PLC0415 see above
    from anyio.from_thread import BlockingPortal  # noqa: PLC0415 see above

    async def serve() -> None:
        async with BlockingPortal() as portal:
            ready.set_result(portal)
            await portal.sleep_until_stopped()

    anyio.run(serve)


PORTAL = Portal()
os.register_at_fork(after_in_child=PORTAL.forked)


class OnPortal(Generic[A]):
    """The blocking twin of an asynchronous object, which is made on first use, once in each process."""

    def __init__(self, make: Callable[[], A]) -> None:
        self._make = make
        self._made: dict[int, A] = {}

    @property
    def asynchronous(self) -> A:
        """The object that does the work, on the portal's loop."""
        made = self._made.get(os.getpid())
        return self._made.setdefault(os.getpid(), self._make()) if made is None else made

    def close(self) -> None:
        """Let go of what it holds in this process; using it again takes hold again."""
        made = self._made.pop(os.getpid(), None)
        if made is not None:
            PORTAL.call(made.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def blocking_function(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make a coroutine function blocking."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return PORTAL.call(lambda: function(*args, **kwargs))

    return call


def method(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a blocking method of an `OnPortal` from a coroutine method of its twin."""

    @functools.wraps(function)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        twin = self.asynchronous
        return PORTAL.call(lambda: function(twin, *args, **kwargs))

    return call


def iterator(
    function: Callable[Concatenate[Any, P], AsyncIterator[T]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """Return a method of an `OnPortal` that returns a plain iterator, from one that returns an async one."""

    @functools.wraps(function)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = function(self.asynchronous, *args, **kwargs)
        ended = object()

        async def following() -> object:
            return await anext(items, ended)

        async def close() -> None:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

        try:
            while (item := PORTAL.call(following)) is not ended:
                yield cast("T", item)
        finally:
            PORTAL.call(close)

    return call
