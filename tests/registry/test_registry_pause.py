import pytest

from crossmount.errors import RegistryRefusedError
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.testing import Fault, Reply, ScriptedRegistry

HOUR = 3600.0


async def test_a_retry_after_of_a_year_does_not_cost_a_worker_its_registry(
    scripted_registry: ScriptedRegistry,
) -> None:
    """One absurd Retry-After is heeded for a while, not for as long as the process lives."""
    now = 0.0
    scripted_registry.play(Fault(action=Reply(status=503, retry_after=365 * 24 * 3600)))
    where = Repository.parse(f"{scripted_registry.address}/team/a")
    async with RegistryClient(where, options=ClientOptions(plain_http=True), clock=lambda: now) as client:
        with pytest.raises(RegistryRefusedError):
            await client.head_blob(where, Digest.of(b"layer"))
        now += HOUR + 1
        assert await client.head_blob(where, Digest.of(b"layer")) is None
