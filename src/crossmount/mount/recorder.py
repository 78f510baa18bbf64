"""What mounts showed of a registry, recorded in the index."""

from collections.abc import Callable, Iterable

from crossmount import events
from crossmount._closing import Closing
from crossmount.index.exclusions import RemembersDenials
from crossmount.index.protocol import Knowledge, MountIndex, RegistryTraits, Sighting
from crossmount.mount.decision import MountResult, MountStatus
from crossmount.mount.presence import SourceChecks
from crossmount.oci import Repository
from crossmount.registry import RegistryClient


class MountRecorder(Closing):
    """Base class of `Mounter`: what it has seen, and the methods that record it.

    Args:
        client: the client of the registry.
        index: the index.
        observer: receives a `SourceDropped` for each source that could not be mounted from.
        clock: monotonic seconds.
    """

    def __init__(
        self, client: RegistryClient, index: MountIndex, *, observer: events.Observer, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._index = index
        self._checks = SourceChecks(client, index, observer=observer, clock=clock)
        self._seen = RegistryTraits()  # whether its 201s were true

    @property
    def is_untruthful(self) -> bool:
        """Whether a 201 to a mount was not true."""
        return self._seen.truthful is False

    async def record_traits(self, traits: RegistryTraits, results: Iterable[MountResult]) -> None:
        """Record in the index what mounts showed about the registry, if it is not known yet."""
        mounted = [result for result in results if result.status is MountStatus.MOUNTED]
        seen = RegistryTraits(
            mounts=True if any(result.source for result in mounted) else None,
            finds=True if any(not result.source for result in mounted) else None,
            truthful=self._seen.truthful,
        )
        if traits.updated(seen) != traits:
            await self._index.record_traits(self._client.registry, seen)

    async def record_denied(self, dest: Repository, knowledge: Knowledge) -> None:
        """Record in the index what this account may not read, for whoever has the same account.

        Call it only after the registry accepted something for `dest`: a refusal may else be about `dest` itself.
        """
        denied = self._client.prepared(dest).denied | self._checks.unreadable()
        if denied := denied - knowledge.denied:
            account = await self._client.account(dest)
            if account is not None and isinstance(self._index, RemembersDenials):
                await self._index.record_denied(self._client.registry, account, denied)

    async def record_false_mount(self) -> None:
        """Record in the index that a 201 to a mount was not true; mounts there need proof from now on."""
        if self._seen.truthful is not False:
            self._seen = RegistryTraits(truthful=False)
            await self._index.record_traits(self._client.registry, self._seen)


def confirmed_sightings(result: MountResult, size: int | None) -> list[Sighting]:
    """Return what a successful mount confirms: dest and the source hold the layer."""
    holders = [result.dest] if result.source is None else [result.dest, result.source]
    return [Sighting(result.layer, repository, size) for repository in holders]
