"""The parts of one proxy that its handlers share, and the answers that several of them give.

Answers follow the distribution specification, "Pushing blobs" and "Mounting a blob".
"""

import asyncio
import contextlib
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.errors import CrossmountError
from crossmount.index.protocol import MountIndex
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.auth.permissions import Permissions
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.upstream import RequestBody, Upstream
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.telemetry import Metrics
from crossmount.proxy.uploads.attempts import MountAttempt
from crossmount.proxy.uploads.expected import ExpectedBlobs
from crossmount.proxy.uploads.mounting import CallerMounter
from crossmount.proxy.uploads.sessions import ClientSession, ClientSessions
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.proxy.uploads.turns import BlobOutcome, ProxyTurns
from crossmount.proxy.uploads.wider_tokens import WiderTokens
from crossmount.registry import UploadSession

LARGE_MANIFESTS_MAX = 16

HEADS_MAX = 64
"""The most HEADs of blobs at once. With more, the event loop turns so slowly that deadlines pass although the
answers have arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The parts of one proxy.

    Attributes:
        registry: any repository of the registry behind the proxy: the registry's name and address.
        spool: where uploads are stored until their digest is known; None forwards them at once.
        manifest_limit: the most bytes of a manifest.
        expected: the blobs that each client will upload next.
        heads: bounds the HEADs of blobs at once.
        large_manifests: bounds the manifests in memory at once, apart from small ones.
    """

    registry: Repository
    upstream: Upstream
    index: MountIndex
    mounter: CallerMounter
    wider_tokens: WiderTokens
    turns: ProxyTurns
    recorder: ProxyRecorder
    permissions: Permissions
    sessions: ClientSessions
    metrics: Metrics
    spool: SpoolFolder | None
    manifest_limit: int
    expected: ExpectedBlobs = field(default_factory=ExpectedBlobs)
    heads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HEADS_MAX))
    large_manifests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE_MANIFESTS_MAX))

    def repository(self, name: str) -> Repository:
        """Return a repository of the registry behind the proxy."""
        return Repository(self.registry.registry, name, self.registry.address)

    def upload_session(self, session: ClientSession) -> UploadSession:
        """Return the registry's own upload session behind a client's."""
        return UploadSession(repository=self.repository(session.name), location=session.location)

    async def drop_session(self, session: ClientSession, *, cancel: bool = True) -> None:
        """Close a session; with `cancel` also cancel the registry's, best effort."""
        self.sessions.remove(session)
        if session.early is not None:
            await session.early.aclose()
            session.location = session.early.session.location
        if session.spool is not None:
            await session.spool.aclose()
        if cancel and session.agent is not None:
            await session.agent.client.cancel_upload(self.upload_session(session))

    async def answer_created(
        self, exchange: Exchange, attempt: MountAttempt, outcome: BlobOutcome, size: int | None = None
    ) -> None:
        """Answer 201 for a blob that is now in its repository, and count the blob by its outcome.

        Args:
            exchange: the request. The rest of its body is read first, since some clients read an answer only after
                they have sent everything.
            attempt: the first attempt to mount the blob: its digest and repository.
            outcome: how the blob arrived.
            size: its bytes, if they were read; else the size that the index knows is counted.
        """
        await exchange.skip_body()
        exchange.note, exchange.waited = outcome.label, outcome.waited
        known = attempt.knowledge.of(attempt.digest).size
        self.metrics.count_blob(outcome.label, known if size is None else size)
        ledger = self.recorder.ledger
        ledger.note_outcome(attempt.dest, attempt.digest, outcome.label, waited=outcome.waited)
        path = f"/v2/{attempt.dest.name}/blobs/{attempt.digest}".encode()
        await exchange.answer(201, [(b"location", path), (b"docker-content-digest", attempt.digest.encode())])


def body_to_forward(exchange: Exchange) -> RequestBody | None:
    """Return a request's body as a stream; None for a request without a body."""
    size = exchange.content_length
    if size == 0 and not exchange.values(b"content-length"):
        return None
    return RequestBody(exchange.body(), size)


async def can_be_read(core: Core, caller: Caller, dest: Repository, digest: Digest) -> bool:
    """Read one byte of a blob whose HEAD said yes, before the client's bytes are dropped.

    Some registries answer a HEAD for the blobs of all their repositories.
    """
    async with core.upstream.request(
        "GET",
        core.upstream.blob_target(dest.name, digest),
        headers=[(b"range", b"bytes=0-0")],
        auth=caller.authorization_for(dest, "GET"),
    ) as response:  # a redirect leads to the bytes; an empty blob has no first byte (416)
        return response.status_code < 400 or response.status_code == 416


async def dest_has_it(core: Core, caller: Caller, attempt: MountAttempt) -> bool:
    """Ask the registry whether dest has a blob that was not mounted, if the index says so; False in doubt."""
    dest, digest, agent = attempt.dest, attempt.digest, caller.agent
    if attempt.mounted or not attempt.knowledge.of(digest).in_dest or agent is None or not caller.is_admitted:
        return False
    with contextlib.suppress(CrossmountError):
        found = await agent.client.head_blob(dest, digest) is not None
        return found and await can_be_read(core, caller, dest, digest)
    return False


def refuse_must_mount(attempt: MountAttempt) -> None:
    """Refuse the upload of a blob that may only be mounted.

    Raises:
        RequestRefusedError: the blob is flagged must-mount, and no mount succeeded.
    """
    if attempt.refused:
        raise RequestRefusedError(
            403, "DENIED", f"{attempt.digest} is flagged must-mount and no mount succeeded, so it is not uploaded"
        )
