"""What the handlers of requests share."""

import asyncio
from dataclasses import dataclass, field

from crossmount.index.protocol import MountIndex
from crossmount.oci import Repository
from crossmount.proxy.http.event_receiver import EventReceiver
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.upstream import RequestBody, Upstream
from crossmount.proxy.metrics import Metrics
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.uploads.mounting import Mounting
from crossmount.proxy.uploads.sessions import ClientSession, ClientSessions
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.proxy.uploads.turns import Turns
from crossmount.registry import UploadSession

LARGE_MANIFESTS_MAX = 16

HEADS_MAX = 64
"""How many HEADs of blobs are under way at once: with all of a crowd at work, the event loop turns so slowly that
deadlines pass on answers that are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One proxy's parts.

    Attributes:
        registry: any repository of the registry behind the proxy: how it is called and reached.
        spool: where uploads wait for their digest; None sends them straight through.
        manifest_limit: bytes that a manifest may have.
        hook: takes the registry's events, if they are wanted.
        heads: taken by each HEAD of a blob while it asks.
        large_manifests: taken by each manifest that is not known to be small while it is in memory.
    """

    registry: Repository
    upstream: Upstream
    index: MountIndex
    mounting: Mounting
    turns: Turns
    recorder: ProxyRecorder
    sessions: ClientSessions
    metrics: Metrics
    spool: SpoolFolder | None
    manifest_limit: int
    hook: EventReceiver | None = None
    heads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HEADS_MAX))
    large_manifests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE_MANIFESTS_MAX))

    def repository(self, name: str) -> Repository:
        """Return a repository of the registry behind the proxy."""
        return Repository(self.registry.registry, name, self.registry.address)

    def upload_session(self, session: ClientSession) -> UploadSession:
        """Return the registry's own session."""
        return UploadSession(repository=self.repository(session.name), location=session.location)

    async def drop_session(self, session: ClientSession, *, cancel: bool = True) -> None:
        """Let a session go; with `cancel` the registry's too (best effort)."""
        self.sessions.remove(session)
        if session.spool is not None:
            await session.spool.aclose()
        if cancel and session.agent is not None:
            await session.agent.client.cancel_upload(self.upload_session(session))


def outgoing(exchange: Exchange) -> RequestBody | None:
    """Return a request's body to send on as it comes; None for a request without."""
    size = exchange.content_length
    if size == 0 and not exchange.values(b"content-length"):
        return None
    return RequestBody(exchange.body(), size)
