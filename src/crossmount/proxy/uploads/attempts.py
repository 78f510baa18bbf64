"""What is known of a blob before a mount is tried, and what came of the attempt. No I/O."""

import asyncio
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.index.protocol import Knowledge
from crossmount.mount import MountResult, MountStatus
from crossmount.oci import Digest, Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class MountAttempt:
    """One attempt to mount a blob, and its result.

    Attributes:
        knowledge: the answer of the index before the attempt.
        result: the mount, without a session; None if there was no source to try.
        answer_at: when a "no" may be answered, in the clock's seconds; None for at once.
        unfinished: the mount from sources that the caller was not seen to read, which may go on after the answer;
            None if there are none.
    """

    digest: Digest
    dest: Repository
    knowledge: Knowledge = field(default_factory=Knowledge)
    result: MountResult | None = None
    answer_at: float | None = None
    unfinished: "asyncio.Task[MountResult | None] | None" = field(default=None, repr=False)

    @property
    def mounted(self) -> bool:
        """Whether the blob is mounted now."""
        return self.result is not None and self.result.status is MountStatus.MOUNTED

    @property
    def mounted_later(self) -> bool:
        """Whether the blob was mounted after the answer."""
        task = self.unfinished
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return False
        result = task.result()
        return result is not None and result.status is MountStatus.MOUNTED

    @property
    def deleted(self) -> bool:
        """Whether a client deleted the blob from dest, and no client has started to upload it again since."""
        return self.knowledge.of(self.digest).deleted

    @property
    def refused(self) -> bool:
        """Whether the blob was not mounted and must not be uploaded."""
        return not self.mounted and self.knowledge.of(self.digest).must_mount

    @property
    def after_manifest(self) -> bool:
        """Whether the registry mounts only what a manifest in the source repository references."""
        return self.knowledge.traits.after_manifest is True

    @property
    def tried(self) -> frozenset[Repository]:
        """The sources that the index named; also dest, if the index said that dest holds the blob."""
        known = self.knowledge.of(self.digest)
        return frozenset(known.sources) | (frozenset({self.dest}) if known.in_dest else frozenset())


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the index knows of a blob, and its sources that a caller may mount from, best first."""

    knowledge: Knowledge
    sources: tuple[Repository, ...]
