"""How a mount ended."""

import enum
from dataclasses import dataclass

from crossmount.errors import CrossmountError
from crossmount.oci import Digest, Repository
from crossmount.registry import UploadSession


class MountStatus(enum.IntEnum):
    """The six ways in which a mount ends."""

    SKIPPED = 0
    """No source is known on any registry; the upload's session is open."""
    MOUNTED = 1
    """The registry mounted the layer: dest holds it."""
    UNAVAILABLE = 2
    """Sources are known, none of them on this registry; the upload's session is open."""
    PUSH_STARTED = 3
    """A mount was asked for, and the registry opened an upload session instead."""
    MOUNT_REQUIRED = 4
    """The layer is flagged must-mount and no mount succeeded: it may not be uploaded."""
    FAILURE = 5
    """The mount could not be carried out, and there is no session either: `error` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountResult:
    """What became of one layer.

    Attributes:
        source: where it was mounted from, if the registry was told; None if it found the layer by itself.
        session: the upload session in hand, whoever takes the result uploads into it or cancels it.
        attempts: mount requests that named a source.
        error: what stood in the way, with `FAILURE`.
    """

    status: MountStatus
    layer: Digest
    dest: Repository
    source: Repository | None = None
    session: UploadSession | None = None
    attempts: int = 0
    error: CrossmountError | None = None
