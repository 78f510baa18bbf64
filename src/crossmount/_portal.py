"""Blocking counterparts of asynchronous functions and classes, on one event loop in one background thread.

A call runs a coroutine on that loop and waits for the result. Any thread may call, also one with a running event
loop. A forked child starts its own loop, with its own clients, on first use.
"""

import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from crossmount._arguments import check_kind
from crossmount._blocking import BlockingClosing
from crossmount.errors import CrossmountError

if TYPE_CHECKING:  # imported when the portal starts: it is a tenth of the time to import crossmount
    from anyio.from_thread import BlockingPortal

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound="Closable")

_CLEAN_UP_SECONDS = 10.0
"""Seconds that an interrupted call may take to clean up."""


class Closable(Protocol):
    """An object with connections or tasks to close."""

    async def aclose(self) -> None:
        """Close connections and end tasks."""
        ...


class Portal:
    """The background event loop of this process, started on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: BlockingPortal | None = None
        self._thread_id: int | None = None

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await the result of `function` on the loop, and return it or raise its error.

        An interrupt (Ctrl-C) in the calling thread cancels it, waits until it has cleaned up, and is raised.

        Raises:
            CrossmountError: the caller runs on the loop itself, and would wait for itself.
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
        """Reset in a forked child, which does not have the parent's background thread."""
        self._lock = threading.Lock()
        self._running = None
        self._thread_id = None

    def _started(self) -> "BlockingPortal":
        with self._lock:
            if self._running is None:
                ready: Future[BlockingPortal] = Future()
                # a daemon thread ends with the process
                threading.Thread(target=_serve, args=(ready,), name="crossmount", daemon=True).start()
                self._running = ready.result()
                self._thread_id = self._running.call(threading.get_ident)
            return self._running


def _serve(ready: "Future[BlockingPortal]") -> None:
    """Run the portal until the process ends.

    anyio's `start_blocking_portal` stops when its generator is collected. In a forked child, where its thread does
    not run, that would wait for ever.
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


class OnPortal(BlockingClosing, Generic[A]):
    """Base of the blocking counterpart of an asynchronous object, which is made on first use in each process."""

    def __init__(self, make: Callable[[], A]) -> None:
        self._make = make
        self._made: dict[int, A] = {}

    @property
    def asynchronous(self) -> A:
        """The asynchronous object, which works on the portal's loop."""
        made = self._made.get(os.getpid())
        return self._made.setdefault(os.getpid(), self._make()) if made is None else made

    def close(self) -> None:
        """Close connections and end tasks in this process. The object can be used again."""
        made = self._made.pop(os.getpid(), None)
        if made is not None:
            PORTAL.call(made.aclose)


def asynchronous_part(name: str, part: OnPortal[A] | None, kind: type[OnPortal[A]]) -> A | None:
    """Return the asynchronous counterpart of the argument `name`.

    Raises:
        InvalidInputError: it is of another kind.
    """
    check_kind(name, part, kind | None, f"a crossmount.{kind.__name__}, which blocks, or None")
    return None if part is None else part.asynchronous


def blocking_function(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return the blocking counterpart of a coroutine function."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return PORTAL.call(lambda: function(*args, **kwargs))

    return call


def method(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the blocking counterpart of a coroutine method."""

    @functools.wraps(function)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        counterpart = self.asynchronous
        return PORTAL.call(lambda: function(counterpart, *args, **kwargs))

    return call


def iterator(
    function: Callable[Concatenate[Any, P], AsyncIterator[T]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """Return the blocking counterpart of a method that returns an asynchronous iterator."""

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
