"""The next step of an upload, given the result of the last one: states and transitions, no I/O.

Without failures an upload is one request with all bytes. After a failure: is the blob there (a 201 may have been
lost)? Else, how many bytes does the session have? The rest is sent. A session that is gone, or does not return its
offset, is replaced by a new one (distribution specification, "Pushing a blob in chunks"). While the registry may
still be storing bytes that were all sent, it is asked for the blob now and then before any byte is sent again.

A registry that refuses parts, or does not take them, gets a new session and the whole blob in one request.
"""

import enum
from dataclasses import replace

from crossmount._dataclass import dataclass
from crossmount._parsing import decimal
from crossmount.registry.endpoints import UploadSession

SETBACKS_MAX = 4
"""The most parts of which a session takes nothing, or not all, before the blob is sent whole."""

WAIT_MIN = 1.0
"""A shorter wait for a commit is not worth a request: the bytes are sent again."""


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
    AWAIT_COMMIT = enum.auto()
    """HEAD the blob for `UploadState.wait` seconds: the registry may still be storing it."""
    RESTART = enum.auto()
    """POST a new session, and cancel the old one."""
    DONE = enum.auto()
    """The blob is in its repository."""


class StepResult(enum.Enum):
    """The result of a step."""

    STORED = enum.auto()
    """The blob is in its repository."""
    ACCEPTED = enum.auto()
    """The session accepted the bytes, or a part of them, returned its offset, or is new."""
    GONE = enum.auto()
    """The session, or the blob, does not exist."""
    OUT_OF_SYNC = enum.auto()
    """The session has another offset than expected, or does not return one."""
    FAILED = enum.auto()
    """No answer, or a transient refusal."""
    PART_REFUSED = enum.auto()
    """The registry does not take a part of a blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitWait:
    """How long a registry may go on storing a blob after a failure, in seconds.

    Attributes:
        complete: if its session says that it has all bytes. Then they are not sent again in any case.
        unknown: if its session says that it has none, or does not answer clearly.
    """

    complete: float = 0.0
    unknown: float = 0.0


NO_WAIT = CommitWait()


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
        otherwise: the step after `HEAD_BLOB` and `AWAIT_COMMIT` if the blob does not exist.
        resumed: whether the session has bytes of an interrupted request.
        whole: the registry takes no parts: the blob is sent in one request, or not at all.
        setbacks: how many parts of this session were not taken, or not whole.
        commit: how long the registry may go on storing the blob, after the last failure.
        wait: the seconds of `AWAIT_COMMIT`.
    """

    session: UploadSession
    size: int
    chunk: int | None = None
    step: Step = Step.SEND_ALL
    otherwise: Step = Step.RESTART
    resumed: bool = False
    whole: bool = False
    setbacks: int = 0
    commit: CommitWait = NO_WAIT
    wait: float = 0.0

    @property
    def end(self) -> int:
        """The offset at which the next chunk ends."""
        if self.chunk is None:
            return self.size
        return min(self.size, self.session.offset + max(self.chunk, self.session.min_chunk, 1))


def initial_state(session: UploadSession, size: int, chunk: int | None) -> UploadState:
    """Return the first state of an upload of `size` bytes, in chunks of `chunk` bytes if that is given."""
    state = UploadState(session=session, size=size, chunk=chunk)
    return _continue(state, session) if session.is_offset_known else replace(state, step=Step.GET_OFFSET)


def next_state(
    state: UploadState,
    outcome: StepResult,
    session: UploadSession | None = None,
    *,
    commit: CommitWait = NO_WAIT,
) -> UploadState:
    """Return the state after the state's step.

    Args:
        state: the state before the step.
        outcome: the step's result.
        session: the session after the step, if the result is `ACCEPTED`.
        commit: how long the registry may go on storing the blob, if the step sent its last bytes and failed.
    """
    if outcome is StepResult.STORED:
        return replace(state, step=Step.DONE)
    now = session or state.session
    match state.step:
        case Step.HEAD_BLOB | Step.AWAIT_COMMIT:
            following = _unless_gone(replace(state, step=state.otherwise))
        case Step.GET_OFFSET:
            following = _after_offset(state, outcome, now)
        case Step.RESTART:
            following = _continue(replace(state, resumed=False, setbacks=0), now)
        case Step.SEND_CHUNK:
            following = _after_part(state, outcome, now)
        case _ if outcome is StepResult.ACCEPTED:
            following = _continue(state, now)
        case _:
            # a session that is gone after a second PUT may have been committed by the first one
            is_second = state.step is Step.COMMIT and outcome is StepResult.GONE and commit == NO_WAIT
            following = _after_failure(state if is_second else replace(state, commit=commit), outcome)
    return following


def _after_failure(state: UploadState, outcome: StepResult) -> UploadState:
    step, otherwise = _AFTER_FAILURE.get((outcome, state.step), (Step.RESTART, Step.RESTART))
    return replace(state, step=step, otherwise=otherwise)


def _after_part(state: UploadState, outcome: StepResult, session: UploadSession) -> UploadState:
    """Return the state after a part: the rest, or the whole blob if the registry does not seem to take parts."""
    if outcome is StepResult.ACCEPTED:
        is_short = session.offset < state.end
        if session.offset <= state.session.offset:
            outcome = StepResult.PART_REFUSED
        elif not is_short or state.setbacks < SETBACKS_MAX:
            return _continue(replace(state, setbacks=state.setbacks + 1 if is_short else 0), session)
        else:
            outcome = StepResult.PART_REFUSED
    again = replace(state, setbacks=state.setbacks + 1, commit=NO_WAIT)
    was_asked = outcome is StepResult.OUT_OF_SYNC and state.setbacks > 0
    fails_always = outcome is StepResult.FAILED and state.chunk is None and state.setbacks >= SETBACKS_MAX
    if outcome is StepResult.PART_REFUSED or was_asked or fails_always:
        return replace(again, whole=True, step=Step.RESTART)
    return _after_failure(again, outcome)


def _after_offset(state: UploadState, outcome: StepResult, session: UploadSession) -> UploadState:
    """Continue at the offset that a session returned, or restart if it is 0, too large, or unknown.

    The offset 0 is not used: distribution sends `Range: 0-0` for no byte and for one.
    """
    if outcome is StepResult.ACCEPTED and 0 < session.offset <= state.size:
        has_grown = session.offset > state.session.offset
        going_on = _continue(replace(state, resumed=True, setbacks=0 if has_grown else state.setbacks), session)
        if going_on.step is Step.COMMIT:
            left = CommitWait(unknown=state.commit.unknown - state.commit.complete)
            return _await_commit(going_on, state.commit.complete, left=left)
        if not state.whole:
            return going_on
    return _await_commit(replace(state, step=Step.RESTART), state.commit.unknown)


def _unless_gone(state: UploadState) -> UploadState:
    """Wait before a restart that was not preceded by a question for the offset."""
    if state.step is Step.RESTART:
        return _await_commit(state, state.commit.unknown)
    return state


def _await_commit(state: UploadState, seconds: float, *, left: CommitWait = NO_WAIT) -> UploadState:
    """Insert a wait for the registry's commit before the state's step; `left` is for a later failure."""
    state = replace(state, commit=left)
    if seconds < WAIT_MIN:
        return state
    return replace(state, step=Step.AWAIT_COMMIT, otherwise=state.step, wait=seconds)


def _continue(state: UploadState, session: UploadSession) -> UploadState:
    is_one = state.whole or state.chunk is None or state.size <= state.chunk
    if session.offset == 0 and is_one:
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
