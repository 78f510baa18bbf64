"""`HEAD …/blobs/<digest>`: whether a repository has a blob, after an attempt to mount a missing one."""

import asyncio
import contextlib

from crossmount._dataclass import dataclass
from crossmount.errors import CrossmountError
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Agent, Caller
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, request_headers
from crossmount.proxy.http.routes import BlobRoute
from crossmount.proxy.uploads.attempts import Candidates, MountAttempt
from crossmount.proxy.uploads.core import Core
from crossmount.proxy.uploads.turns import BlobOutcome
from crossmount.registry import SIZE_UNKNOWN


@dataclass(frozen=True, slots=True)
class _HeadAnswer:
    """The registry's answer to a HEAD of a blob."""

    status: int
    headers: HeaderPairs
    size: int | None


async def answer_head(core: Core, exchange: Exchange, route: BlobRoute, caller: Caller) -> None:
    """Answer whether a repository has a blob.

    1. If the caller is pushing, or about to, and the index has a source but not the repository, the mount is the
       question. A 201 says that the repository has the blob. Its size is the one that the registry told this
       caller for the same digest before; else the source is asked for it meanwhile. This needs a registry whose
       201 is known to be true. The repository is not asked at the same time: distribution 2.8 answers 500 to a
       HEAD of a blob that it is mounting.
    2. Else, or if that failed, ask the registry.
    3. On 404, mount the blob from a repository that the index names, unless a client deleted it from here; its
       size is found as in 1.
    4. If the caller's token is too narrow for the mount, ask for a wider one, once.
    5. If the mount failed and somebody is uploading the blob, wait for the upload and mount it then.
    6. After a mount, ask the registry again, unless 1 or 3 has shown all. Another 404 shows that the 201 was not
       true.

    The answer is always the registry's own.
    """
    dest = core.repository(route.name)
    head: _HeadAnswer | None = None
    outcome: BlobOutcome | None = None
    async with core.heads:
        attempt, size = await _mount_first(core, caller, dest, route.digest)
        if attempt is None or not attempt.mounted:
            head = await _ask(core, exchange, dest, route.digest, caller)
            if head.status == 404 and attempt is None:
                attempt, size = await _mount(core, caller, dest, route.digest)
    if attempt is not None and not attempt.deleted and (head is None or head.status == 404):
        await core.wider_tokens.ask_once(exchange, caller, attempt)
        outcome = await core.turns.wait_and_mount(caller, attempt)
        if outcome is not None:
            core.sessions.note_push(caller.key, route.name)
            exchange.note, exchange.waited = outcome.label, outcome.waited
            head = None if size is None else _HeadAnswer(200, _headers(route.digest, size), size)
            if head is None:
                async with core.heads:
                    head = await _ask(core, exchange, dest, route.digest, caller)
                if outcome.mounted is not None and head.status in {200, 404}:
                    await core.recorder.record_mount_proof(dest.registry, truthful=head.status == 200)
    assert head is not None, "a mounted blob has an outcome"  # noqa: S101 a promise of ours
    await exchange.send_head(head.status, head.headers)  # first: the client need not wait for the accounts below
    if head.status == 404 and attempt is not None:
        core.expected.note_missing((caller.key, exchange.peer), attempt)
    if head.status == 200:
        arrived = BlobOutcome(existing=True) if outcome is None else outcome
        core.metrics.count_blob(arrived.label, head.size)
        core.recorder.ledger.note_outcome(dest, route.digest, arrived.label, waited=arrived.waited)
        core.recorder.record_existing(dest, route.digest, head.size)


async def _ask(core: Core, exchange: Exchange, dest: Repository, digest: Digest, caller: Caller) -> _HeadAnswer:
    upstream = core.upstream
    async with upstream.request(
        "HEAD",
        upstream.target(exchange.raw_path, exchange.query),
        headers=request_headers(exchange.headers),
        auth=caller.authorization_for(dest, "HEAD"),
    ) as response:
        length = response.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else None
        if response.status_code == 200 and size is not None and caller.agent is not None:
            caller.agent.note_size(digest, size)
        return _HeadAnswer(response.status_code, upstream.answer_headers(exchange, response), size)


async def _mount_first(
    core: Core, caller: Caller, dest: Repository, digest: Digest
) -> tuple[MountAttempt | None, int | None]:
    """Mount a blob before the repository is asked for it.

    Returns:
        The attempt; None if the repository is better asked first, or there is no source. And the bytes that the
        registry named for the blob, if it was mounted.
    """
    may_mount = caller.agent is not None and caller.is_admitted and core.permissions.may_push(caller, dest.name)
    if not may_mount or not _is_certain(core, digest) or not core.sessions.will_push(caller.key, dest.name):
        return None, None
    candidates = await core.mounter.candidates(caller, dest, digest)
    if core.mounter.first_source(caller, digest, candidates) is None:
        return None, None
    return await _mount(core, caller, dest, digest, candidates)


async def _mount(
    core: Core, caller: Caller, dest: Repository, digest: Digest, candidates: Candidates | None = None
) -> tuple[MountAttempt, int | None]:
    """Mount a blob; where a 201 is certain to be true, also find its size."""
    mounter, agent, source = core.mounter, caller.agent, None
    size: int | None = None
    if _is_certain(core, digest) and agent is not None and caller.is_admitted:
        size = agent.sizes.get(digest)
        if size is None:
            candidates = candidates or await mounter.candidates(caller, dest, digest)
            source = mounter.first_source(caller, digest, candidates)
    mount = mounter.mount(caller, dest, digest, restore_deleted=False, candidates=candidates)
    if agent is None or source is None:
        attempt = await mount
    else:
        attempt, size = await asyncio.gather(mount, _size_at(agent, source, digest))
    return attempt, size if attempt.mounted else None


def _is_certain(core: Core, digest: Digest) -> bool:
    """Return whether a 201 to a mount says that the repository has the blob."""
    traits = core.recorder.traits
    is_shown = core.recorder.has_proof and not traits.after_manifest and traits.mounts is not False
    return is_shown and digest.algorithm == "sha256"


async def _size_at(agent: Agent, source: Repository, digest: Digest) -> int | None:
    with contextlib.suppress(CrossmountError):  # the repository itself is asked then
        size = await agent.client.head_blob(source, digest)
        if size is not None and size != SIZE_UNKNOWN:
            agent.note_size(digest, size)
            return size
    return None


def _headers(digest: Digest, size: int) -> HeaderPairs:
    return [
        (b"content-length", str(size).encode()),
        (b"content-type", b"application/octet-stream"),
        (b"docker-content-digest", digest.encode()),
        (b"docker-distribution-api-version", b"registry/2.0"),
    ]
