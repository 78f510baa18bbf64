"""The next step of an upload, given the result of the last one: states and transitions, no I/O.

Without failures an upload is one request with all bytes. After a failure: is the blob there (a 201 may have been
lost)? Else, how many bytes does the session have? The rest is sent. A session that is gone, or does not return its
offset, is replaced by a new one (distribution specification, "Pushing a blob in chunks").
"""

import enum
from dataclasses import dataclass, replace

from crossmount._parsing import decimal
from crossmount.registry.values import UploadSession


class Step(enum.Enum):
    """A step of an upload."""

    SEND_ALL = enum.auto()
    """PUT all bytes."""
    SEND_CHUNK = enum.auto()
    """PATCH the bytes from the session's offset to `UploadState.end`."""
    COMMIT = enum.auto()
    """PUT without bytes: the session has them all."""
    HEAD_BLOB = enum.auto()
    """HEAD the blob: it may exist in spite of the failure."""
    GET_OFFSET = enum.auto()
    """GET the session's offset."""
    RESTART = enum.auto()
    """POST a new session, and cancel the old one."""
    DONE = enum.auto()
    """The blob is in its repository."""


class StepResult(enum.Enum):
    """The result of a step."""

    STORED = enum.auto()
    """The blob is in its repository."""
    ACCEPTED = enum.auto()
    """The session accepted the bytes, returned its offset, or is new."""
    GONE = enum.auto()
    """The session, or the blob, does not exist."""
    OUT_OF_SYNC = enum.auto()
    """The session has another offset than expected, or does not return one."""
    FAILED = enum.auto()
    """No answer, or a transient refusal."""


_AFTER_FAILURE: dict[tuple[StepResult, Step], tuple[Step, Step]] = {
    (StepResult.GONE, Step.SEND_ALL): (Step.HEAD_BLOB, Step.RESTART),
    (StepResult.GONE, Step.SEND_CHUNK): (Step.HEAD_BLOB, Step.RESTART),
    (StepResult.GONE, Step.COMMIT): (Step.HEAD_BLOB, Step.RESTART),
    (StepResult.FAILED, Step.SEND_ALL): (Step.HEAD_BLOB, Step.GET_OFFSET),
    (StepResult.FAILED, Step.COMMIT): (Step.HEAD_BLOB, Step.GET_OFFSET),
    (StepResult.FAILED, Step.SEND_CHUNK): (Step.GET_OFFSET, Step.RESTART),
    (StepResult.OUT_OF_SYNC, Step.SEND_ALL): (Step.GET_OFFSET, Step.RESTART),
    (StepResult.OUT_OF_SYNC, Step.SEND_CHUNK): (Step.GET_OFFSET, Step.RESTART),
}
"""The step after a failure, and the step after that if the blob is not found; else the upload is restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadState:
    """The state of one upload.

    Attributes:
        session: the session, with its offset.
        size: the blob's size in bytes.
        chunk: bytes in one request; None for all of them.
        step: the next step.
        otherwise: the step after `HEAD_BLOB` if the blob does not exist.
        resumed: whether the session has bytes of an interrupted request.
    """

    session: UploadSession
    size: int
    chunk: int | None = None
    step: Step = Step.SEND_ALL
    otherwise: Step = Step.RESTART
    resumed: bool = False

    @property
    def end(self) -> int:
        """The offset at which the next chunk ends."""
        if self.chunk is None:
            return self.size
        return min(self.size, self.session.offset + max(self.chunk, self.session.min_chunk, 1))


def initial_state(session: UploadSession, size: int, chunk: int | None) -> UploadState:
    """Return the first state of an upload of `size` bytes, in chunks of `chunk` bytes if that is given."""
    return _continue(UploadState(session=session, size=size, chunk=chunk), session)


def next_state(state: UploadState, outcome: StepResult, session: UploadSession | None = None) -> UploadState:
    """Return the state after the state's step.

    Args:
        state: the state before the step.
        outcome: the step's result.
        session: the session after the step, if the result is `ACCEPTED`.
    """
    if outcome is StepResult.STORED:
        return replace(state, step=Step.DONE)
    if outcome is StepResult.ACCEPTED:
        now = session or state.session
        if state.step is Step.GET_OFFSET:
            return _resume(state, now)
        return _continue(replace(state, resumed=state.resumed and state.step is not Step.RESTART), now)
    if state.step is Step.HEAD_BLOB:
        return replace(state, step=state.otherwise)
    step, otherwise = _AFTER_FAILURE.get((outcome, state.step), (Step.RESTART, Step.RESTART))
    return replace(state, step=step, otherwise=otherwise)


def _resume(state: UploadState, session: UploadSession) -> UploadState:
    """Continue at the offset that a session returned, or restart if it is 0 or too large.

    The offset 0 is not used: distribution sends `Range: 0-0` for no byte and for one.
    """
    if not 0 < session.offset <= state.size:
        return replace(state, step=Step.RESTART)
    return _continue(replace(state, resumed=True), session)


def _continue(state: UploadState, session: UploadSession) -> UploadState:
    if session.offset == 0 and (state.chunk is None or state.size == 0):
        step = Step.SEND_ALL
    else:
        step = Step.SEND_CHUNK if session.offset < state.size else Step.COMMIT
    return replace(state, session=session, step=step)


def read_range(text: str | None) -> int | None:
    """Return the number of bytes that a session has by its `Range: 0-<last>`, or None if the header is no range.

    `0-0` counts as no byte (distribution sends it for no byte and for one).
    """
    first, dash, last = (text or "").removeprefix("bytes=").partition("-")
    at = decimal(last)
    if first != "0" or not dash or at is None:
        return None
    return 0 if at == 0 else at + 1
