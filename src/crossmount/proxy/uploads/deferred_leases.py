"""Leases that end with a manifest, on a registry that mounts a layer only once a manifest names it (ECR).

A client that pushes several layers has leases here while others of its uploads may wait. To prevent two clients
from waiting for each other in a circle, a repository with a deferred lease does not wait: when it gets one, its
waiters stop waiting, and their blobs are uploaded without a lease. So every chain of waiters ends at an upload
that runs, or at a push that does not wait.
"""

from collections.abc import Callable, Collection

from crossmount._dataclass import dataclass
from crossmount.fleet import Fleet, UploadTurn
from crossmount.oci import Digest, Repository

IDLE_SECONDS = 30.0
"""A push counts as abandoned after so many seconds without activity."""


@dataclass(frozen=True, slots=True)
class _Deferred:
    digest: Digest
    turn: UploadTurn
    since: float


class DeferredLeases:
    """The leases that wait for a manifest, by repository.

    Args:
        fleet: its waiters for a repository stop waiting as soon as the repository has a deferred lease.
        clock: seconds, from any start.
    """

    def __init__(self, fleet: Fleet, *, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._deferred: dict[Repository, list[_Deferred]] = {}

    def has_any(self, dest: Repository) -> bool:
        """Return whether a repository has a deferred lease, and so must not wait for others."""
        return dest in self._deferred

    def add(self, dest: Repository, digest: Digest, turn: UploadTurn) -> None:
        """Keep the lease of a blob that was uploaded, and end all waits for `dest`."""
        self._deferred.setdefault(dest, []).append(_Deferred(digest, turn, self._clock()))
        self._fleet.stop_waiting(dest)

    def take(self, dest: Repository, digests: Collection[Digest]) -> list[UploadTurn]:
        """Remove and return the leases of blobs that a manifest in `dest` references."""
        deferred = self._deferred.pop(dest, [])
        rest = [each for each in deferred if each.digest not in digests]
        if rest:
            self._deferred[dest] = rest
        return [each.turn for each in deferred if each.digest in digests]

    def take_idle(self, is_active: Callable[[str], bool]) -> list[UploadTurn]:
        """Remove and return the leases of repositories whose push was abandoned.

        Args:
            is_active: returns whether a push into a repository is active now.
        """
        until = self._clock() - IDLE_SECONDS
        return [
            each.turn
            for dest, deferred in list(self._deferred.items())
            if max(each.since for each in deferred) < until and not is_active(dest.name)
            for each in self._deferred.pop(dest)
        ]

    def take_all(self) -> list[UploadTurn]:
        """Remove and return all leases."""
        turns = [each.turn for of_one in self._deferred.values() for each in of_one]
        self._deferred.clear()
        return turns
