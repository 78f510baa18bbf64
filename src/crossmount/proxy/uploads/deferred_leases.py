"""Leases kept until a manifest, on a registry that mounts a layer only once a manifest references it (ECR).

A client that pushes several layers has leases here while others of its uploads may wait. So that two clients
never wait for each other in a circle, a repository that keeps a lease does not wait: what waits when it comes to
keep one is hurried, and uploaded without a lease. Every chain of those who wait so ends at an upload that runs, or
at a push that waits for nobody.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from crossmount.fleet import Fleet, UploadTurn
from crossmount.oci import Digest, Repository

QUIET_SECONDS = 30.0
"""After how long without anything going on a push is thought to be given up."""


@dataclass(frozen=True, slots=True)
class _Kept:
    digest: Digest
    turn: UploadTurn
    since: float


class KeptTurns:
    """The leases that wait for a manifest.

    Args:
        fleet: hurries those who must not wait because of them.
        clock: seconds, from any start.
    """

    def __init__(self, fleet: Fleet, *, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._kept: dict[Repository, list[_Kept]] = {}

    def any_of(self, dest: Repository) -> bool:
        """Tell whether a repository keeps a lease, and so must not wait for others."""
        return dest in self._kept

    def keep(self, dest: Repository, digest: Digest, turn: UploadTurn) -> None:
        """Keep the lease of a blob that was uploaded; whatever `dest` waits for, it waits no more."""
        self._kept.setdefault(dest, []).append(_Kept(digest, turn, self._clock()))
        self._fleet.stop_waiting(dest)

    def take(self, dest: Repository, digests: Collection[Digest]) -> list[UploadTurn]:
        """Take out the leases of blobs that a manifest in `dest` references."""
        kept = self._kept.pop(dest, [])
        left = [each for each in kept if each.digest not in digests]
        if left:
            self._kept[dest] = left
        return [each.turn for each in kept if each.digest in digests]

    def take_quiet(self, busy: Callable[[str], bool]) -> list[UploadTurn]:
        """Take out the leases of repositories in which nothing has gone on for long.

        Args:
            busy: tells whether anything goes on in a repository now.
        """
        until = self._clock() - QUIET_SECONDS
        return [
            each.turn
            for dest, kept in list(self._kept.items())
            if max(each.since for each in kept) < until and not busy(dest.name)
            for each in self._kept.pop(dest)
        ]

    def take_all(self) -> list[UploadTurn]:
        """Take out all leases."""
        kept = [each.turn for of_one in self._kept.values() for each in of_one]
        self._kept.clear()
        return kept
