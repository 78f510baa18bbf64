"""Mounts and uploads of blobs (distribution specification, "Pushing blobs")."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Self

import httpx

from crossmount.errors import CrossmountError, InvalidLayoutError, RegistryUnreachableError, knowing
from crossmount.events import BlobCommitting
from crossmount.oci import BlobSource, Descriptor, Digest, Located, Repository, as_digest, as_repository
from crossmount.registry.auth import scope
from crossmount.registry.auth.scope import Wanted
from crossmount.registry.endpoints import Mounted, RegistryMethods, UploadSession
from crossmount.registry.http.location import with_query
from crossmount.registry.http.requester import RegistryRequest, housekeeping
from crossmount.registry.http.retry import RetryBudget
from crossmount.registry.http.transport import NO_BODY, Body
from crossmount.registry.resume import Step, StepResult, UploadState, initial_state, next_state, read_range
from crossmount.registry.upload_answers import (
    after_part,
    commit_wait,
    opened_session,
    poll_pause,
    result_of,
    session_at,
    upload_refusal,
)

OnProgress = Callable[[int], None]
"""Receives the number of a blob's bytes sent so far; the number falls if an upload starts again."""

CANCEL_SECONDS = 5.0
"""The longest time, in seconds, that a cancel may take."""

REPORT_SECONDS = 3.0
"""The seconds after the last byte until it is reported that the registry is storing the blob."""

_OCTETS = {"Content-Type": "application/octet-stream"}


class Uploads(RegistryMethods):
    """`RegistryClient`'s methods for mounts and uploads."""

    async def mount_blob(
        self, dest: str | Located, digest: str, source: str | Located | None
    ) -> Mounted | UploadSession:
        """Ask the registry to mount a blob into a repository.

        Args:
            dest: the repository to mount it into.
            digest: the blob's digest.
            source: a repository on the same registry that has the blob; with None the registry looks for one.

        Returns:
            `Mounted` (201), or the upload session that the registry opened instead (202).
        """
        dest, digest = as_repository(dest), as_digest(digest)
        source = None if source is None else as_repository(source)
        call = RegistryRequest(
            method="POST",
            url=self._endpoints.mount(dest, digest, source),
            name=dest.name,
            wanted=Wanted((scope.push(dest),), () if source is None else (scope.pull(source),)),
            body=NO_BODY,
            about={"digest": digest},
        )
        answer = await self._requester.send(call)
        return Mounted() if answer.status == 201 else opened_session(answer, dest)

    async def start_upload(self, dest: str | Located) -> UploadSession:
        """Open an upload session.

        Args:
            dest: the repository to upload into.
        """
        dest = as_repository(dest)
        call = self._push_call("POST", self._endpoints.uploads(dest), dest, NO_BODY)
        return opened_session(await self._requester.send(call), dest)

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
            chunk_size: bytes in one request; the session's own minimum is respected. By default the client's.
            on_progress: receives the number of the blob's bytes sent so far; it falls if the upload starts again.

        Raises:
            InvalidLayoutError: the blob does not have the size in its descriptor.
        """
        state = initial_state(session, blob.descriptor.size, chunk_size or self._options.chunk_size)
        budget = RetryBudget(self._requester.retrier, method="PUT", host=self._requester.origin.authority)
        with knowing(digest=blob.descriptor.digest):
            while state.step is not Step.DONE:
                previous, state = state, await self._advance(state, blob, on_progress, budget)
                budget.note_progress(state.session.offset)
                if state.step is Step.RESTART and previous.step is not Step.RESTART:
                    await self.cancel_upload(state.session)

    async def _advance(
        self, state: UploadState, blob: BlobSource, on_progress: OnProgress | None, budget: RetryBudget
    ) -> UploadState:
        """Do the state's step, and return the state after it."""
        session, descriptor = state.session, blob.descriptor
        location = httpx.URL(session.location)
        match state.step:
            case Step.HEAD_BLOB:
                return next_state(state, await self._ask_for_blob(session.repository, descriptor.digest))
            case Step.AWAIT_COMMIT:
                return next_state(state, await self._await_commit(state, descriptor))
            case Step.GET_OFFSET:
                return next_state(state, *await self._get_offset(session))
            case Step.RESTART:
                return next_state(state, StepResult.ACCEPTED, await self.start_upload(session.repository))
            case Step.SEND_CHUNK:
                body = _part(blob, session.offset, state.end, on_progress)
                call = self._push_call("PATCH", location, session.repository, body)
                headers = {**_OCTETS, "Content-Range": f"{session.offset}-{state.end - 1}"}
                return await self._send(replace(call, headers=headers), state, descriptor, budget)
        body = _part(blob, 0, state.size, on_progress) if state.step is Step.SEND_ALL else NO_BODY
        call = self._push_call(
            "PUT", with_query(location, f"digest={descriptor.digest}"), session.repository, body
        )
        return await self._send(replace(call, headers=_OCTETS), state, descriptor, budget)

    async def _send(
        self, call: RegistryRequest, state: UploadState, descriptor: Descriptor, budget: RetryBudget
    ) -> UploadState:
        """Send bytes once; what follows a failure is decided by `resume.next_state`."""
        answer, error = None, None
        with CommitWatch(clock=self._requester.retrier.clock, report=self._reporter(state, descriptor)) as watch:
            try:
                answer = await self._requester.send(replace(call, repeat=False, on_sent=watch.note_sent))
            except RegistryUnreachableError as unreachable:
                error = unreachable
        silence = watch.silence if call.method == "PUT" else None
        result = StepResult.FAILED if answer is None else result_of(answer, call.method, state)
        if answer is not None and result is StepResult.STORED:
            return next_state(state, result)
        if answer is not None and result is StepResult.ACCEPTED:
            session = after_part(answer, state)
            if session is not None and session.offset > state.session.offset:
                return next_state(state, result, session)
            result = StepResult.PART_REFUSED
        refused = error if answer is None else upload_refusal(answer, call.method, state)
        assert refused is not None  # noqa: S101 there is an answer or an error
        if result is None:
            raise refused
        await budget.spend(refused, answer)
        policy = self._requester.retrier.policy
        wait = commit_wait(answer, silence, outage=policy.outage, limit=self._options.commit_timeout)
        return next_state(state, result, commit=wait)

    def _reporter(self, state: UploadState, descriptor: Descriptor) -> Callable[[], None]:
        """Return a callback that reports a commit in progress, unless the step leaves bytes to send."""
        if state.step is Step.SEND_CHUNK:
            return lambda: None
        event = BlobCommitting(digest=descriptor.digest, size=descriptor.size, dest=state.session.repository)
        return partial(self._requester.retrier.observer, event)

    async def _ask_for_blob(self, repository: Repository, digest: Digest) -> StepResult:
        call = self._push_call("HEAD", self._endpoints.blob(repository, digest), repository)
        return StepResult.STORED if (await self._requester.send(call)).status == 200 else StepResult.GONE

    async def _await_commit(self, state: UploadState, descriptor: Descriptor) -> StepResult:
        """Ask for the blob now and then: the registry may still be storing it."""
        self._reporter(state, descriptor)()
        retrier = self._requester.retrier
        until, number = retrier.clock() + state.wait, 0
        while (left := until - retrier.clock()) > 0:
            await retrier.sleep(poll_pause(number, left))
            number += 1
            with contextlib.suppress(RegistryUnreachableError):
                if await self._ask_for_blob(state.session.repository, descriptor.digest) is StepResult.STORED:
                    return StepResult.STORED
        return StepResult.GONE

    async def _get_offset(self, session: UploadSession) -> tuple[StepResult, UploadSession | None]:
        answer = await self._requester.send(
            self._push_call("GET", httpx.URL(session.location), session.repository)
        )
        if not answer.is_good:
            return (StepResult.GONE if answer.status == 404 else StepResult.OUT_OF_SYNC), None
        offset = read_range(answer.headers.get("range")) or 0
        return StepResult.ACCEPTED, session_at(answer, session, offset)

    def _push_call(
        self, method: str, url: httpx.URL, repository: Repository, body: Body | None = None
    ) -> RegistryRequest:
        wanted = Wanted((scope.push(repository),))
        return RegistryRequest(method=method, url=url, name=repository.name, wanted=wanted, body=body)


class CommitWatch:
    """Watches one request; its `note_sent` is the request's `on_sent`.

    Args:
        clock: seconds, from any start.
        report: called once the answer is slow to come.
    """

    def __init__(self, *, clock: Callable[[], float], report: Callable[[], None]) -> None:
        self._clock = clock
        self._report = report
        self._sent: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop reporting."""
        if self._timer is not None:
            self._timer.cancel()

    def note_sent(self) -> None:
        """Record that the last byte was sent; a request that is sent again counts anew."""
        self.__exit__()
        self._sent = self._clock()
        self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)

    @property
    def silence(self) -> float | None:
        """Seconds since the last byte, None before it."""
        return None if self._sent is None else self._clock() - self._sent


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
