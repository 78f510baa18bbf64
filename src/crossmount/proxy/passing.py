"""Requests that are passed on, and what is learnt or mounted on the way: blobs, manifests, everything else."""

from collections.abc import AsyncIterator

from crossmount.errors import InvalidManifestError
from crossmount.mount import MountStatus
from crossmount.oci import Manifest
from crossmount.proxy.callers import Caller
from crossmount.proxy.core import Core, outgoing
from crossmount.proxy.exchange import Exchange
from crossmount.proxy.headers import sent_on
from crossmount.proxy.routes import BlobAt, ManifestAt, Route
from crossmount.proxy.upstream import Outgoing


async def pass_on(
    core: Core, exchange: Exchange, route: Route, caller: Caller, *, held: Outgoing | None = None
) -> int:
    """Send a request on, with its body or the one `held` back, and its answer as it comes; returns its status."""
    name = getattr(route, "name", None)
    async with core.upstream.ask(
        exchange.method,
        core.upstream.target(exchange.raw_path, exchange.query),
        headers=sent_on(exchange.headers),
        authorization=await caller.authorization_for(
            None if name is None else core.repository(name), exchange.method
        ),
        body=held or outgoing(exchange),
    ) as response:
        await core.upstream.give_back(exchange, response)
        return response.status_code


async def head_blob(core: Core, exchange: Exchange, route: BlobAt, caller: Caller) -> None:
    """Say whether a repository holds a blob; if it does not and it can be mounted, say so after that.

    The answer is always the registry's own: its first, or after a mount its second. Any doubt is its first.
    """
    target = core.upstream.target(exchange.raw_path, exchange.query)
    headers, dest = sent_on(exchange.headers), core.repository(route.name)
    for turn in ("first", "after a mount"):
        authorization = await caller.authorization_for(dest, "HEAD")
        async with core.upstream.ask("HEAD", target, headers=headers, authorization=authorization) as response:
            status = response.status_code
            back = core.upstream.returned(exchange, response)
        if status != 404 or turn != "first":
            break
        result = await core.mounting.place(caller, dest, route.digest)
        if result is None or result.status is not MountStatus.MOUNTED:
            break
        exchange.note = "mounted"
    if status == 200:
        size = int(length) if (length := response.headers.get("content-length", "")).isdecimal() else None
        core.metrics.blob(exchange.note or "existing", size)
        core.learner.arrived(dest, route.digest, size)
    await exchange.start(status, back)
    await exchange.write(b"", more=False)


async def put_manifest(core: Core, exchange: Exchange, route: ManifestAt, caller: Caller) -> None:
    """Send a manifest on, and learn from it if it is accepted."""
    content = await exchange.read(core.manifest_limit)

    async def stream() -> AsyncIterator[bytes]:
        yield content

    status = await pass_on(core, exchange, route, caller, held=Outgoing(stream(), len(content)))
    if status in {200, 201, 202}:
        kind = (exchange.header(b"content-type") or "").partition(";")[0].strip() or None
        try:
            manifest = Manifest.parse(content, media_type=kind, where=f"{route.name}:{route.target}")
        except InvalidManifestError:
            return  # the registry knows more kinds than we do
        core.learner.accepted(caller.agent, core.repository(route.name), manifest)
