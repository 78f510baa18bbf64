"""Mounts and uploads of blobs (distribution specification, "Pushing blobs")."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

import httpx

from crossmount._parsing import decimal
from crossmount.errors import CrossmountError, InvalidLayoutError, RegistryUnreachableError
from crossmount.oci import BlobSource, Digest, Repository
from crossmount.registry.auth import scope
from crossmount.registry.auth.scope import Wanted
from crossmount.registry.endpoints import RegistryMethods
from crossmount.registry.http.errors import refusal
from crossmount.registry.http.location import resolve, with_query
from crossmount.registry.http.requester import RegistryRequest, housekeeping
from crossmount.registry.http.retry import RetryBudget, is_transient
from crossmount.registry.http.transport import NO_BODY, Answer, Body
from crossmount.registry.resume import Step, StepResult, UploadState, initial_state, next_state, read_range
from crossmount.registry.values import Mounted, UploadSession

OnProgress = Callable[[int], None]
"""Receives the number of a blob's bytes sent so far; the number falls if an upload starts again."""

CANCEL_SECONDS = 5.0
"""The longest time, in seconds, that a cancel may take."""

_OCTETS = {"Content-Type": "application/octet-stream"}


class Uploads(RegistryMethods):
    """`RegistryClient`'s methods for mounts and uploads."""

    async def mount_blob(
        self, dest: Repository, digest: Digest, source: Repository | None
    ) -> Mounted | UploadSession:
        """Ask the registry to mount a blob into a repository.

        Args:
            dest: the repository to mount it into.
            digest: the blob's digest.
            source: a repository on the same registry that has the blob; with None the registry looks for one.

        Returns:
            `Mounted` (201), or the upload session that the registry opened instead (202).
        """
        call = RegistryRequest(
            method="POST",
            url=self._endpoints.mount(dest, digest, source),
            name=dest.name,
            wanted=Wanted((scope.push(dest),), () if source is None else (scope.pull(source),)),
            body=NO_BODY,
        )
        answer = await self._requester.send(call)
        return Mounted() if answer.status == 201 else _session(answer, dest)

    async def start_upload(self, dest: Repository) -> UploadSession:
        """Open an upload session.

        Args:
            dest: the repository to upload into.
        """
        call = self._push_call("POST", self._endpoints.uploads(dest), dest, NO_BODY)
        return _session(await self._requester.send(call), dest)

    async def cancel_upload(self, session: UploadSession) -> None:
        """Cancel an upload session, best effort: neither a refusal nor a missing answer is an error.

        Args:
            session: the session.
        """
        call = self._push_call("DELETE", httpx.URL(session.location), session.repository)
        with (
            housekeeping(),
            contextlib.suppress(CrossmountError, TimeoutError),
        ):  # the registry expires the session some day
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._requester.send(replace(call, repeat=False))

    async def upload_blob(
        self,
        session: UploadSession,
        blob: BlobSource,
        *,
        chunk_size: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Upload a blob into a session, in one request or in chunks; a failed upload is resumed or started again.

        Args:
            session: from `start_upload` or `mount_blob`; it cannot be used again.
            blob: it is opened for each request that sends a part of it.
            chunk_size: bytes in one request; the session's own minimum is respected.
            on_progress: receives the number of the blob's bytes sent so far; it falls if the upload starts again.

        Raises:
            InvalidLayoutError: the blob does not have the size in its descriptor.
        """
        state = initial_state(session, blob.descriptor.size, chunk_size)
        budget = RetryBudget(self._requester.retrier, method="PUT", host=self._requester.origin.host)
        while state.step is not Step.DONE:
            outcome, found = await self._do(state, blob, on_progress, budget)
            previous, state = state, next_state(state, outcome, found)
            budget.note_progress(state.session.offset)
            if state.step is Step.RESTART and previous.step is not Step.RESTART:
                await self.cancel_upload(state.session)

    async def _do(
        self, state: UploadState, blob: BlobSource, on_progress: OnProgress | None, budget: RetryBudget
    ) -> tuple[StepResult, UploadSession | None]:
        """Do the state's step."""
        session, digest = state.session, blob.descriptor.digest
        location = httpx.URL(session.location)
        match state.step:
            case Step.HEAD_BLOB:
                return await self._head_blob(session.repository, digest), None
            case Step.GET_OFFSET:
                return await self._get_offset(session)
            case Step.RESTART:
                return StepResult.ACCEPTED, await self.start_upload(session.repository)
            case Step.SEND_CHUNK:
                body = _part(blob, session.offset, state.end, on_progress)
                call = self._push_call("PATCH", location, session.repository, body)
                headers = {**_OCTETS, "Content-Range": f"{session.offset}-{state.end - 1}"}
                return await self._send(replace(call, headers=headers), state, budget)
        body = _part(blob, 0, state.size, on_progress) if state.step is Step.SEND_ALL else NO_BODY
        call = self._push_call("PUT", with_query(location, f"digest={digest}"), session.repository, body)
        return await self._send(replace(call, headers=_OCTETS), state, budget)

    async def _send(
        self, call: RegistryRequest, state: UploadState, budget: RetryBudget
    ) -> tuple[StepResult, UploadSession | None]:
        """Send bytes once; the next step after a failure is decided by `resume.next_state`."""
        try:
            answer = await self._requester.send(replace(call, repeat=False))
        except RegistryUnreachableError as error:
            await budget.spend(error)
            return StepResult.FAILED, None
        if answer.status == 201 or (answer.is_good and answer.status != 202 and call.method == "PUT"):
            return StepResult.STORED, None
        if answer.status == 202 and call.method == "PATCH":
            return StepResult.ACCEPTED, _moved(answer, state)
        if answer.status in {404, 416} or is_transient(answer) or (answer.status == 400 and state.resumed):
            await budget.spend(refusal(answer, call.method), answer)
            if answer.status in {400, 404}:  # 400: the resumed bytes are not the blob
                return StepResult.GONE, None
            return StepResult.FAILED if is_transient(answer) else StepResult.OUT_OF_SYNC, None
        raise refusal(answer, call.method)

    async def _head_blob(self, repository: Repository, digest: Digest) -> StepResult:
        call = self._push_call("HEAD", self._endpoints.blob(repository, digest), repository)
        return StepResult.STORED if (await self._requester.send(call)).status == 200 else StepResult.GONE

    async def _get_offset(self, session: UploadSession) -> tuple[StepResult, UploadSession | None]:
        answer = await self._requester.send(
            self._push_call("GET", httpx.URL(session.location), session.repository)
        )
        if not answer.is_good:
            return (StepResult.GONE if answer.status == 404 else StepResult.OUT_OF_SYNC), None
        offset = read_range(answer.headers.get("range")) or 0
        return StepResult.ACCEPTED, replace(session, location=_next_location(answer, session), offset=offset)

    def _push_call(
        self, method: str, url: httpx.URL, repository: Repository, body: Body | None = None
    ) -> RegistryRequest:
        wanted = Wanted((scope.push(repository),))
        return RegistryRequest(method=method, url=url, name=repository.name, wanted=wanted, body=body)


def _session(answer: Answer, repository: Repository) -> UploadSession:
    """Return the session that a 202 opens.

    Raises:
        RegistryError: the status is another, or the Location must not be followed.
    """
    if answer.status != 202:
        raise refusal(answer, "POST")
    url = resolve(answer.headers.get("location"), request=answer.url)
    least = decimal(answer.headers.get("oci-chunk-min-length", ""), digits=11)
    return UploadSession(repository=repository, location=str(url), min_chunk=least or 0)


def _next_location(answer: Answer, session: UploadSession) -> str:
    """Return the session's next URL: the answer's Location, or the old one (ECR's PATCH may not send any)."""
    location = answer.headers.get("location")
    return str(resolve(location, request=answer.url)) if location else session.location


def _moved(answer: Answer, state: UploadState) -> UploadSession:
    """Return the session after a chunk; a registry may have stored only a part of it."""
    stored = read_range(answer.headers.get("range"))
    offset = stored if stored is not None and state.session.offset < stored <= state.end else state.end
    return replace(state.session, location=_next_location(answer, state.session), offset=offset)


def _part(blob: BlobSource, start: int, end: int, on_progress: OnProgress | None) -> Body:
    """Return the bytes of a blob from `start` to `end` as a body that can be opened again.

    Raises:
        InvalidLayoutError: on reading: the blob does not have the size in its descriptor.
    """
    descriptor = blob.descriptor

    async def read() -> AsyncGenerator[bytes]:
        at = start
        parts = blob.stream(start)
        try:
            async for part in parts:
                data = part if at + len(part) <= end else part[: end - at]
                at += len(part)
                if at > descriptor.size:
                    raise InvalidLayoutError(f"blob {descriptor.digest}: more than its {descriptor.size} bytes")
                yield data
                if on_progress is not None:
                    on_progress(min(at, end))
                if end <= at and end < descriptor.size:
                    break
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()
        if at < end:
            raise InvalidLayoutError(f"blob {descriptor.digest}: {at} bytes instead of {descriptor.size}")

    return Body(end - start, read)
