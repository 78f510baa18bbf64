"""Requests that are forwarded as they are, and what the proxy learns from their answers.

An accepted manifest, and one that a caller reads, names blobs that its repository has. A deleted blob stays
deleted until a client starts to upload it again.
"""

import asyncio
from collections.abc import Awaitable, Callable

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidManifestError
from crossmount.oci import Digest, Manifest
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.errors import RequestRefusedError, unavailable
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import request_headers
from crossmount.proxy.http.routes import BlobRoute, ManifestRoute, Route, UploadsRoute
from crossmount.proxy.http.upstream import RequestBody
from crossmount.proxy.uploads.core import Core, body_to_forward
from crossmount.registry.manifests import PUSH_HEADER

_SMALL_MANIFEST = 256 * 1024
_LARGE_MANIFEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Forwarded:
    """The registry's answer to a forwarded request.

    Attributes:
        status: its status.
        content: its body, if it was kept and is not longer than asked for; else nothing.
        media_type: its Content-Type without parameters; None without one.
        tagged: whether it names tags that the manifest got besides its digest.
    """

    status: int
    content: bytes = b""
    media_type: str | None = None
    tagged: bool = False


async def answer_by_forwarding(core: Core, exchange: Exchange, route: Route, caller: Caller) -> None:
    """Forward a request, stream back its answer, and record what it shows."""
    match route, exchange.method:
        case ManifestRoute(), "PUT":
            await _put_manifest(core, exchange, route, caller)
        case ManifestRoute(), "GET":
            await _get_manifest(core, exchange, route, caller)
        case ManifestRoute(), "HEAD":
            if (await _forward(core, exchange, route, caller)).status == 404:
                core.sessions.note_unpushed(caller.key, route.name)
        case UploadsRoute(mount=Digest()), _:  # its source was not checked
            raise RequestRefusedError(405, "UNSUPPORTED", "a mount is asked for with POST")
        case BlobRoute(), "DELETE":
            await _delete_blob(core, exchange, route, caller)
        case _:
            await _forward(core, exchange, route, caller)


async def _forward(
    core: Core,
    exchange: Exchange,
    route: Route,
    caller: Caller,
    *,
    body: RequestBody | None = None,
    keep: int = 0,
    on_success: Callable[[], Awaitable[None]] | None = None,
) -> _Forwarded:
    """Forward a request and stream back its answer.

    Args:
        core: the proxy's parts.
        exchange: the request.
        route: its route.
        caller: its caller.
        body: the request's body, if it was read before; else it is streamed.
        keep: the most bytes of the answer's body that are returned too; a longer one is not.
        on_success: called if the registry accepted the request, before the client has the answer.
    """
    upstream, name = core.upstream, getattr(route, "name", None)
    async with upstream.request(
        exchange.method,
        upstream.target(exchange.raw_path, exchange.query),
        headers=request_headers(exchange.headers),
        auth=caller.authorization_for(None if name is None else core.repository(name), exchange.method),
        body=body or body_to_forward(exchange),
    ) as response:
        if on_success is not None and response.is_success:
            await on_success()
        content = bytearray()

        def take(data: bytes) -> None:
            if len(content) <= keep:
                content.extend(data)

        await upstream.forward_answer(exchange, response, observe=take if keep else None)
        return _Forwarded(
            response.status_code,
            bytes(content) if len(content) <= keep else b"",
            _media_type(response.headers.get("content-type")),
            tagged="oci-tag" in response.headers,
        )


async def _get_manifest(core: Core, exchange: Exchange, route: ManifestRoute, caller: Caller) -> None:
    """Forward a request for a manifest, and record its layers: its repository has them."""
    answer = await _forward(core, exchange, route, caller, keep=_SMALL_MANIFEST)
    if answer.status == 200 and answer.content:
        manifest = _parsed(answer.content, answer.media_type, route)
        if manifest is not None:
            core.recorder.record_pull(core.repository(route.name), manifest)


async def _put_manifest(core: Core, exchange: Exchange, route: ManifestRoute, caller: Caller) -> None:
    """Forward a manifest, and record its layers if the registry accepts it.

    The manifest is read into memory, so the number of concurrent large manifests is limited.
    """
    length = exchange.content_length
    if length is not None and length <= _SMALL_MANIFEST:
        await _read_and_put_manifest(core, exchange, route, caller)
        return
    try:
        async with asyncio.timeout(_LARGE_MANIFEST_WAIT_SECONDS):
            await core.large_manifests.acquire()
    except TimeoutError:
        raise unavailable("too many large manifests are under way: try again later") from None
    try:
        await _read_and_put_manifest(core, exchange, route, caller)
    finally:
        core.large_manifests.release()


async def _read_and_put_manifest(core: Core, exchange: Exchange, route: ManifestRoute, caller: Caller) -> None:
    content = await exchange.read(core.manifest_limit)
    dest, ledger = core.repository(route.name), core.recorder.ledger
    manifest = _parsed(content, _media_type(exchange.header(b"content-type")), route)
    has_tag = route.digest is None or bool(route.tags)

    async def count() -> None:
        """Count the push. A client that counts it too does so after the answer, so this is done before it."""
        push_id = exchange.header(PUSH_HEADER.lower().encode()) or ""
        if manifest is not None and ledger.accept(caller.key, dest, manifest, push_id=push_id, is_last=has_tag):
            await core.recorder.write_counted()

    body = RequestBody(content, len(content))
    answer = await _forward(core, exchange, route, caller, body=body, on_success=count)
    if answer.status not in {200, 201, 202}:
        return
    if answer.tagged:
        ledger.finish(caller.key, dest)
    if manifest is not None:
        core.recorder.record_manifest(caller.agent, dest, manifest)
        await core.turns.publish_deferred(dest, manifest)
    if has_tag or answer.tagged:  # clients push the tag last
        core.sessions.end_push(caller.key, route.name)


async def _delete_blob(core: Core, exchange: Exchange, route: BlobRoute, caller: Caller) -> None:
    """Forward a deletion. The client gets the answer once all proxies know that the blob must stay deleted."""
    await core.recorder.settle()  # a later record would add the source again
    dest = core.repository(route.name)
    await _forward(
        core, exchange, route, caller, on_success=lambda: core.recorder.record_deletion(dest, route.digest)
    )


def _parsed(content: bytes, media_type: str | None, route: ManifestRoute) -> Manifest | None:
    """Return a manifest; None for a kind that registries accept and crossmount does not read."""
    digest: Digest | None = route.digest
    try:
        return Manifest.parse(content, media_type=media_type, digest=digest, where=f"{route.name}:{route.target}")
    except InvalidManifestError:
        return None


def _media_type(value: str | None) -> str | None:
    return (value or "").partition(";")[0].strip() or None
