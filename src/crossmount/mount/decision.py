"""What to do next in a mount, given what the registry answered: states and steps, no I/O.

The driver asks `next_step(state)`, does it, and folds the answer in with `after`. One session is kept for the
upload; every other one that a registry opened on the way is to be cancelled.
"""

from dataclasses import dataclass, replace

from crossmount.errors import CrossmountError, RegistryRefusedError, RegistryUnreachableError
from crossmount.mount.status import MountStatus
from crossmount.oci import Repository
from crossmount.registry import Mounted, UploadSession
from crossmount.registry.http.retry import RETRIED_STATUSES

Answer = Mounted | UploadSession | CrossmountError
"""201, 202, or anything else."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the mount request: from `source`, or without `from` if None."""

    source: Repository | None


@dataclass(frozen=True, slots=True)
class Open:
    """Open a plain upload session: this registry wants no `mount` without `from`."""


@dataclass(frozen=True, slots=True)
class Finish:
    """It is decided."""

    status: MountStatus


Step = Ask | Open | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class MountState:
    """One layer's mount, so far.

    Attributes:
        candidates: sources not yet asked for, best first.
        unmounted: the status that says why no source is asked for, when there is none.
        must_mount: whether an upload is out of the question.
        finds: False if this registry is known not to find a layer by its digest alone.
        session: the upload session in hand.
        superfluous: a session to cancel now.
        mounted: whether the registry mounted it, `source` says from where.
        attempts: requests that named a source.
        asked_without: whether the registry was asked without `from`.
        error: the last answer that was no answer to build on.
        over: whether nothing more can be asked of this registry.
    """

    candidates: tuple[Repository, ...]
    unmounted: MountStatus = MountStatus.SKIPPED
    must_mount: bool = False
    finds: bool | None = None
    session: UploadSession | None = None
    superfluous: UploadSession | None = None
    mounted: bool = False
    source: Repository | None = None
    attempts: int = 0
    asked_without: bool = False
    error: CrossmountError | None = None
    over: bool = False


def next_step(state: MountState) -> Step:
    """Decide what to do now."""
    if state.mounted:
        return Finish(MountStatus.MOUNTED)
    if state.over:
        return Finish(_ended_early(state))
    if state.candidates:
        return Ask(state.candidates[0])
    if state.session is None and not state.asked_without and state.finds is not False:
        return Ask(None)
    if state.session is None and not state.must_mount:
        return Open()
    return Finish(_unmounted(state))


def _unmounted(state: MountState) -> MountStatus:
    if state.must_mount:
        return MountStatus.MOUNT_REQUIRED
    return MountStatus.PUSH_STARTED if state.attempts else state.unmounted


def _ended_early(state: MountState) -> MountStatus:
    if state.must_mount:
        return MountStatus.MOUNT_REQUIRED
    return MountStatus.FAILURE if state.session is None else MountStatus.PUSH_STARTED


def after(state: MountState, step: Ask | Open, answer: Answer) -> MountState:
    """Fold the registry's `answer` to `step` into the state."""
    state = replace(state, superfluous=None)
    match step:
        case Ask(source=Repository() as source):
            state = replace(state, candidates=state.candidates[1:], attempts=state.attempts + 1)
            if isinstance(answer, Mounted):
                return replace(state, mounted=True, source=source, session=None, superfluous=state.session)
            return _folded(state, answer)
        case Ask():
            return _folded(replace(state, asked_without=True), answer)
        case Open():
            state = _folded(state, answer)
            return replace(state, over=state.session is None)


def _folded(state: MountState, answer: Answer) -> MountState:
    """Keep the first session, mark the next as superfluous; remember an error, or that it is mounted."""
    match answer:
        case UploadSession() if state.session is None:
            return replace(state, session=answer)
        case UploadSession():
            return replace(state, superfluous=answer)
        case CrossmountError():
            return replace(state, error=answer, over=_is_about_the_registry(answer, state))
        case Mounted():
            return replace(state, mounted=True)


def _is_about_the_registry(answer: CrossmountError, state: MountState) -> bool:
    """Tell whether asking for the next source would only wait as long: no answer, or trouble in all attempts."""
    if isinstance(answer, RegistryRefusedError) and answer.status in RETRIED_STATUSES:
        return not state.must_mount
    return isinstance(answer, RegistryUnreachableError)
