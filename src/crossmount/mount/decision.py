"""The status of a mount, and the next step after each answer of the registry: values, no I/O.

The mounter carries out `next_step(state)` and passes the answer to `apply_answer`. The first session that is
opened is kept for the upload; every other one is cancelled.
"""

import enum
from dataclasses import replace

from crossmount._dataclass import dataclass
from crossmount.errors import CrossmountError, InvalidAnswerError, RegistryRefusedError, RegistryUnreachableError
from crossmount.index.protocol import LayerKnowledge, Sighting
from crossmount.oci import Digest, Repository
from crossmount.registry import Mounted, UploadSession
from crossmount.registry.http.retry import RETRIED_STATUSES

_FALSE_MOUNT = "the registry answered 201 to the mount, and does not have the blob"


class MountStatus(enum.IntEnum):
    """How a mount ended.

    Attributes:
        SKIPPED: no source is known on any registry; an upload session is open.
        MOUNTED: the registry mounted the layer.
        UNAVAILABLE: sources are known, none of them on this registry; an upload session is open.
        PUSH_STARTED: the registry opened an upload session instead of a mount.
        MOUNT_REQUIRED: the layer is flagged must-mount, so it must not be uploaded, and no mount succeeded.
        FAILURE: the mount failed, and no upload session is open; `error` of the result is the cause.
    """

    SKIPPED = 0
    MOUNTED = 1
    UNAVAILABLE = 2
    PUSH_STARTED = 3
    MOUNT_REQUIRED = 4
    FAILURE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MountResult:
    """The result of the mount of one layer.

    Attributes:
        source: the repository that it was mounted from; None if the registry found the layer by itself.
        session: the open upload session; the caller uploads into it or cancels it.
        attempts: the number of mount requests that named a source.
        error: the cause, with `FAILURE` and `MOUNT_REQUIRED`.
    """

    status: MountStatus
    layer: Digest
    dest: Repository
    source: Repository | None = None
    session: UploadSession | None = None
    attempts: int = 0
    error: CrossmountError | None = None

    def sightings(self, size: int | None) -> list[Sighting]:
        """Return what a successful mount confirms: dest and the source have the layer."""
        holders = [self.dest] if self.source is None else [self.dest, self.source]
        return [Sighting(self.layer, repository, size) for repository in holders]


@dataclass(frozen=True, slots=True)
class FalseMount:
    """The registry answered 201 to a mount request, and does not have the blob."""


MountAnswer = Mounted | FalseMount | UploadSession | CrossmountError
"""The answer to a step: 201, a 201 that is not true, 202, or an error."""


@dataclass(frozen=True, slots=True)
class RequestMount:
    """Step: send a mount request, without `from` if `source` is None."""

    source: Repository | None


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Step: open a plain upload session; this registry answers no mount request without `from`."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Step: end the mount with a status."""

    status: MountStatus


MountStep = RequestMount | OpenSession | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class MountState:
    """The state of the mount of one layer.

    Attributes:
        candidates: sources that were not tried yet, best first.
        status_without_source: the final status if no source was tried.
        must_mount: whether the layer must not be uploaded.
        finds: False if this registry is known not to find a layer by its digest alone.
        session: the open upload session.
        spare_session: a session to cancel now.
        mounted: whether the registry mounted the layer, from `source` if that is set.
        attempts: the number of requests that named a source.
        asked_without_source: whether a request without `from` was sent.
        error: the last error.
        exhausted: whether further requests to this registry are useless.
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
    """Return the next step."""
    if state.mounted:
        return Finish(MountStatus.MOUNTED)
    if state.exhausted:
        return Finish(_ended_early(state))
    if state.candidates:
        return RequestMount(state.candidates[0])
    if state.finds is not False and not state.asked_without_source:
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
    """Return the state after the registry's `answer` to `step`."""
    state = replace(state, spare_session=None)
    match step:
        case RequestMount(source=Repository() as source):
            state = replace(state, candidates=state.candidates[1:], attempts=state.attempts + 1)
            if isinstance(answer, Mounted):
                return replace(state, mounted=True, source=source, session=None, spare_session=state.session)
            return _with_answer(state, answer)
        case RequestMount():
            return _with_answer(replace(state, asked_without_source=True), answer)
        case OpenSession():
            state = _with_answer(state, answer)
            return replace(state, exhausted=state.session is None)


def _with_answer(state: MountState, answer: MountAnswer) -> MountState:
    """Keep the first session, mark any other for cancellation; note an error or the mount."""
    match answer:
        case UploadSession() if state.session is None:
            return replace(state, session=answer)
        case UploadSession():
            return replace(state, spare_session=answer)
        case CrossmountError():
            return replace(state, error=answer, exhausted=_is_about_the_registry(answer, state))
        case FalseMount():  # other sources would very probably be answered likewise
            candidates = state.candidates if state.must_mount else ()
            return replace(
                state, candidates=candidates, asked_without_source=True, error=InvalidAnswerError(_FALSE_MOUNT)
            )
        case Mounted():
            return replace(state, mounted=True, session=None, spare_session=state.session)


def _is_about_the_registry(answer: CrossmountError, state: MountState) -> bool:
    """Return whether requests for other sources would fail likewise: no answer, or an overloaded registry."""
    if isinstance(answer, RegistryRefusedError) and answer.status in RETRIED_STATUSES:
        return not state.must_mount
    return isinstance(answer, RegistryUnreachableError)


def status_without_source(known: LayerKnowledge) -> MountStatus:
    """Return the status of a mount without any source to try."""
    if known.sources:  # none of them is usable: unreadable, or the registry does not mount
        return MountStatus.PUSH_STARTED
    return MountStatus.UNAVAILABLE if known.elsewhere else MountStatus.SKIPPED
