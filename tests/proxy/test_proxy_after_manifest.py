"""Leases at a registry that mounts a layer only after a manifest references it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crossmount.index import RegistryTraits, open_index
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry
from support.proxies import ProxyUnderTest, proxy_before
from support.proxy_turns import (
    DATA,
    DIGEST,
    OTHER,
    another_uploads,
    lease_of,
    push_spooled,
    waiting_on,
)
from support.scripted import manifest_of, push_manifest
from support.servers import Server
from support.waiting import until


class TestAfterManifest:
    """A registry that mounts a layer only if a manifest in the source repository references it."""

    registry: ScriptedRegistry

    @pytest.fixture
    async def proxy(self, tmp_path: Path, valkey: Server) -> AsyncIterator[ProxyUnderTest]:
        """A proxy before such a registry, which the index knows."""
        async with (
            ScriptedRegistry(RegistryOptions(after_manifest=True)) as registry,
            open_index(valkey.url) as index,
        ):
            await index.record_traits(registry.address, RegistryTraits(mounts=True, after_manifest=True))
            async with proxy_before(registry.url, index=index, spool=tmp_path) as proxy:
                self.registry = registry
                yield proxy

    async def test_a_lease_lasts_until_the_manifest(self, proxy: ProxyUnderTest, valkey: Server) -> None:
        """Waiters wait beyond the blob's upload, and mount the blob when the manifest is accepted."""
        assert (await push_spooled(proxy, "one")).status_code == 201
        assert lease_of(valkey, proxy) is not None
        second = asyncio.create_task(push_spooled(proxy, "two"))
        await until(lambda: waiting_on(valkey, proxy) == 1)
        accepted = await push_manifest(proxy.client, "one", "v1", manifest_of([DIGEST]))
        assert accepted.status_code == 201
        assert (await second).status_code == 201
        assert (self.registry.uploads(DIGEST), self.registry.mounts(DIGEST)) == (1, 1)
        await until(lambda: lease_of(valkey, proxy) is None)

    async def test_two_pushes_never_wait_for_each_other(self, proxy: ProxyUnderTest) -> None:
        """Two pushes that need each other's layer do not wait for each other: each uploads both layers."""
        await asyncio.gather(push_spooled(proxy, "one", DATA), push_spooled(proxy, "two", OTHER))
        crossed = await asyncio.gather(push_spooled(proxy, "one", OTHER), push_spooled(proxy, "two", DATA))
        assert {answer.status_code for answer in crossed} == {201}
        assert self.registry.uploads() == 4

    async def test_a_wait_ends_when_its_push_comes_to_keep_a_lease(
        self, proxy: ProxyUnderTest, valkey: Server
    ) -> None:
        """A push stops waiting for a layer when the lease of another layer of its own is deferred."""
        async with another_uploads(valkey, proxy, "base"):
            waits = asyncio.create_task(push_spooled(proxy, "one", DATA))
            await until(lambda: waiting_on(valkey, proxy) == 1)
            assert (await push_spooled(proxy, "one", OTHER)).status_code == 201
            assert (await waits).status_code == 201
        assert self.registry.uploads(DIGEST) == 1

    async def test_a_push_that_is_given_up_keeps_nothing(self, proxy: ProxyUnderTest, valkey: Server) -> None:
        """Without a manifest, a deferred lease is released when its repository has been idle for a while."""
        assert (await push_spooled(proxy, "one")).status_code == 201
        turns = proxy.app.core.turns
        await turns.release_idle(lambda _: False)
        assert lease_of(valkey, proxy) is not None  # its repository has not been idle long enough
        turns._deferred._clock = lambda: float("inf")
        await turns.release_idle(lambda name: name == "one")
        assert lease_of(valkey, proxy) is not None
        await turns.release_idle(lambda _: False)
        assert lease_of(valkey, proxy) is None

    async def test_both_leases_of_one_layer_end(self, proxy: ProxyUnderTest, valkey: Server) -> None:
        """Both leases of a layer are released that two clients uploaded into one repository."""
        self.registry.play(Fault(method="HEAD", path="/v2/one/*", times=None, action=Reply(status=404)))
        assert (await push_spooled(proxy, "one")).status_code == 201
        assert (await push_spooled(proxy, "one")).status_code == 201  # a push with a deferred lease does not wait
        assert self.registry.uploads(DIGEST) == 2
        accepted = await push_manifest(proxy.client, "one", "v1", manifest_of([DIGEST]))
        assert accepted.status_code == 201
        await until(lambda: lease_of(valkey, proxy) is None)

    async def test_a_stop_lets_go_of_what_is_kept(self, proxy: ProxyUnderTest, valkey: Server) -> None:
        """A proxy that stops releases its deferred leases, so nobody waits for it."""
        assert (await push_spooled(proxy, "one")).status_code == 201
        await proxy.app.core.turns.aclose()
        assert lease_of(valkey, proxy) is None
