"""Requests for a blob that is being uploaded: they wait until it is there, if the caller may know of it."""

import asyncio
from pathlib import Path

import pytest

from crossmount.fleet import Slots, UploadTurn
from crossmount.index import Keys
from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.testing import BasicAuth, Fault, Grant, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from crossmount.testing.options import ANYTHING
from support.proxies import proxy_before
from support.proxy_turns import (
    DATA,
    DIGEST,
    OTHER,
    another_uploads,
    fleet_of,
    metric,
    proxy_on,
    push_spooled,
    waiting_on,
)
from support.scripted import manifest_of
from support.servers import Server
from support.waiting import until


async def test_a_mount_request_is_held_too(valkey: Server) -> None:
    """A POST with `mount` and without `from` waits for an upload under way, and is answered 201."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url) as proxy:
        async with another_uploads(valkey, proxy, "base") as turn:
            post = asyncio.create_task(proxy.client.post(f"/v2/app/blobs/uploads/?mount={DIGEST}"))
            await until(lambda: waiting_on(valkey, proxy) == 1)
            registry.put_blob("base", DATA)
            await turn.publish()
            assert (await post).status_code == 201
        assert registry.open_sessions == ()


async def test_a_head_is_held_while_another_uploads(tmp_path: Path, valkey: Server) -> None:
    """A HEAD waits while another client uploads the layer, and is answered 200."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url, spool=tmp_path) as proxy:
        async with another_uploads(valkey, proxy, "base") as turn:
            head = asyncio.create_task(proxy.client.head(f"/v2/app/blobs/{DIGEST}"))
            await until(lambda: waiting_on(valkey, proxy) == 1)
            registry.put_blob("base", DATA)
            await turn.publish()
            answer = await head
        assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(DATA)))
        assert registry.mounts(DIGEST) == 1


async def test_a_head_is_held_for_an_upload_through_this_proxy() -> None:
    """A HEAD waits for an upload through the same proxy, also without a Redis server."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        fleet = fleet_of(proxy)
        turn = await fleet.turn(DIGEST, proxy.repository("base"), len(DATA), slots=Slots(1))
        assert isinstance(turn, UploadTurn)
        heads = [asyncio.create_task(proxy.client.head(f"/v2/{name}/blobs/{DIGEST}")) for name in ("a", "base")]
        await until(lambda: len(fleet._poller.turns) == 2)
        registry.put_blob("base", DATA)
        await turn.publish()
        await turn.release()
        assert [(await head).status_code for head in heads] == [200, 200]
        assert registry.mounts(DIGEST) == 1


async def test_many_held_heads_keep_nobody_else_waiting() -> None:
    """Many waiting HEADs do not delay a HEAD for another blob."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, hold=150.0) as proxy:
        registry.put_blob("base", OTHER)
        fleet = fleet_of(proxy)
        turn = await fleet.turn(DIGEST, proxy.repository("base"), len(DATA), slots=Slots(1))
        assert isinstance(turn, UploadTurn)
        turn.count(len(DATA))  # all is sent, so nobody leaves it as stalled
        heads = [asyncio.create_task(proxy.client.head(f"/v2/a-{i}/blobs/{DIGEST}")) for i in range(80)]
        # on a busy machine some answers come due before their HEAD begins to wait: those are a 404 at once
        await until(lambda: len(fleet._poller.turns) + sum(head.done() for head in heads) == 80)
        assert fleet._poller.turns
        assert (await proxy.client.head(f"/v2/base/blobs/{Digest.of(OTHER)}")).status_code == 200
        await turn.release()
        assert {(await head).status_code for head in heads} == {404}


HIDES = Fault(path="/v2/secret/*", times=None, action=Reply(status=404, code="NAME_UNKNOWN"))


@pytest.mark.parametrize("hides", [False, True])
async def test_a_head_is_not_held_for_one_who_may_not_read_the_uploaders_repository(
    hides: bool, valkey: Server
) -> None:
    """A caller learns nothing of an upload into a repository that it may not read, not even from the time."""
    users = {"ann": "pw-ann", "bob": "pw-bob"}
    grants = {"ann": (Grant("*", ANYTHING),), "bob": (Grant("bob/*", ANYTHING),)}
    async with (
        ScriptedRegistry(RegistryOptions(auth=BasicAuth(users=users, grants=grants))) as registry,
        proxy_on(valkey, registry.url) as proxy,
        another_uploads(valkey, proxy, "secret/x") as turn,
    ):
        config = registry.put_blob("secret/x", b"{}")
        url = f"{registry.url}/v2/secret/x/manifests/v1"
        tagged = await proxy.client.put(
            url, content=manifest_of([config]), headers={"Content-Type": OCI_MANIFEST}, auth=("ann", "pw-ann")
        )
        assert tagged.status_code == 201
        registry.play(*([HIDES] if hides else []))
        bob = await proxy.client.head(f"/v2/bob/app/blobs/{DIGEST}", auth=("bob", "pw-bob"))
        assert bob.status_code == 404
        assert waiting_on(valkey, proxy) == 0
        registry.clear_script()
        ann = asyncio.create_task(proxy.client.head(f"/v2/ann/app/blobs/{DIGEST}", auth=("ann", "pw-ann")))
        await until(lambda: waiting_on(valkey, proxy) == 1)
        registry.put_blob("secret/x", DATA)
        await turn.publish()
        assert (await ann).status_code == 200
        assert metric(proxy, "wait_seconds_count") == 1


async def test_a_hold_is_bounded_whatever_the_registry_does(valkey: Server) -> None:
    """A slow registry does not make a HEAD wait longer than the limit."""
    slow = Fault(method="HEAD", path="/v2/base/*", times=None, delay=50.0)
    async with (
        ScriptedRegistry(faults=[slow]) as registry,
        proxy_on(valkey, registry.url, hold=0.2) as proxy,
        another_uploads(valkey, proxy, "base"),
    ):
        assert (await proxy.client.head(f"/v2/app/blobs/{DIGEST}")).status_code == 404


async def test_a_puller_is_never_held(valkey: Server) -> None:
    """A HEAD with a token for a pull does not wait, since nothing would be mounted for it."""
    auth = TokenAuth(users={}, grants={})
    async with (
        ScriptedRegistry(RegistryOptions(auth=auth)) as registry,
        proxy_on(valkey, registry.url) as proxy,
        another_uploads(valkey, proxy, "base"),
    ):
        assert (await proxy.client.head(f"/v2/app/blobs/{DIGEST}")).status_code == 401
        assert metric(proxy, "wait_seconds_count") == 0


async def test_nobody_waits_for_an_upload_that_may_not_be_mounted_from(tmp_path: Path, valkey: Server) -> None:
    """Nobody waits for an upload into a repository that `--allow-source` does not allow."""
    async with (
        ScriptedRegistry() as registry,
        proxy_on(valkey, registry.url, spool=tmp_path, allow_sources=("base/*",), hold=50.0) as proxy,
        another_uploads(valkey, proxy, "secret/x"),
    ):
        assert (await proxy.client.head(f"/v2/app/blobs/{DIGEST}")).status_code == 404
        assert (await push_spooled(proxy, "app")).status_code == 201
        assert registry.uploads(DIGEST) == 1


async def test_a_strangers_lease_holds_nobody_for_ever(tmp_path: Path, valkey: Server) -> None:
    """Behind a lease that never ends a HEAD is answered 404 in time, and an upload ends within its own limit."""
    async with (
        ScriptedRegistry() as registry,
        proxy_on(valkey, registry.url, spool=tmp_path, wait=0.4, hold=0.2) as proxy,
    ):
        with valkey.client() as client:
            client.set(Keys().lease(DIGEST, proxy.registry), b'{"dest":"base"}', ex=365 * 86400)
        assert (await proxy.client.head(f"/v2/app/blobs/{DIGEST}")).status_code == 404
        assert (await push_spooled(proxy, "app")).status_code == 201
        assert registry.uploads(DIGEST) == 1
