"""Mounts and uploads (distribution specification, "Pushing blobs")."""

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
from crossmount.registry.endpoints import Endpoints
from crossmount.registry.http.location import resolve, with_query
from crossmount.registry.http.refusal import refusal
from crossmount.registry.http.requester import Call, Requester
from crossmount.registry.http.retry import is_passing
from crossmount.registry.http.retry_budget import RetryBudget
from crossmount.registry.http.transport import NO_BODY, Answer, Body
from crossmount.registry.resume import Step, StepResult, UploadState, after, begin, read_range
from crossmount.registry.values import Mounted, UploadSession

Progress = Callable[[int], None]
"""Told how many of a blob's bytes are on their way; the number falls if an upload must begin anew."""

CANCEL_SECONDS = 5.0

_OCTETS = {"Content-Type": "application/octet-stream"}


class Uploads:
    """The mounts and uploads of one registry."""

    def __init__(self, endpoints: Endpoints, requester: Requester) -> None:
        self._endpoints = endpoints
        self._requester = requester

    async def mount(self, dest: Repository, digest: Digest, source: Repository | None) -> Mounted | UploadSession:
        """See `RegistryClient.mount_blob`."""
        call = Call(
            method="POST",
            url=self._endpoints.mount(dest, digest, source),
            name=dest.name,
            wanted=Wanted((scope.push(dest),), () if source is None else (scope.pull(source),)),
            body=NO_BODY,
        )
        answer = await self._requester.send(call)
        return Mounted() if answer.status == 201 else _session(answer, dest)

    async def start(self, dest: Repository) -> UploadSession:
        """See `RegistryClient.start_upload`."""
        return _session(
            await self._requester.send(self._call("POST", self._endpoints.uploads(dest), dest, NO_BODY)), dest
        )

    async def cancel(self, session: UploadSession) -> None:
        """See `RegistryClient.cancel_upload`."""
        call = self._call("DELETE", httpx.URL(session.location), session.repository)
        with contextlib.suppress(CrossmountError, TimeoutError):  # the registry lets go of it by itself, in time
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._requester.send(replace(call, repeat=False))

    async def upload(
        self,
        session: UploadSession,
        blob: BlobSource,
        *,
        chunk_size: int | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """See `RegistryClient.upload_blob`."""
        state = begin(session, blob.descriptor.size, chunk_size)
        patience = RetryBudget(self._requester.retrier, method="PUT", host=self._requester.origin.host)
        while state.step is not Step.DONE:
            outcome, found = await self._do(state, blob, on_progress, patience)
            previous, state = state, after(state, outcome, found)
            patience.note_progress(state.session.offset)
            if state.step is Step.START_AGAIN and previous.step is not Step.START_AGAIN:
                await self.cancel(state.session)

    async def _do(
        self, state: UploadState, blob: BlobSource, on_progress: Progress | None, patience: RetryBudget
    ) -> tuple[StepResult, UploadSession | None]:
        """Do a state's step."""
        session, digest = state.session, blob.descriptor.digest
        location = httpx.URL(session.location)
        match state.step:
            case Step.ASK_BLOB:
                return await self._ask_blob(session.repository, digest), None
            case Step.ASK_OFFSET:
                return await self._ask_offset(session)
            case Step.START_AGAIN:
                return StepResult.TOOK, await self.start(session.repository)
            case Step.SEND_CHUNK:
                body = _part(blob, session.offset, state.end, on_progress)
                call = self._call("PATCH", location, session.repository, body)
                headers = {**_OCTETS, "Content-Range": f"{session.offset}-{state.end - 1}"}
                return await self._send(replace(call, headers=headers), state, patience)
        body = _part(blob, 0, state.size, on_progress) if state.step is Step.SEND_ALL else NO_BODY
        call = self._call("PUT", with_query(location, f"digest={digest}"), session.repository, body)
        return await self._send(replace(call, headers=_OCTETS), state, patience)

    async def _send(
        self, call: Call, state: UploadState, patience: RetryBudget
    ) -> tuple[StepResult, UploadSession | None]:
        """Send bytes, once: what to do after trouble is decided anew each time."""
        try:
            answer = await self._requester.send(replace(call, repeat=False))
        except RegistryUnreachableError as error:
            await patience.bear(error)
            return StepResult.TROUBLE, None
        if answer.status == 201 or (answer.is_good and answer.status != 202 and call.method == "PUT"):
            return StepResult.STORED, None
        if answer.status == 202 and call.method == "PATCH":
            return StepResult.TOOK, _moved(answer, state)
        if answer.status in {404, 416} or is_passing(answer) or (answer.status == 400 and state.resumed):
            await patience.bear(refusal(answer, call.method), answer)
            if answer.status in {400, 404}:  # 400: what was resumed is not the blob
                return StepResult.GONE, None
            return StepResult.TROUBLE if is_passing(answer) else StepResult.OUT_OF_STEP, None
        raise refusal(answer, call.method)

    async def _ask_blob(self, repository: Repository, digest: Digest) -> StepResult:
        call = self._call("HEAD", self._endpoints.blob(repository, digest), repository)
        return StepResult.STORED if (await self._requester.send(call)).status == 200 else StepResult.GONE

    async def _ask_offset(self, session: UploadSession) -> tuple[StepResult, UploadSession | None]:
        answer = await self._requester.send(self._call("GET", httpx.URL(session.location), session.repository))
        if not answer.is_good:
            return (StepResult.GONE if answer.status == 404 else StepResult.OUT_OF_STEP), None
        offset = read_range(answer.headers.get("range")) or 0
        return StepResult.TOOK, replace(session, location=_next_location(answer, session), offset=offset)

    def _call(self, method: str, url: httpx.URL, repository: Repository, body: Body | None = None) -> Call:
        wanted = Wanted((scope.push(repository),))
        return Call(method=method, url=url, name=repository.name, wanted=wanted, body=body)


def _session(answer: Answer, repository: Repository) -> UploadSession:
    """Read a session from a 202.

    Raises:
        RegistryError: it is none, or has no Location that may be followed.
    """
    if answer.status != 202:
        raise refusal(answer, "POST")
    url = resolve(answer.headers.get("location"), request=answer.url)
    least = decimal(answer.headers.get("oci-chunk-min-length", ""), digits=11)
    return UploadSession(repository=repository, location=str(url), min_chunk=least or 0)


def _next_location(answer: Answer, session: UploadSession) -> str:
    """Return where the session goes on: where the answer says, or where it was (ECR's PATCH may not say)."""
    location = answer.headers.get("location")
    return str(resolve(location, request=answer.url)) if location else session.location


def _moved(answer: Answer, state: UploadState) -> UploadSession:
    """Return the session after a chunk; a registry may have taken less of it than was sent."""
    told = read_range(answer.headers.get("range"))
    offset = told if told is not None and state.session.offset < told <= state.end else state.end
    return replace(state.session, location=_next_location(answer, state.session), offset=offset)


def _part(blob: BlobSource, start: int, end: int, on_progress: Progress | None) -> Body:
    """Return the bytes of a blob from `start` to `end` as a body that can be opened again.

    Raises:
        InvalidLayoutError: on reading, the blob has not the size that its descriptor says.
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
