import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import AccessDeniedError, CrossmountError, RegistryUnreachableError
from crossmount.mount.decision import (
    FalseMount,
    Finish,
    MountAnswer,
    MountState,
    MountStatus,
    OpenSession,
    RequestMount,
    apply_answer,
    next_step,
)
from crossmount.oci import Repository
from crossmount.registry import Mounted, UploadSession

DEST = Repository("r.example", "dest")
SOURCES = tuple(Repository("r.example", f"source-{number}") for number in range(3))
DENIED = AccessDeniedError("denied", status=401)
GONE = RegistryUnreachableError("gone")
ANSWERS = st.sampled_from(["mounted", "false", "session", "denied", "gone"])


def session(number: int = 0) -> UploadSession:
    """Return an upload session with a number."""
    return UploadSession(repository=DEST, location=f"https://r.example/v2/dest/blobs/uploads/{number}")


def answer_for(word: str, number: int) -> MountAnswer:
    """Return the answer that a word stands for."""
    answers: dict[str, MountAnswer] = {
        "mounted": Mounted(),
        "false": FalseMount(),
        "session": session(number),
        "denied": DENIED,
        "gone": GONE,
    }
    return answers[word]


def run(state: MountState, *answers: MountAnswer) -> tuple[MountState, MountStatus, list[UploadSession]]:
    """Apply scripted answers to a state; return the final state, the status and the sessions to cancel."""
    cancelled: list[UploadSession] = []
    script = iter(answers)
    while not isinstance(step := next_step(state), Finish):
        state = apply_answer(state, step, next(script))
        if state.spare_session is not None:
            cancelled.append(state.spare_session)
    assert next(script, None) is None, "not every answer was asked for"
    return state, step.status, cancelled


def test_the_first_source_mounts() -> None:
    """A 201 ends the mount, and the result names the source."""
    state, status, cancelled = run(MountState(candidates=SOURCES), Mounted())
    assert (status, state.source, state.attempts, cancelled) == (MountStatus.MOUNTED, SOURCES[0], 1, [])


def test_a_session_is_kept_while_the_next_source_is_tried_and_cancelled_when_that_mounts() -> None:
    """No session is left behind by a mount that succeeds late."""
    first = session(1)
    state, status, cancelled = run(MountState(candidates=SOURCES), first, Mounted())
    assert (status, state.source, cancelled) == (MountStatus.MOUNTED, SOURCES[1], [first])


def test_one_session_is_kept_and_the_others_cancelled() -> None:
    """The first session is kept for the upload, every other one is cancelled."""
    sessions = [session(number) for number in range(3)]
    state, status, cancelled = run(MountState(candidates=SOURCES, finds=False), *sessions)
    assert (status, state.session, cancelled) == (MountStatus.PUSH_STARTED, sessions[0], sessions[1:])


def test_a_denied_source_is_its_own_failure() -> None:
    """After an error the next candidate is tried, then a request without a source."""
    state, status, _ = run(MountState(candidates=SOURCES[:2]), DENIED, DENIED, session(1))
    assert (status, state.session, state.asked_without_source) == (MountStatus.PUSH_STARTED, session(1), True)


def test_without_any_source_the_session_is_opened_by_asking_without_from() -> None:
    """Without a source, one request finds the layer or opens the session."""
    state, status, _ = run(MountState(candidates=()), session(1))
    assert (status, state.session) == (MountStatus.SKIPPED, session(1))


def test_a_registry_may_find_the_layer_by_itself() -> None:
    """A 201 without a source is a mount without a source."""
    state, status, _ = run(MountState(candidates=()), Mounted())
    assert (status, state.source) == (MountStatus.MOUNTED, None)


def test_a_registry_that_wants_no_mount_without_from_gets_a_plain_post() -> None:
    """A known trait, or an error, leads to a plain upload session."""
    assert next_step(MountState(candidates=(), finds=False)) == OpenSession()
    state, status, _ = run(
        MountState(candidates=(), status_without_source=MountStatus.UNAVAILABLE), DENIED, session(1)
    )
    assert (status, state.session) == (MountStatus.UNAVAILABLE, session(1))


@pytest.mark.parametrize("finds", [True, None])
def test_a_registry_that_may_find_is_asked_after_its_sources_failed(*, finds: bool | None) -> None:
    """A registry that may find layers is asked to, although a session is open after stale sources."""
    first = session(1)
    state, status, cancelled = run(MountState(candidates=SOURCES[:1], finds=finds), first, Mounted())
    assert (status, state.source, state.session) == (MountStatus.MOUNTED, None, None)
    assert cancelled == [first]


def test_must_mount_ends_without_a_session() -> None:
    """A must-mount layer ends in MOUNT_REQUIRED, and no plain upload session is requested."""
    state, status, _ = run(MountState(candidates=SOURCES[:1], must_mount=True), DENIED, DENIED)
    assert (status, state.session) == (MountStatus.MOUNT_REQUIRED, None)


def test_no_answer_at_all_is_not_asked_for_again() -> None:
    """A registry that does not answer is asked once, not once for each candidate."""
    assert run(MountState(candidates=SOURCES), GONE)[1] is MountStatus.FAILURE
    assert run(MountState(candidates=SOURCES), session(1), GONE)[1] is MountStatus.PUSH_STARTED
    assert run(MountState(candidates=SOURCES, must_mount=True), GONE)[1] is MountStatus.MOUNT_REQUIRED


def test_a_refused_session_is_a_failure_with_its_error() -> None:
    """If the registry opens no upload session, the result has its error."""
    state, status, _ = run(MountState(candidates=()), DENIED, DENIED)
    assert (status, state.error) == (MountStatus.FAILURE, DENIED)


@given(st.integers(0, 3), st.booleans(), st.sampled_from([None, False, True]), st.lists(ANSWERS, min_size=9))
def test_every_run_ends_and_accounts_for_every_session(
    candidates: int, must_mount: bool, finds: bool | None, words: list[str]
) -> None:
    """Whatever a registry answers, the mount ends, and each session is kept or cancelled."""
    state = MountState(candidates=SOURCES[:candidates], must_mount=must_mount, finds=finds)
    opened: list[UploadSession] = []
    cancelled: list[UploadSession] = []
    for number, word in enumerate(words):
        step = next_step(state)
        if isinstance(step, Finish):
            break
        answer = answer_for(word, number)
        if isinstance(answer, UploadSession):
            opened.append(answer)
        if isinstance(step, OpenSession) and isinstance(answer, Mounted):
            return  # start_upload never answers this
        state = apply_answer(state, step, answer)
        if state.spare_session is not None:
            cancelled.append(state.spare_session)
    step = next_step(state)
    assert isinstance(step, Finish)
    kept = [state.session] if state.session is not None else []
    assert sorted(map(str, opened)) == sorted(map(str, cancelled + kept))
    if step.status is MountStatus.FAILURE:
        assert isinstance(state.error, CrossmountError)
    if step.status in {MountStatus.PUSH_STARTED, MountStatus.SKIPPED, MountStatus.UNAVAILABLE}:
        assert kept
    assert isinstance(next_step(state), RequestMount) is False


@pytest.mark.parametrize(("must_mount", "tries"), [(False, 1), (True, 3)])
def test_after_a_201_that_is_not_true_only_a_must_mount_layer_tries_other_sources(
    must_mount: bool, tries: int
) -> None:
    """A plain layer goes to an upload session at once; a must-mount layer tries all sources."""
    state = MountState(candidates=SOURCES, must_mount=must_mount)
    answers = [FalseMount()] * tries + ([] if must_mount else [session()])
    state, status, cancelled = run(state, *answers)
    assert status is (MountStatus.MOUNT_REQUIRED if must_mount else MountStatus.PUSH_STARTED)
    assert (state.attempts, cancelled) == (tries, [])
    assert "201" in str(state.error)
