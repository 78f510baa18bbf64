"""Uploads of one layer through a proxy: one sends it, the others wait and mount."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from crossmount.fleet import Fleet, Slots, Upload
from crossmount.index import Keys, RegistryTraits, open_index
from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.testing import BasicAuth, Fault, Grant, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from crossmount.testing.auth import ANYTHING
from support.proxies import ProxyUnderTest, begin_upload, error_code, proxy_before
from support.scripted import manifest_of, push_manifest
from support.servers import Server
from support.waiting import until

DATA = os.urandom(1024 * 1024 + 17)
DIGEST = Digest.of(DATA)
OTHER = os.urandom(1024 * 1024 + 17)
LATER = 60.0


async def push_spooled(proxy: ProxyUnderTest, name: str, data: bytes = DATA, **details: Any) -> httpx.Response:
    """Upload as a client does that names the digest last."""
    location = await begin_upload(proxy, name, **details)
    await proxy.client.patch(location, content=data, **details)
    return await proxy.client.put(f"{location}?digest={Digest.of(data)}", **details)


def metric(proxy: ProxyUnderTest, name: str, **labels: str) -> float:
    """Return a metric's value."""
    return proxy.app.core.metrics._registry.get_sample_value(f"crossmount_proxy_{name}", labels) or 0.0


def lease_of(server: Server, proxy: ProxyUnderTest, digest: Digest = DIGEST) -> bytes | None:
    """Return the lease of a layer."""
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        found = client.get(Keys().lease(digest, proxy.registry))
        assert found is None or isinstance(found, bytes)
        return found


def waiting_on(server: Server, proxy: ProxyUnderTest) -> int:
    """Return how many are shown as waiting for DATA."""
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        count = client.zcard(Keys().waiters(DIGEST, proxy.registry))
        assert isinstance(count, int)
        return count


@asynccontextmanager
async def proxy_on(server: Server, registry: str, **settings: Any) -> AsyncIterator[ProxyUnderTest]:
    """Run a proxy whose index lies on a real server."""
    async with open_index(server.url) as index, proxy_before(registry, index=index, **settings) as proxy:
        yield proxy


@asynccontextmanager
async def another_uploads(server: Server, proxy: ProxyUnderTest, name: str) -> AsyncIterator[Upload]:
    """Be another runner that uploads DATA into a repository, until the block ends."""
    async with open_index(server.url) as index, Fleet(index) as fleet:
        turn = await fleet.turn(DIGEST, proxy.repository(name), len(DATA), slots=Slots(1))
        assert isinstance(turn, Upload)
        try:
            yield turn
        finally:
            await turn.release()


async def test_one_layer_of_many_clients_is_uploaded_once(tmp_path: Path) -> None:
    """Eight clients end the same upload in the same moment: one is sent on, seven are mounted."""
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
    """Who waits for an upload into its own repository finds the layer there."""
    slow = Fault(method="PUT", delay=0.2)
    async with ScriptedRegistry(faults=[slow]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        answers = await asyncio.gather(*(push_spooled(proxy, "app") for _ in range(3)))
        assert {answer.status_code for answer in answers} == {201}
        assert (registry.uploads(DIGEST), registry.mounts(DIGEST)) == (1, 0)
        assert registry.open_sessions == ()


async def test_an_upload_waits_for_another_process(tmp_path: Path, valkey: Server) -> None:
    """Somebody else in the fleet uploads the layer: it is mounted when it is there, and not a byte is sent."""
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
    """Its digest is named before its bytes: one client's are sent on, the others' are not even kept."""
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
    """One that is refused hands over, and is told what the registry said."""
    refusal = Fault(method="PUT|POST", query="*digest=*", action=Reply(status=413, code="SIZE_INVALID"))
    async with ScriptedRegistry(faults=[refusal]) as registry, proxy_before(registry.url) as proxy:
        refused = await way(proxy, "app")
        assert (refused.status_code, error_code(refused)) == (413, "SIZE_INVALID")
        assert (await way(proxy, "app")).status_code == 201
        await until(lambda: not proxy.app.core.turns._fleet._heart.held)


async def test_a_mount_request_is_held_too(valkey: Server) -> None:
    """A client that asks to mount from nowhere in particular is told when the layer is there."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url) as proxy:
        async with another_uploads(valkey, proxy, "base") as turn:
            post = asyncio.create_task(proxy.client.post(f"/v2/app/blobs/uploads/?mount={DIGEST}"))
            await until(lambda: waiting_on(valkey, proxy) == 1)
            registry.put_blob("base", DATA)
            await turn.publish()
            assert (await post).status_code == 201
        assert registry.open_sessions == ()


async def test_a_lease_ends_with_the_upload(tmp_path: Path, valkey: Server) -> None:
    """What the proxy uploads is known to the whole fleet as soon as the lease is gone."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url, spool=tmp_path) as proxy:
        assert (await push_spooled(proxy, "app")).status_code == 201
        assert lease_of(valkey, proxy) is None
        async with open_index(valkey.url) as index:
            assert await index.sources(DIGEST, proxy.repository("x")) == (proxy.repository("app"),)


async def test_an_upload_that_fails_hands_over(tmp_path: Path) -> None:
    """The registry refuses the first: the second sends its own, without waiting for any lease to run out."""
    refusal = Fault(method="PUT", delay=0.2, action=Reply(status=413, code="SIZE_INVALID"))
    async with ScriptedRegistry(faults=[refusal]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        first = asyncio.create_task(push_spooled(proxy, "one"))
        await until(lambda: bool(registry.matching(method="POST")))
        second = await push_spooled(proxy, "two")
        assert sorted([(await first).status_code, second.status_code]) == [201, 413]
        assert registry.uploads(DIGEST) == 1


@pytest.mark.parametrize(("data", "wait"), [(DATA, 0.0), (b"small", LATER)])
async def test_what_is_not_waited_for(tmp_path: Path, valkey: Server, data: bytes, wait: float) -> None:
    """With --wait 0 nothing is, and a small layer never is: it is uploaded though somebody else does that too."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url, spool=tmp_path, wait=wait) as proxy:
        async with another_uploads(valkey, proxy, "base"):
            assert (await push_spooled(proxy, "app", data)).status_code == 201
            assert (await proxy.client.head(f"/v2/app/blobs/{Digest.of(data)}")).status_code == 200
        assert registry.uploads(Digest.of(data)) == 1


async def test_a_strangers_lease_holds_nobody_for_ever(tmp_path: Path, valkey: Server) -> None:
    """Behind a lease without end a HEAD is told 404 in time, and an upload ends within its own patience."""
    async with (
        ScriptedRegistry() as registry,
        proxy_on(valkey, registry.url, spool=tmp_path, wait=0.4, hold=0.2) as proxy,
    ):
        with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
            client.set(Keys().lease(DIGEST, proxy.registry), b'{"dest":"base"}', ex=365 * 86400)
        assert (await proxy.client.head(f"/v2/app/blobs/{DIGEST}")).status_code == 404
        assert (await push_spooled(proxy, "app")).status_code == 201
        assert registry.uploads(DIGEST) == 1


async def test_a_head_is_held_while_another_uploads(tmp_path: Path, valkey: Server) -> None:
    """The client asks while the layer is on its way: it is told 200, and sends nothing."""
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
    """Without any server too: who uploads here is known here."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        fleet = proxy.app.core.turns._fleet
        turn = await fleet.turn(DIGEST, proxy.repository("base"), len(DATA), slots=Slots(1))
        assert isinstance(turn, Upload)
        heads = [asyncio.create_task(proxy.client.head(f"/v2/{name}/blobs/{DIGEST}")) for name in ("a", "base")]
        await until(lambda: len(fleet._turns) == 2)
        registry.put_blob("base", DATA)
        await turn.publish()
        await turn.release()
        assert [(await head).status_code for head in heads] == [200, 200]
        assert registry.mounts(DIGEST) == 1


async def test_many_held_heads_keep_nobody_else_waiting() -> None:
    """However many are held, a HEAD for another blob is answered at once."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("base", OTHER)
        fleet = proxy.app.core.turns._fleet
        turn = await fleet.turn(DIGEST, proxy.repository("base"), len(DATA), slots=Slots(1))
        assert isinstance(turn, Upload)
        heads = [asyncio.create_task(proxy.client.head(f"/v2/a-{i}/blobs/{DIGEST}")) for i in range(80)]
        await until(lambda: len(fleet._turns) == 80)
        assert (await proxy.client.head(f"/v2/base/blobs/{Digest.of(OTHER)}")).status_code == 200
        await turn.release()
        assert {(await head).status_code for head in heads} == {404}


HIDES = Fault(path="/v2/secret/*", times=None, action=Reply(status=404, code="NAME_UNKNOWN"))


@pytest.mark.parametrize("hides", [False, True])
async def test_a_head_is_not_held_for_one_who_may_not_read_the_uploaders_repository(
    hides: bool, valkey: Server
) -> None:
    """Nothing, a clock included, tells a caller of an upload into somebody's private repository."""
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


async def test_nobody_waits_for_an_upload_that_may_not_be_mounted_from(tmp_path: Path, valkey: Server) -> None:
    """`--allow-source` holds for waiting: a HEAD is answered, and an upload goes on, as if nobody uploaded."""
    async with (
        ScriptedRegistry() as registry,
        proxy_on(valkey, registry.url, spool=tmp_path, allow_sources=("base/*",), hold=50.0) as proxy,
        another_uploads(valkey, proxy, "secret/x"),
    ):
        assert (await proxy.client.head(f"/v2/app/blobs/{DIGEST}")).status_code == 404
        assert (await push_spooled(proxy, "app")).status_code == 201
        assert registry.uploads(DIGEST) == 1


async def test_a_hold_is_bounded_whatever_the_registry_does(valkey: Server) -> None:
    """A registry that takes its time with our question does not stretch the answer to the client's."""
    slow = Fault(method="HEAD", path="/v2/base/*", times=None, delay=50.0)
    async with (
        ScriptedRegistry(faults=[slow]) as registry,
        proxy_on(valkey, registry.url, hold=0.2) as proxy,
        another_uploads(valkey, proxy, "base"),
    ):
        assert (await proxy.client.head(f"/v2/app/blobs/{DIGEST}")).status_code == 404


async def test_a_question_that_fails_is_no_failure(tmp_path: Path, valkey: Server) -> None:
    """Somebody brought the layer into this very repository, and the registry does not say so: it is uploaded."""
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
    """Who may not mount from where the layer was brought sends its own."""
    users = {"ann": "pw-ann", "bob": "pw-bob"}
    grants = {"ann": (Grant("*", ANYTHING),), "bob": (Grant("bob/*", ANYTHING),)}
    options = RegistryOptions(auth=BasicAuth(users=users, grants=grants))
    slow = Fault(method="PUT", delay=0.2)
    async with (
        ScriptedRegistry(options, faults=[slow]) as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
    ):
        ann = asyncio.create_task(push_spooled(proxy, "secret/x", auth=("ann", "pw-ann")))
        await until(lambda: bool(proxy.app.core.turns._fleet._heart.held))
        bob = await push_spooled(proxy, "bob/app", auth=("bob", "pw-bob"))
        assert ((await ann).status_code, bob.status_code) == (201, 201)
        assert (registry.uploads(DIGEST), registry.mounts(DIGEST)) == (2, 0)


async def test_a_puller_is_never_held(valkey: Server) -> None:
    """A token that was asked for to pull answers a HEAD at once: nothing is to be mounted for it."""
    auth = TokenAuth(users={}, grants={})
    async with (
        ScriptedRegistry(RegistryOptions(auth=auth)) as registry,
        proxy_on(valkey, registry.url) as proxy,
        another_uploads(valkey, proxy, "base"),
    ):
        assert (await proxy.client.head(f"/v2/app/blobs/{DIGEST}")).status_code == 401
        assert metric(proxy, "wait_seconds_count") == 0


class TestAfterManifest:
    """A registry that mounts a layer only once a manifest in the source repository references it."""

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
        """Others wait past the blob's upload, and mount when the manifest was accepted."""
        assert (await push_spooled(proxy, "one")).status_code == 201
        assert lease_of(valkey, proxy) is not None
        second = asyncio.create_task(push_spooled(proxy, "two"))
        await until(lambda: len(proxy.app.core.turns._fleet._turns) == 1)
        accepted = await push_manifest(proxy.client, "one", "v1", manifest_of([DIGEST]))
        assert accepted.status_code == 201
        assert (await second).status_code == 201
        assert (self.registry.uploads(DIGEST), self.registry.mounts(DIGEST)) == (1, 1)
        await until(lambda: lease_of(valkey, proxy) is None)

    async def test_two_pushes_never_wait_for_each_other(self, proxy: ProxyUnderTest) -> None:
        """Each has one layer and wants the other's: neither waits, and all four uploads are there at once."""
        await asyncio.gather(push_spooled(proxy, "one", DATA), push_spooled(proxy, "two", OTHER))
        crossed = await asyncio.gather(push_spooled(proxy, "one", OTHER), push_spooled(proxy, "two", DATA))
        assert {answer.status_code for answer in crossed} == {201}
        assert self.registry.uploads() == 4

    async def test_a_wait_ends_when_its_push_comes_to_keep_a_lease(
        self, proxy: ProxyUnderTest, valkey: Server
    ) -> None:
        """One that waits while another of its layers is still on its way waits no more when that one is kept."""
        async with another_uploads(valkey, proxy, "base"):
            waits = asyncio.create_task(push_spooled(proxy, "one", DATA))
            await until(lambda: waiting_on(valkey, proxy) == 1)
            assert (await push_spooled(proxy, "one", OTHER)).status_code == 201
            assert (await waits).status_code == 201
        assert self.registry.uploads(DIGEST) == 1

    async def test_a_push_that_is_given_up_keeps_nothing(self, proxy: ProxyUnderTest, valkey: Server) -> None:
        """No manifest comes: the lease is let go when nothing goes on in its repository any more."""
        assert (await push_spooled(proxy, "one")).status_code == 201
        turns = proxy.app.core.turns
        await turns.release_quiet(lambda _: False)
        assert lease_of(valkey, proxy) is not None  # not for long yet
        turns._kept._clock = lambda: float("inf")
        await turns.release_quiet(lambda name: name == "one")
        assert lease_of(valkey, proxy) is not None
        await turns.release_quiet(lambda _: False)
        assert lease_of(valkey, proxy) is None

    async def test_both_leases_of_one_layer_end(self, proxy: ProxyUnderTest, valkey: Server) -> None:
        """Two clients brought one layer into one repository, one of them without waiting: both turns end."""
        assert (await push_spooled(proxy, "one")).status_code == 201
        assert (await push_spooled(proxy, "one")).status_code == 201  # who keeps a lease does not wait
        assert self.registry.uploads(DIGEST) == 2
        accepted = await push_manifest(proxy.client, "one", "v1", manifest_of([DIGEST]))
        assert accepted.status_code == 201
        await until(lambda: lease_of(valkey, proxy) is None)

    async def test_a_stop_lets_go_of_what_is_kept(self, proxy: ProxyUnderTest, valkey: Server) -> None:
        """Nobody waits for a proxy that is no more."""
        assert (await push_spooled(proxy, "one")).status_code == 201
        await proxy.app.core.turns.aclose()
        assert lease_of(valkey, proxy) is None


async def test_a_refusal_is_the_registrys_own(tmp_path: Path) -> None:
    """An upload that took its turn and is refused says why."""
    refusal = Fault(method="PUT", times=None, action=Reply(status=403, code="DENIED"))
    async with ScriptedRegistry(faults=[refusal]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        answer = await push_spooled(proxy, "app")
        assert (answer.status_code, error_code(answer)) == (403, "DENIED")
        assert proxy.app.core.turns._fleet._heart.held == {}
