"""The proxy's own pages: is it alive, is it ready, its metrics, its tokens, the registry's events."""

import asyncio

from crossmount.errors import CrossmountError
from crossmount.proxy.core import Core
from crossmount.proxy.doors import Door
from crossmount.proxy.exchange import Exchange
from crossmount.proxy.refused import RefusedError
from crossmount.proxy.routes import Own

_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
_READY_SECONDS = 5.0


async def answer(core: Core, door: Door, exchange: Exchange, asked: Own, *, draining: bool) -> None:
    """Answer a request for a page of the proxy's own."""
    if asked.page == "token":
        await door.token_page(exchange)
        return
    if asked.page == "events" and core.hook is not None:
        await core.hook.answer(exchange)
        return
    if exchange.method not in {"GET", "HEAD"}:
        raise RefusedError(405, "UNSUPPORTED", "this page can only be read")
    match asked.page:
        case "healthz":
            await _give(exchange, 200, b"ok\n")
        case "readyz":
            status, words = await _readiness(core, draining=draining)
            await _give(exchange, status, words)
        case "metrics":
            core.metrics.sessions.set(len(core.sessions))
            core.metrics.spool_bytes.set(0 if core.spool is None else core.spool.taken)
            body, kind = core.metrics.page()
            await exchange.answer(200, [(b"content-type", kind)], _for(exchange, body))
        case _:
            raise RefusedError(404, "NOT_FOUND", "no such page")


async def _readiness(core: Core, *, draining: bool) -> tuple[int, bytes]:
    """Ready is who can reach the registry; the index is not needed for that."""
    if draining:
        return 503, b"stopping\n"
    target = core.upstream.target(b"/v2/", b"")
    try:
        async with (
            asyncio.timeout(_READY_SECONDS),
            core.upstream.ask("GET", target, headers=[]) as response,
        ):
            ready = response.status_code in {200, 401}
    except (CrossmountError, TimeoutError):
        ready = False
    return (200, b"ok\n") if ready else (503, b"the registry does not answer as one\n")


async def _give(exchange: Exchange, status: int, words: bytes) -> None:
    await exchange.answer(status, _TEXT, _for(exchange, words))


def _for(exchange: Exchange, body: bytes) -> bytes:
    return b"" if exchange.method == "HEAD" else body
