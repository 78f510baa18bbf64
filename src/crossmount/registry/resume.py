"""What to do next in an upload, given what the last step came to: states and steps, no I/O.

One request with all bytes if nothing goes wrong. After trouble the blob is looked for (a 201 may have been lost on
its way), then the session is asked how much it has, and the rest is sent; a session that is gone, or cannot tell,
is begun anew (distribution specification, "Pushing a blob in chunks").
"""

import enum
from dataclasses import dataclass, replace

from crossmount._parsing import decimal
from crossmount.registry.values import UploadSession


class Step(enum.Enum):
    """What to do."""

    SEND_ALL = enum.auto()
    """PUT all bytes."""
    SEND_CHUNK = enum.auto()
    """PATCH the bytes from the session's offset to `UploadState.end`."""
    CLOSE = enum.auto()
    """PUT no bytes: they are there."""
    ASK_BLOB = enum.auto()
    """HEAD the blob: is it there in spite of all?"""
    ASK_OFFSET = enum.auto()
    """GET the session: how much does it have?"""
    START_AGAIN = enum.auto()
    """POST a new session, and let the old one go."""
    DONE = enum.auto()
    """The blob is in its repository."""


class StepResult(enum.Enum):
    """What a step came to."""

    STORED = enum.auto()
    """The blob is in its repository."""
    TOOK = enum.auto()
    """The session goes on: it took the bytes, told its offset, or is new."""
    GONE = enum.auto()
    """There is no such session, or no such blob."""
    OUT_OF_STEP = enum.auto()
    """The session has not the bytes that we think it has, or cannot tell."""
    TROUBLE = enum.auto()
    """No answer, or one that may be otherwise next time."""


_TROUBLE: dict[tuple[StepResult, Step], tuple[Step, Step]] = {
    (StepResult.GONE, Step.SEND_ALL): (Step.ASK_BLOB, Step.START_AGAIN),
    (StepResult.GONE, Step.SEND_CHUNK): (Step.ASK_BLOB, Step.START_AGAIN),
    (StepResult.GONE, Step.CLOSE): (Step.ASK_BLOB, Step.START_AGAIN),
    (StepResult.TROUBLE, Step.SEND_ALL): (Step.ASK_BLOB, Step.ASK_OFFSET),
    (StepResult.TROUBLE, Step.CLOSE): (Step.ASK_BLOB, Step.ASK_OFFSET),
    (StepResult.TROUBLE, Step.SEND_CHUNK): (Step.ASK_OFFSET, Step.START_AGAIN),
    (StepResult.OUT_OF_STEP, Step.SEND_ALL): (Step.ASK_OFFSET, Step.START_AGAIN),
    (StepResult.OUT_OF_STEP, Step.SEND_CHUNK): (Step.ASK_OFFSET, Step.START_AGAIN),
}
"""What to do after trouble, and if that does not find the blob; anything else is begun anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadState:
    """One upload, so far.

    Attributes:
        session: with the bytes that the registry has.
        size: of the blob, in bytes.
        chunk: bytes in one request; None for all of them.
        step: what to do now.
        otherwise: what to do if `ASK_BLOB` does not find it.
        resumed: whether bytes of an interrupted request are counted on.
    """

    session: UploadSession
    size: int
    chunk: int | None = None
    step: Step = Step.SEND_ALL
    otherwise: Step = Step.START_AGAIN
    resumed: bool = False

    @property
    def end(self) -> int:
        """Where the next chunk ends."""
        if self.chunk is None:
            return self.size
        return min(self.size, self.session.offset + max(self.chunk, self.session.min_chunk, 1))


def begin(session: UploadSession, size: int, chunk: int | None) -> UploadState:
    """Return the state in which an upload of `size` bytes begins."""
    return _go_on(UploadState(session=session, size=size, chunk=chunk), session)


def after(state: UploadState, outcome: StepResult, session: UploadSession | None = None) -> UploadState:
    """Fold what the state's step came to into the state.

    Args:
        state: whose step was done.
        outcome: what it came to.
        session: the session as it is now, if the step came to `TOOK`.
    """
    if outcome is StepResult.STORED:
        return replace(state, step=Step.DONE)
    if outcome is StepResult.TOOK:
        now = session or state.session
        if state.step is Step.ASK_OFFSET:
            return _resume(state, now)
        return _go_on(replace(state, resumed=state.resumed and state.step is not Step.START_AGAIN), now)
    if state.step is Step.ASK_BLOB:
        return replace(state, step=state.otherwise)
    step, otherwise = _TROUBLE.get((outcome, state.step), (Step.START_AGAIN, Step.START_AGAIN))
    return replace(state, step=step, otherwise=otherwise)


def _resume(state: UploadState, session: UploadSession) -> UploadState:
    """Go on from the offset that a session told, or begin anew where it is no help.

    Offset 0 is none: `Range: 0-0` is what distribution says for no byte and for one.
    """
    if not 0 < session.offset <= state.size:
        return replace(state, step=Step.START_AGAIN)
    return _go_on(replace(state, resumed=True), session)


def _go_on(state: UploadState, session: UploadSession) -> UploadState:
    if session.offset == 0 and (state.chunk is None or state.size == 0):
        step = Step.SEND_ALL
    else:
        step = Step.SEND_CHUNK if session.offset < state.size else Step.CLOSE
    return replace(state, session=session, step=step)


def read_range(text: str | None) -> int | None:
    """Return how many bytes a session's `Range: 0-<last>` tells of, or None if it tells nothing.

    `0-0` counts as none (distribution says it for no byte and for one).
    """
    first, dash, last = (text or "").removeprefix("bytes=").partition("-")
    at = decimal(last)
    if first != "0" or not dash or at is None:
        return None
    return 0 if at == 0 else at + 1
