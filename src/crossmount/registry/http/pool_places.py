"""Places in httpcore's pool that a cancelled request would keep for ever.

httpcore gives up the event loop for a turn between two steps that belong together: a connection is made and then
used, an answer is closed and then removed from the pool's list. A task that is cancelled in that turn leaves a
connection that is neither idle nor closed, and that nobody will ever use or close. Each takes one of the pool's
places; once none is left, all requests wait for ever.

What it depends on, and httpcore does not document: the names of the pool's lists, and that a request stays in its
list until its answer is closed.
"""

from collections.abc import AsyncIterator, Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpcore


def abandoned(pool: Any) -> "Collection[httpcore.AsyncConnectionInterface]":
    """Return the connections that are neither idle nor closed, and that no request of the pool uses."""
    used = {id(request.connection) for request in pool._requests}  # noqa: SLF001
    return {
        each
        for each in pool._connections  # noqa: SLF001
        if id(each) not in used and not each.is_idle() and not each.is_closed()
    }


def release_surely(pool: Any) -> None:
    """Let each answer of a pool release its place, even if the task that closes it is cancelled.

    An answer that outlives its pool takes its connection along: the pool has forgotten that one.
    """
    send, close = pool.handle_async_request, pool.aclose
    is_closed = False

    async def send_and_release(request: "httpcore.Request") -> "httpcore.Response":
        response = await send(request)
        response.stream = _ReleasingStream(pool, response.stream, lambda: is_closed)
        return response  # type: ignore[no-any-return]

    async def close_for_good() -> None:
        nonlocal is_closed
        is_closed = True
        await close()

    pool.handle_async_request, pool.aclose = send_and_release, close_for_good


class _ReleasingStream:
    """The body of an answer, which releases its place when it is closed.

    Args:
        pool: httpcore's pool.
        stream: the body that the pool returned.
        is_closed: returns whether the pool is closed.
    """

    def __init__(self, pool: Any, stream: Any, is_closed: Callable[[], bool]) -> None:
        self._pool = pool
        self._stream = stream
        self._is_closed = is_closed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Close the answer. If that is cancelled, close its connection and let waiting requests go on."""
        try:
            await self._stream.aclose()
        finally:
            pool, request = self._pool, self._stream._pool_request  # noqa: SLF001
            if request in pool._requests:  # noqa: SLF001
                pool._requests.remove(request)  # noqa: SLF001
                await request.connection.aclose()
                await pool._close_connections(pool._assign_requests_to_connections())  # noqa: SLF001
            elif self._is_closed():
                await request.connection.aclose()
