import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.oci import Repository
from crossmount.registry.endpoints import UploadSession
from crossmount.registry.resume import (
    SETBACKS_MAX,
    CommitWait,
    Step,
    StepResult,
    UploadState,
    initial_state,
    next_state,
    read_range,
)

DEST = Repository("r.example", "dest")


def session(offset: int = 0, *, min_chunk: int = 0, location: str = "https://r.example/u") -> UploadSession:
    """Return a session."""
    return UploadSession(repository=DEST, location=location, offset=offset, min_chunk=min_chunk)


def run(state: UploadState, *outcomes: StepResult | tuple[StepResult, UploadSession]) -> list[Step]:
    """Return the steps of an upload whose steps have these results."""
    steps = [state.step]
    for item in outcomes:
        outcome, found = item if isinstance(item, tuple) else (item, None)
        state = next_state(state, outcome, found)
        steps.append(state.step)
    return steps


def test_one_request_if_nothing_goes_wrong() -> None:
    """An upload without failures is one PUT."""
    assert run(initial_state(session(), 10, None), StepResult.STORED) == [Step.SEND_ALL, Step.DONE]


def test_chunks_then_an_empty_put() -> None:
    """Chunks are PATCHed from offset to offset, at least of the session's minimum, and a PUT follows."""
    state = initial_state(session(min_chunk=4), 10, 3)
    assert (state.step, state.end) == (Step.SEND_CHUNK, 4)
    state = next_state(state, StepResult.ACCEPTED, session(4, min_chunk=4))
    assert state.end == 8
    state = next_state(state, StepResult.ACCEPTED, session(8, min_chunk=4))
    assert state.end == 10
    state = next_state(state, StepResult.ACCEPTED, session(10))
    assert state.step is Step.COMMIT
    assert next_state(state, StepResult.STORED).step is Step.DONE


def test_an_empty_blob_is_sent_in_one_request() -> None:
    """An empty blob is one PUT even if chunks were requested."""
    assert initial_state(session(), 0, 5).step is Step.SEND_ALL


def test_a_lost_201_is_found() -> None:
    """After a cut the blob is looked for before anything is sent again."""
    steps = run(initial_state(session(), 10, None), StepResult.FAILED, StepResult.STORED)
    assert steps == [Step.SEND_ALL, Step.HEAD_BLOB, Step.DONE]


def test_a_cut_is_resumed_where_the_session_is() -> None:
    """After a cut the steps are HEAD, GET, PATCH of the rest, PUT."""
    steps = run(
        initial_state(session(), 10, None),
        StepResult.FAILED,
        StepResult.GONE,
        (StepResult.ACCEPTED, session(6)),
        (StepResult.ACCEPTED, session(10)),
        StepResult.STORED,
    )
    assert steps == [Step.SEND_ALL, Step.HEAD_BLOB, Step.GET_OFFSET, Step.SEND_CHUNK, Step.COMMIT, Step.DONE]


@pytest.mark.parametrize("offset", [0, 11])
def test_an_unusable_offset_restarts_the_upload(offset: int) -> None:
    """The ambiguous offset 0 and an offset past the blob's end lead to a new session."""
    steps = run(
        initial_state(session(), 10, 2),
        StepResult.FAILED,
        (StepResult.ACCEPTED, session(offset)),
        (StepResult.ACCEPTED, session()),
    )
    assert steps == [Step.SEND_CHUNK, Step.GET_OFFSET, Step.RESTART, Step.SEND_CHUNK]


def test_a_session_that_is_gone() -> None:
    """After a 404 an upload is done if the blob exists, and restarted if not."""
    state = initial_state(session(10), 10, None)
    assert run(state, StepResult.GONE, StepResult.STORED) == [Step.COMMIT, Step.HEAD_BLOB, Step.DONE]
    steps = run(state, StepResult.GONE, StepResult.GONE, (StepResult.ACCEPTED, session()))
    assert steps == [Step.COMMIT, Step.HEAD_BLOB, Step.RESTART, Step.SEND_ALL]


def test_416_asks_for_the_offset() -> None:
    """After a chunk at a wrong offset the right one is requested."""
    steps = run(initial_state(session(4), 10, 2), StepResult.OUT_OF_SYNC, (StepResult.ACCEPTED, session(6)))
    assert steps == [Step.SEND_CHUNK, Step.GET_OFFSET, Step.SEND_CHUNK]


@pytest.mark.parametrize("outcome", [StepResult.GONE, StepResult.OUT_OF_SYNC])
def test_a_session_without_an_offset_is_replaced(outcome: StepResult) -> None:
    """A session whose GET is refused is replaced by a new one."""
    state = next_state(initial_state(session(4), 10, 2), StepResult.FAILED)
    assert next_state(state, outcome).step is Step.RESTART
    assert next_state(initial_state(session(10), 10, None), StepResult.OUT_OF_SYNC).step is Step.RESTART


def sent_all(commit: CommitWait) -> UploadState:
    """Return the state after a failure that followed the last byte."""
    return next_state(initial_state(session(), 10, None), StepResult.FAILED, commit=commit)


@pytest.mark.parametrize(
    ("answer", "following"),
    [
        ((StepResult.GONE, session()), [Step.AWAIT_COMMIT, Step.RESTART]),
        ((StepResult.OUT_OF_SYNC, session()), [Step.AWAIT_COMMIT, Step.RESTART]),
        ((StepResult.ACCEPTED, session(10)), [Step.AWAIT_COMMIT, Step.COMMIT]),
        ((StepResult.ACCEPTED, session(0)), [Step.AWAIT_COMMIT, Step.RESTART]),
        ((StepResult.ACCEPTED, session(6)), [Step.SEND_CHUNK]),
    ],
)
def test_a_registry_that_may_be_storing_the_blob_is_awaited(
    answer: tuple[StepResult, UploadSession], following: list[Step]
) -> None:
    """Before bytes that were all sent are sent again, the registry gets time to store them."""
    steps = run(sent_all(CommitWait(complete=20, unknown=20)), StepResult.GONE, answer, StepResult.GONE)
    assert steps[:2] == [Step.HEAD_BLOB, Step.GET_OFFSET]
    assert steps[2 : 2 + len(following)] == following


def test_a_commit_that_is_awaited_may_end_well() -> None:
    """A blob that appears while it is awaited is stored."""
    steps = run(sent_all(CommitWait(unknown=5)), StepResult.GONE, StepResult.GONE, StepResult.STORED)
    assert steps[-2:] == [Step.AWAIT_COMMIT, Step.DONE]


def test_a_session_that_the_first_put_committed() -> None:
    """If the second PUT finds the session gone, the blob is awaited before anything is sent again."""
    steps = run(
        sent_all(CommitWait(complete=4, unknown=9)),
        StepResult.GONE,
        (StepResult.ACCEPTED, session(10)),
        *[StepResult.GONE] * 3,
        StepResult.STORED,
    )
    assert steps[-5:] == [Step.AWAIT_COMMIT, Step.COMMIT, Step.HEAD_BLOB, Step.AWAIT_COMMIT, Step.DONE]


def test_no_short_wait() -> None:
    """A wait that is not worth a request is left out."""
    wait = CommitWait(complete=0.9, unknown=0.9)
    assert run(sent_all(wait), StepResult.GONE, StepResult.GONE)[-1] is Step.RESTART


def resumed(chunk: int | None = None) -> UploadState:
    """Return the state in which the last six of ten bytes are sent as a part, after a cut."""
    state = next_state(initial_state(session(), 10, chunk), StepResult.FAILED)
    state = next_state(state, StepResult.GONE) if state.step is Step.HEAD_BLOB else state
    state = next_state(state, StepResult.ACCEPTED, session(4))
    assert state.step is Step.SEND_CHUNK
    return state


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize(
    "outcomes",
    [
        [StepResult.PART_REFUSED],
        [(StepResult.ACCEPTED, session(4))],
        [(StepResult.ACCEPTED, session(2))],
        [StepResult.OUT_OF_SYNC, (StepResult.ACCEPTED, session(4)), StepResult.OUT_OF_SYNC],
    ],
)
def test_a_registry_that_takes_no_parts_gets_the_whole(
    outcomes: list[StepResult | tuple[StepResult, UploadSession]], chunk: int | None
) -> None:
    """A refused part, or one of which nothing was taken, leads to a new session and one request."""
    steps = run(resumed(chunk), *outcomes, (StepResult.ACCEPTED, session()))
    assert steps[-2:] == [Step.RESTART, Step.SEND_ALL]


def test_a_registry_that_takes_no_parts_gets_none_again() -> None:
    """After a later cut the whole is sent once more, unless the session has all of it."""
    new = StepResult.ACCEPTED, session()
    start = (StepResult.PART_REFUSED, new, StepResult.FAILED, StepResult.GONE)
    assert run(resumed(), *start, (StepResult.ACCEPTED, session(6)))[-1] is Step.RESTART
    assert run(resumed(), *start, (StepResult.ACCEPTED, session(10)))[-1] is Step.COMMIT


def test_parts_of_which_little_is_taken_have_an_end() -> None:
    """After a few parts that were not taken whole, the blob is sent whole."""
    state, parts = resumed(), 0
    while state.step is Step.SEND_CHUNK:
        state = next_state(state, StepResult.ACCEPTED, session(state.session.offset + 1))
        parts += 1
    assert (state.step, state.whole, parts) == (Step.RESTART, True, SETBACKS_MAX + 1)


def test_a_part_that_fails_again_and_again_is_given_up() -> None:
    """A registry that fails on every part gets the whole; growth of the session starts the count anew."""
    state = resumed()
    for _ in range(SETBACKS_MAX):
        state = next_state(next_state(state, StepResult.FAILED), StepResult.ACCEPTED, session(4))
    assert next_state(state, StepResult.FAILED).whole
    grown = next_state(next_state(resumed(), StepResult.FAILED), StepResult.ACCEPTED, session(5))
    assert grown.setbacks == 0


def test_a_blob_that_fits_into_a_chunk_is_one_request() -> None:
    """Only a blob larger than the chunk size is sent in parts."""
    assert initial_state(session(), 10, 10).step is Step.SEND_ALL
    assert initial_state(session(), 11, 10).step is Step.SEND_CHUNK


@given(
    st.integers(0, 50),
    st.none() | st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from(StepResult), st.integers(0, 60)), max_size=30),
)
def test_whatever_happens_an_upload_ends_in_done_or_can_still_get_there(
    size: int, chunk: int | None, outcomes: list[tuple[StepResult, int]]
) -> None:
    """After any results chunks stay within the blob, and good results lead to the end."""
    state = initial_state(session(), size, chunk)
    for outcome, offset in outcomes:
        if state.step is Step.DONE:
            break
        if state.step is Step.SEND_CHUNK:
            assert state.session.offset < state.end <= size
            at = min(max(offset, state.session.offset), state.end)
        else:
            at = 0 if state.step is Step.RESTART else offset
        state = next_state(state, outcome, session(at), commit=CommitWait(complete=offset, unknown=offset))
    for _ in range(2 * size + 8):
        match state.step:
            case Step.DONE:
                return
            case Step.SEND_CHUNK:
                state = next_state(state, StepResult.ACCEPTED, session(state.end))
            case Step.RESTART | Step.GET_OFFSET:
                state = next_state(state, StepResult.ACCEPTED, session())
            case _:
                state = next_state(state, StepResult.STORED)
    raise AssertionError(f"it never ends: {state}")


@pytest.mark.parametrize(
    ("text", "offset"),
    [("0-9", 10), ("bytes=0-9", 10), ("0-0", 0), (None, None), ("", None), ("5-9", None), ("0-x", None),
     ("0", None), ("0-" + "9" * 30, None), ("0-٣", None)],
)  # fmt: skip
def test_a_range_is_read(text: str | None, offset: int | None) -> None:
    """`0-<last>` is last + 1 bytes, `0-0` is none, and any other text is no range."""
    assert read_range(text) == offset
