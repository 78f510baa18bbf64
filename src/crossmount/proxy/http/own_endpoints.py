"""The proxy's own pages: is it alive, is it ready, its metrics, its tokens, the registry's events."""

import asyncio
import logging

from crossmount.errors import CrossmountError
from crossmount.proxy.auth.client_mode import Authenticator
from crossmount.proxy.core import Core
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.routes import OwnEndpoint

_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
_READY_SECONDS = 5.0
_log = logging.getLogger(__name__)


async def answer(
    core: Core, authenticator: Authenticator, exchange: Exchange, asked: OwnEndpoint, *, draining: bool
) -> None:
    """Answer a request for a page of the proxy's own."""
    if asked.page == "token":
        await authenticator.answer_token_request(exchange)
        return
    if asked.page == "events" and core.hook is not None:
        await core.hook.answer(exchange)
        return
    if exchange.method not in {"GET", "HEAD"}:
        raise RequestRefusedError(405, "UNSUPPORTED", "this page can only be read")
    match asked.page:
        case "healthz":
            await _give(exchange, 200, b"ok\n")
        case "readyz":
            status, words = await _readiness(core, authenticator, draining=draining)
            await _give(exchange, status, words)
        case "metrics":
            core.metrics.sessions.set(len(core.sessions))
            core.metrics.spool_bytes.set(0 if core.spool is None else core.spool.taken)
            body, kind = core.metrics.exposition()
            await exchange.answer(200, [(b"content-type", kind)], _for(exchange, body))
        case _:
            raise RequestRefusedError(404, "NOT_FOUND", "no such page")


async def trouble(core: Core, authenticator: Authenticator) -> str | None:
    """Ask the registry whether it serves us; returns why it does not. The index is not needed for that."""
    target, own = core.upstream.target(b"/v2/", b""), authenticator.own_caller()
    authorize = None if own is None else own.authorization_for(None, "GET")
    try:
        async with (
            asyncio.timeout(_READY_SECONDS),
            core.upstream.request("GET", target, headers=[], authorize=authorize) as response,
        ):
            if response.status_code in {200, 401}:
                return None
            return f"{core.registry.registry} says {response.status_code} to /v2/, as no registry does"
    except CrossmountError as error:
        return str(error)
    except TimeoutError:
        return f"{core.registry.registry} does not answer within {_READY_SECONDS:g} s"


async def _readiness(core: Core, authenticator: Authenticator, *, draining: bool) -> tuple[int, bytes]:
    if draining:
        return 503, b"stopping\n"
    why = await trouble(core, authenticator)
    if why is None:
        return 200, b"ok\n"
    _log.info("not ready: %s", why)
    return 503, b"the registry does not answer as one, or not to this proxy's credentials\n"


async def _give(exchange: Exchange, status: int, words: bytes) -> None:
    await exchange.answer(status, _TEXT, _for(exchange, words))


def _for(exchange: Exchange, body: bytes) -> bytes:
    return b"" if exchange.method == "HEAD" else body
