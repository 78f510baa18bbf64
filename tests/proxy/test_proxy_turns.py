"""Uploads of one layer through a proxy: one client uploads it, the others wait and mount."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossmount.index import open_index
from crossmount.oci import Digest
from crossmount.testing import BasicAuth, Fault, Grant, RegistryOptions, Reply, ScriptedRegistry
from crossmount.testing.options import ANYTHING
from support.proxies import ProxyUnderTest, begin_upload, error_code, proxy_before
from support.proxy_turns import (
    DATA,
    DIGEST,
    another_uploads,
    fleet_of,
    lease_of,
    metric,
    proxy_on,
    push_spooled,
    waiting_on,
)
from support.servers import Server
from support.waiting import until

LATER = 60.0


async def test_one_layer_of_many_clients_is_uploaded_once(tmp_path: Path) -> None:
    """When eight clients complete the same upload at once, one is uploaded and seven are mounted."""
    slow = Fault(method="PUT", delay=0.2)
    async with ScriptedRegistry(faults=[slow]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        answers = await asyncio.gather(*(push_spooled(proxy, f"app-{number}") for number in range(8)))
        assert {answer.status_code for answer in answers} == {201}
        assert (registry.uploads(DIGEST), registry.mounts(DIGEST)) == (1, 7)
        assert registry.open_sessions == ()
        assert proxy.app.core.spool is not None
        assert proxy.app.core.spool.taken == 0
        assert (metric(proxy, "blobs_total", outcome="mounted"), metric(proxy, "wait_seconds_count")) == (7, 7)


async def test_two_clients_of_one_repository_send_a_layer_once(tmp_path: Path) -> None:
    """A waiter for an upload into its own repository finds the layer there."""
    slow = Fault(method="PUT", delay=0.2)
    async with ScriptedRegistry(faults=[slow]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        answers = await asyncio.gather(*(push_spooled(proxy, "app") for _ in range(3)))
        assert {answer.status_code for answer in answers} == {201}
        assert (registry.uploads(DIGEST), registry.mounts(DIGEST)) == (1, 0)
        assert registry.open_sessions == ()


async def test_an_upload_waits_for_another_process(tmp_path: Path, valkey: Server) -> None:
    """A layer that another process of the fleet uploads is mounted, and none of its bytes is sent again."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url, spool=tmp_path) as proxy:
        async with another_uploads(valkey, proxy, "base") as turn:
            push = asyncio.create_task(push_spooled(proxy, "app"))
            await until(lambda: waiting_on(valkey, proxy) == 1)
            registry.put_blob("base", DATA)
            await turn.publish()
            assert (await push).status_code == 201
        assert (registry.mounts(DIGEST), registry.bytes_received) == (1, 0)


async def put_whole(proxy: ProxyUnderTest, name: str) -> httpx.Response:
    """Upload as containerd does: all bytes with the request that names the digest."""
    location = await begin_upload(proxy, name)
    return await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)


async def post_whole(proxy: ProxyUnderTest, name: str) -> httpx.Response:
    """Upload with one request."""
    return await proxy.client.post(f"/v2/{name}/blobs/uploads/?digest={DIGEST}", content=DATA)


@pytest.mark.parametrize("way", [put_whole, post_whole])
async def test_without_a_spool_a_blob_that_comes_whole_waits_in_its_client(way: Any, valkey: Server) -> None:
    """When the digest comes before the bytes, one client's bytes are forwarded, and the others' are not read."""
    slow = Fault(method="PUT|POST", query="*digest=*", delay=0.3)
    async with ScriptedRegistry(faults=[slow]) as registry, proxy_on(valkey, registry.url) as proxy:
        answers = await asyncio.gather(*(way(proxy, f"app-{number}") for number in range(4)))
        assert {answer.status_code for answer in answers} == {201}
        assert registry.upload_bytes == len(DATA)
        assert registry.mounts(DIGEST) == 3
        assert registry.open_sessions == ()
        assert (await way(proxy, "late")).status_code == 201
        assert registry.upload_bytes == len(DATA)


@pytest.mark.parametrize("way", [put_whole, post_whole])
async def test_without_a_spool_a_refusal_is_the_registrys_own(way: Any) -> None:
    """A client whose upload is refused gets the registry's error, and the next one uploads."""
    refusal = Fault(method="PUT|POST", query="*digest=*", action=Reply(status=413, code="SIZE_INVALID"))
    async with ScriptedRegistry(faults=[refusal]) as registry, proxy_before(registry.url) as proxy:
        refused = await way(proxy, "app")
        assert (refused.status_code, error_code(refused)) == (413, "SIZE_INVALID")
        assert (await way(proxy, "app")).status_code == 201
        await until(lambda: not fleet_of(proxy)._keeper.held)


async def test_a_lease_ends_with_the_upload(tmp_path: Path, valkey: Server) -> None:
    """A layer that the proxy uploads is in the index as soon as its lease is released."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url, spool=tmp_path) as proxy:
        assert (await push_spooled(proxy, "app")).status_code == 201
        assert lease_of(valkey, proxy) is None
        async with open_index(valkey.url) as index:
            assert await index.sources(DIGEST, proxy.repository("x")) == (proxy.repository("app"),)


async def test_an_upload_that_fails_hands_over(tmp_path: Path) -> None:
    """After a refused upload the second client uploads at once, without waiting for the lease to expire."""
    refusal = Fault(method="PUT", delay=0.2, action=Reply(status=413, code="SIZE_INVALID"))
    async with ScriptedRegistry(faults=[refusal]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        first = asyncio.create_task(push_spooled(proxy, "one"))
        await until(lambda: bool(registry.matching(method="POST")))
        second = await push_spooled(proxy, "two")
        assert sorted([(await first).status_code, second.status_code]) == [201, 413]
        assert registry.uploads(DIGEST) == 1


@pytest.mark.parametrize(("data", "wait"), [(DATA, 0.0), (b"small", LATER)])
async def test_what_is_not_waited_for(tmp_path: Path, valkey: Server, data: bytes, wait: float) -> None:
    """With `--wait 0`, and for a small layer, nobody waits for another's upload."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url, spool=tmp_path, wait=wait) as proxy:
        async with another_uploads(valkey, proxy, "base"):
            assert (await push_spooled(proxy, "app", data)).status_code == 201
            assert (await proxy.client.head(f"/v2/app/blobs/{Digest.of(data)}")).status_code == 200
        assert registry.uploads(Digest.of(data)) == 1


async def test_a_question_that_fails_is_no_failure(tmp_path: Path, valkey: Server) -> None:
    """A waiter uploads the layer itself if the HEAD for it fails after the other's upload."""
    mute = Fault(method="HEAD", path="/v2/app/*", times=None, action=Reply(status=403, code="DENIED"))
    async with (
        ScriptedRegistry(faults=[mute]) as registry,
        proxy_on(valkey, registry.url, spool=tmp_path) as proxy,
        another_uploads(valkey, proxy, "app") as turn,
    ):
        push = asyncio.create_task(push_spooled(proxy, "app"))
        await until(lambda: waiting_on(valkey, proxy) == 1)
        await turn.publish()
        await turn.release()
        assert (await push).status_code == 201
        assert registry.uploads(DIGEST) == 1


async def test_a_private_upload_is_no_source_for_others(tmp_path: Path) -> None:
    """A caller that may not mount from the other client's repository uploads the layer."""
    users = {"ann": "pw-ann", "bob": "pw-bob"}
    grants = {"ann": (Grant("*", ANYTHING),), "bob": (Grant("bob/*", ANYTHING),)}
    options = RegistryOptions(auth=BasicAuth(users=users, grants=grants))
    slow = Fault(method="PUT", delay=0.2)
    async with (
        ScriptedRegistry(options, faults=[slow]) as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
    ):
        ann = asyncio.create_task(push_spooled(proxy, "secret/x", auth=("ann", "pw-ann")))
        await until(lambda: bool(fleet_of(proxy)._keeper.held))
        bob = await push_spooled(proxy, "bob/app", auth=("bob", "pw-bob"))
        assert ((await ann).status_code, bob.status_code) == (201, 201)
        assert (registry.uploads(DIGEST), registry.mounts(DIGEST)) == (2, 0)


async def test_a_refusal_is_the_registrys_own(tmp_path: Path) -> None:
    """A client gets the registry's reason when its upload is refused."""
    refusal = Fault(method="PUT", times=None, action=Reply(status=403, code="DENIED"))
    async with ScriptedRegistry(faults=[refusal]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        answer = await push_spooled(proxy, "app")
        assert (answer.status_code, error_code(answer)) == (403, "DENIED")
        assert fleet_of(proxy)._keeper.held == {}
