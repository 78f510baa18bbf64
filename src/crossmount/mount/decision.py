"""What to do next in a mount, given what the registry answered: states and steps, no I/O.

The mounter carries out `next_step(state)` and passes the answer to `apply_answer`. The first session that is
opened is kept for the upload; every other one is cancelled.
"""

from dataclasses import dataclass, replace

from crossmount.errors import CrossmountError, RegistryRefusedError, RegistryUnreachableError
from crossmount.mount.status import MountStatus
from crossmount.oci import Repository
from crossmount.registry import Mounted, UploadSession
from crossmount.registry.http.retry import RETRIED_STATUSES

MountAnswer = Mounted | UploadSession | CrossmountError
"""201, 202, or anything else."""


@dataclass(frozen=True, slots=True)
class RequestMount:
    """Send the mount request: from `source`, or without `from` if None."""

    source: Repository | None


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Open a plain upload session: this registry wants no `mount` without `from`."""


@dataclass(frozen=True, slots=True)
class Finish:
    """It is decided."""

    status: MountStatus


MountStep = RequestMount | OpenSession | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class MountState:
    """One layer's mount, so far.

    Attributes:
        candidates: sources not yet asked for, best first.
        status_without_source: the status that says why no source is asked for, when there is none.
        must_mount: whether an upload is out of the question.
        finds: False if this registry is known not to find a layer by its digest alone.
        session: the upload session in hand.
        spare_session: a session to cancel now.
        mounted: whether the registry mounted it, `source` says from where.
        attempts: requests that named a source.
        asked_without_source: whether the registry was asked without `from`.
        error: the last answer that was no answer to build on.
        exhausted: whether nothing more can be asked of this registry.
    """

    candidates: tuple[Repository, ...]
    status_without_source: MountStatus = MountStatus.SKIPPED
    must_mount: bool = False
    finds: bool | None = None
    session: UploadSession | None = None
    spare_session: UploadSession | None = None
    mounted: bool = False
    source: Repository | None = None
    attempts: int = 0
    asked_without_source: bool = False
    error: CrossmountError | None = None
    exhausted: bool = False


def next_step(state: MountState) -> MountStep:
    """Decide what to do now."""
    if state.mounted:
        return Finish(MountStatus.MOUNTED)
    if state.exhausted:
        return Finish(_ended_early(state))
    if state.candidates:
        return RequestMount(state.candidates[0])
    if state.session is None and not state.asked_without_source and state.finds is not False:
        return RequestMount(None)
    if state.session is None and not state.must_mount:
        return OpenSession()
    return Finish(_unmounted(state))


def _unmounted(state: MountState) -> MountStatus:
    if state.must_mount:
        return MountStatus.MOUNT_REQUIRED
    return MountStatus.PUSH_STARTED if state.attempts else state.status_without_source


def _ended_early(state: MountState) -> MountStatus:
    if state.must_mount:
        return MountStatus.MOUNT_REQUIRED
    return MountStatus.FAILURE if state.session is None else MountStatus.PUSH_STARTED


def apply_answer(state: MountState, step: RequestMount | OpenSession, answer: MountAnswer) -> MountState:
    """Fold the registry's `answer` to `step` into the state."""
    state = replace(state, spare_session=None)
    match step:
        case RequestMount(source=Repository() as source):
            state = replace(state, candidates=state.candidates[1:], attempts=state.attempts + 1)
            if isinstance(answer, Mounted):
                return replace(state, mounted=True, source=source, session=None, spare_session=state.session)
            return _folded(state, answer)
        case RequestMount():
            return _folded(replace(state, asked_without_source=True), answer)
        case OpenSession():
            state = _folded(state, answer)
            return replace(state, exhausted=state.session is None)


def _folded(state: MountState, answer: MountAnswer) -> MountState:
    """Keep the first session, mark the next as superfluous; remember an error, or that it is mounted."""
    match answer:
        case UploadSession() if state.session is None:
            return replace(state, session=answer)
        case UploadSession():
            return replace(state, spare_session=answer)
        case CrossmountError():
            return replace(state, error=answer, exhausted=_is_about_the_registry(answer, state))
        case Mounted():
            return replace(state, mounted=True)


def _is_about_the_registry(answer: CrossmountError, state: MountState) -> bool:
    """Tell whether asking for the next source would only wait as long: no answer, or trouble in all attempts."""
    if isinstance(answer, RegistryRefusedError) and answer.status in RETRIED_STATUSES:
        return not state.must_mount
    return isinstance(answer, RegistryUnreachableError)
