"""Uploads that go on to the registry while they arrive: clients that asked for the blob before they send it."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.proxy.uploads.expected import EXPECTED_MAX, sends_as_named
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.testing import BasicAuth, CutReceiving, Fault, Grant, RegistryOptions, Reply, ScriptedRegistry
from crossmount.testing.options import ANYTHING
from support.proxies import ProxyUnderTest, begin_upload, error_code, proxy_before
from support.proxy_turns import DATA as LEASED
from support.proxy_turns import DIGEST as LEASED_DIGEST
from support.proxy_turns import another_uploads, fleet_of, lease_of, proxy_on, waiting_on
from support.servers import Server
from support.waiting import PATIENCE, until

DATA = os.urandom(3 * 1024 * 1024 + 17)
DIGEST = Digest.of(DATA)
MOST = 1000 * 1024
"""Bytes that have gone on when one batch of the spool has, the rounding of shares aside."""

CRANE = {"User-Agent": "crane/v0.20.2 go-containerregistry/v0.20.2"}


async def ask(proxy: ProxyUnderTest, name: str, digest: Digest = DIGEST, **details: Any) -> int:
    """Ask for a blob, as skopeo and crane do before an upload."""
    return (await proxy.client.head(f"/v2/{name}/blobs/{digest}", **details)).status_code


async def push(proxy: ProxyUnderTest, name: str, data: bytes = DATA, **details: Any) -> httpx.Response:
    """Push like skopeo: HEAD, POST, PATCH with a length, PUT."""
    assert await ask(proxy, name, Digest.of(data), **details) == 404
    location = await begin_upload(proxy, name, **details)
    assert (await proxy.client.patch(location, content=data, **details)).status_code == 202
    return await proxy.client.put(f"{location}?digest={Digest.of(data)}", **details)


def gated(data: bytes, gate: asyncio.Event, *, open_at: int = 2 * 1024 * 1024) -> AsyncIterator[bytes]:
    """Yield data, the last of it once a gate is open."""

    async def parts() -> AsyncIterator[bytes]:
        yield data[:open_at]
        await gate.wait()
        yield data[open_at:]

    return parts()


def passed_on(proxy: ProxyUnderTest) -> int:
    """Return the bytes that went on to the registry, as the leases show them together."""
    return sum(held.sent or 0 for held in fleet_of(proxy)._keeper.held.values())


def shown(proxy: ProxyUnderTest) -> dict[Digest, int]:
    """Return the bytes that each lease shows."""
    return {held.lease.layer: held.sent or 0 for held in fleet_of(proxy)._keeper.held.values()}


def is_clean(proxy: ProxyUnderTest, registry: ScriptedRegistry) -> bool:
    """Return whether nothing is left of an upload: no lease, no session, no byte on disk."""
    assert proxy.app.core.spool is not None
    left = fleet_of(proxy)._keeper.held or proxy.app.core.spool.taken or len(proxy.app.core.sessions)
    return not left and registry.open_sessions == () and proxy.app.core.turns._paced._semaphore._value == 4096


async def test_a_blob_that_was_asked_for_goes_on_while_it_arrives(tmp_path: Path) -> None:
    """The registry has bytes of the blob before the client has sent all of them, and gets each byte once."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        gate = asyncio.Event()
        assert await ask(proxy, "a") == 404
        location = await begin_upload(proxy, "a")
        headers = {"Content-Length": str(len(DATA))}
        patch = asyncio.create_task(proxy.client.patch(location, content=gated(DATA, gate), headers=headers))
        await until(lambda: passed_on(proxy) >= 1024 * 1024)
        gate.set()
        assert (await patch).status_code == 202
        answer = await proxy.client.put(f"{location}?digest={DIGEST}")
        assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, DIGEST)
        assert (registry.uploads(DIGEST), registry.upload_bytes) == (1, len(DATA))
        assert len(registry.matching(method="PATCH")) == 1
        assert await proxy.learnt(DIGEST) == {"a"}
        assert is_clean(proxy, registry)


@pytest.mark.parametrize("asked", [DIGEST, Digest.of(b"another")], ids=["named", "another"])
async def test_an_upload_in_one_request(tmp_path: Path, asked: Digest) -> None:
    """A PUT with all bytes goes on at once if its blob was asked for, and else after it was read."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        assert await ask(proxy, "a", asked) == 404
        location = await begin_upload(proxy, "a")
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert answer.status_code == 201
        assert len(registry.matching(method="PATCH")) == (asked == DIGEST)
        assert (registry.uploads(DIGEST), registry.upload_bytes) == (1, len(DATA))
        assert is_clean(proxy, registry)


async def test_what_is_not_sent_early(tmp_path: Path) -> None:
    """A blob that nobody asked for, or that is compressed on its way, is read whole before it goes on."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        location = await begin_upload(proxy, "a")
        await proxy.client.patch(location, content=DATA)
        assert registry.bytes_received == 0
        await proxy.client.delete(location)
        assert await ask(proxy, "a") == 404
        location = await begin_upload(proxy, "a")
        opened = asyncio.Event()
        opened.set()
        await proxy.client.patch(location, content=gated(DATA, opened))
        assert registry.bytes_received == 0
        await proxy.client.delete(location)
        for number in range(EXPECTED_MAX + 1):
            await ask(proxy, "many", Digest.of(bytes([number])))
        location = await begin_upload(proxy, "many")
        await proxy.client.patch(location, content=DATA)
        assert registry.bytes_received == 0


async def test_a_client_that_asks_again_sends_what_it_asked_for(tmp_path: Path) -> None:
    """A blob of unknown length goes on while it arrives if its client asked twice, as skopeo does."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        for _ in range(2):
            assert await ask(proxy, "a") == 404
        gate, location = asyncio.Event(), await begin_upload(proxy, "a")
        patch = asyncio.create_task(proxy.client.patch(location, content=gated(DATA, gate)))
        await until(lambda: passed_on(proxy) >= MOST)
        gate.set()
        assert (await patch).status_code == 202
        assert (await proxy.client.put(f"{location}?digest={DIGEST}")).status_code == 201
        assert (registry.uploads(DIGEST), registry.upload_bytes) == (1, len(DATA))
        assert is_clean(proxy, registry)


async def test_one_blob_that_may_be_compressed_makes_the_next_uncertain(tmp_path: Path) -> None:
    """While a blob was asked for once, an upload of unknown length may be that one: it is read whole."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        for digest in (DIGEST, DIGEST, Digest.of(b"another")):
            assert await ask(proxy, "a", digest) == 404
        location, opened = await begin_upload(proxy, "a"), asyncio.Event()
        opened.set()
        await proxy.client.patch(location, content=gated(DATA, opened))
        assert registry.bytes_received == 0
        assert (await proxy.client.put(f"{location}?digest={DIGEST}")).status_code == 201


def test_clients_that_send_what_they_asked_for() -> None:
    """A known length, or a client that never compresses, says that the bytes are those that were asked for."""
    assert sends_as_named(10, None)
    assert sends_as_named(None, CRANE["User-Agent"])
    assert not sends_as_named(None, "skopeo/1.9.3")
    assert not sends_as_named(None, None)


async def test_a_blob_with_another_digest_is_mounted(tmp_path: Path) -> None:
    """If the last request names another blob than the client asked for, that one is mounted as always."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        registry.put_blob("base", DATA)
        await proxy.knows(DIGEST, "base")
        assert await ask(proxy, "a", Digest.of(b"another")) == 404
        location = await begin_upload(proxy, "a")
        await proxy.client.patch(location, content=DATA)
        answer = await proxy.client.put(f"{location}?digest={DIGEST}")
        assert (answer.status_code, registry.mounts(DIGEST), registry.uploads()) == (201, 1, 0)
        assert is_clean(proxy, registry)


async def test_wrong_bytes_are_refused(tmp_path: Path) -> None:
    """Bytes that do not have the digest that the client asked for are refused by the registry."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        assert await ask(proxy, "a") == 404
        location = await begin_upload(proxy, "a")
        await proxy.client.patch(location, content=DATA[:-1] + b"x")
        answer = await proxy.client.put(f"{location}?digest={DIGEST}")
        assert (answer.status_code, error_code(answer)) == (400, "DIGEST_INVALID")
        assert registry.uploads() == 0
        assert not fleet_of(proxy)._keeper.held


@pytest.mark.parametrize("after", [0, 2 * 1024 * 1024])
async def test_a_connection_that_breaks_is_resumed_from_the_disk(tmp_path: Path, after: int) -> None:
    """If the registry cuts the connection, the client notices nothing, and only the rest is sent again."""
    cut = Fault(method="PATCH", action=CutReceiving(after))
    async with ScriptedRegistry(faults=[cut]) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        assert (await push(proxy, "a")).status_code == 201
        assert registry.uploads(DIGEST) == 1
        assert registry.upload_bytes <= len(DATA) + 2 * 1024 * 1024
        assert is_clean(proxy, registry)


async def test_a_registry_that_restarts_gets_the_blob_anew(tmp_path: Path) -> None:
    """A session that the registry has forgotten in the middle is replaced, and the blob sent from the disk."""
    faults = [
        Fault(method="PATCH", action=Reply(status=404, code="BLOB_UPLOAD_UNKNOWN")),
        Fault(method="GET", path="*/uploads/*", action=Reply(status=404, code="BLOB_UPLOAD_UNKNOWN")),
    ]
    async with ScriptedRegistry(faults=faults) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        assert (await push(proxy, "a")).status_code == 201
        assert registry.uploads(DIGEST) == 1
        assert not fleet_of(proxy)._keeper.held


async def test_a_spool_that_fills_up_passes_the_rest_on(tmp_path: Path) -> None:
    """When there is no room left for a blob that goes on already, the rest follows it without the spool."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        object.__setattr__(proxy.app.core, "spool", SpoolFolder(tmp_path, limit=2 * 1024 * 1024 + 500_000))
        answer = await push(proxy, "a")
        assert answer.status_code == 201
        assert (registry.uploads(DIGEST), registry.upload_bytes) == (1, len(DATA))
        assert is_clean(proxy, registry)


async def test_a_client_that_is_gone_in_the_middle_has_no_lease(tmp_path: Path) -> None:
    """A client that hangs up releases its leases at once, and can come back and complete its upload."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        assert await ask(proxy, "a") == 404
        location = await begin_upload(proxy, "a")
        patch = asyncio.create_task(
            proxy.client.patch(
                location, content=gated(DATA, asyncio.Event()), headers={"Content-Length": str(len(DATA))}
            )
        )
        await until(lambda: bool(fleet_of(proxy)._keeper.held))
        patch.cancel()
        await until(lambda: not fleet_of(proxy)._keeper.held)
        status = await proxy.client.get(location)
        offset = int(status.headers["range"].partition("-")[2]) + 1
        rest = {"Content-Range": f"{offset}-{len(DATA) - 1}"}
        assert (await proxy.client.patch(location, content=DATA[offset:], headers=rest)).status_code == 202
        assert (await proxy.client.put(f"{location}?digest={DIGEST}")).status_code == 201
        assert registry.uploads(DIGEST) == 1
        assert is_clean(proxy, registry)


async def test_two_layers_of_one_client_go_on_together(tmp_path: Path) -> None:
    """A client that sends two layers at once has the leases of both; each layer is sent once."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        blobs = [DATA, os.urandom(len(DATA))]
        for data in blobs:
            assert await ask(proxy, "a", Digest.of(data), headers=CRANE) == 404
        gate, opened = asyncio.Event(), []
        for data in blobs:
            location = await begin_upload(proxy, "a")
            patch = asyncio.create_task(proxy.client.patch(location, content=gated(data, gate), headers=CRANE))
            opened.append((location, patch, Digest.of(data)))
        await until(lambda: passed_on(proxy) >= 2 * MOST)
        assert len(fleet_of(proxy)._keeper.held) == 2
        gate.set()
        for location, patch, digest in opened:
            assert (await patch).status_code == 202
            assert (await proxy.client.put(f"{location}?digest={digest}")).status_code == 201
        assert {registry.uploads(digest) for _, _, digest in opened} == {1}
        assert len(registry.matching(method="PATCH")) == 2
        assert is_clean(proxy, registry)


async def test_one_stream_is_progress_of_one_layer(tmp_path: Path) -> None:
    """A client that asks for many layers and sends one shows no more progress in all leases than it sends."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        digests = [Digest.of(bytes([number])) for number in range(7)]
        for digest in (DIGEST, *digests):
            assert await ask(proxy, "a", digest) == 404
        gate, location = asyncio.Event(), await begin_upload(proxy, "a")
        headers = {"Content-Length": str(len(DATA))}
        patch = asyncio.create_task(proxy.client.patch(location, content=gated(DATA, gate), headers=headers))
        await until(lambda: passed_on(proxy) >= MOST)
        assert len(shown(proxy)) == 8
        assert max(shown(proxy).values()) <= 2 * 1024 * 1024 // 8
        gate.set()
        assert (await patch).status_code == 202
        assert (await proxy.client.put(f"{location}?digest={DIGEST}")).status_code == 201
        await until(lambda: is_clean(proxy, registry))


async def test_a_named_stream_is_progress_of_its_layer(tmp_path: Path) -> None:
    """An upload that names its digest is no progress of another layer that its client asked for."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        other = os.urandom(len(DATA))
        for digest in (DIGEST, Digest.of(other)):
            assert await ask(proxy, "a", digest) == 404
        gate, headers = asyncio.Event(), {"Content-Length": str(len(DATA))}
        location = await begin_upload(proxy, "a")
        patch = asyncio.create_task(
            proxy.client.patch(location, content=gated(other, gate, open_at=3 * MOST // 2), headers=headers)
        )
        await until(lambda: passed_on(proxy) >= MOST)
        before = shown(proxy)
        assert len(before) == 2
        named = await begin_upload(proxy, "a")
        put = asyncio.create_task(
            proxy.client.put(f"{named}?digest={DIGEST}", content=gated(DATA, gate), headers=headers)
        )
        await until(lambda: shown(proxy)[DIGEST] >= before[DIGEST] + MOST)
        assert shown(proxy)[Digest.of(other)] < before[Digest.of(other)] + MOST // 2
        gate.set()
        assert ((await put).status_code, (await patch).status_code) == (201, 202)
        assert (await proxy.client.put(f"{location}?digest={Digest.of(other)}")).status_code == 201


async def test_two_clients_that_look_like_one_send_a_layer_once(tmp_path: Path) -> None:
    """Of two uploads with the same first bytes one goes on; the other waits, and finds the layer there."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        await ask(proxy, "a", Digest.of(b"another layer of theirs"))
        answers = await asyncio.gather(push(proxy, "a"), push(proxy, "a"))
        assert {answer.status_code for answer in answers} == {201}
        assert registry.uploads(DIGEST) == 1
        assert is_clean(proxy, registry)


async def test_two_runners_through_two_proxies_send_a_layer_once(tmp_path: Path, valkey: Server) -> None:
    """Two runners that push the same new layer in the same second upload it once: the second one mounts it."""
    slow = Fault(method="PUT", times=None, delay=0.3)
    async with (
        ScriptedRegistry(faults=[slow]) as registry,
        proxy_on(valkey, registry.url, spool=tmp_path / "1") as one,
        proxy_on(valkey, registry.url, spool=tmp_path / "2") as two,
    ):
        answers = await asyncio.gather(push(one, "team/one", LEASED), push(two, "team/two", LEASED))
        assert {answer.status_code for answer in answers} == {201}
        assert (registry.uploads(LEASED_DIGEST), registry.mounts(LEASED_DIGEST)) == (1, 1)
        assert registry.upload_bytes == len(LEASED)
        assert lease_of(valkey, one) is None


async def test_a_layer_that_another_uploads_is_not_sent_early(tmp_path: Path, valkey: Server) -> None:
    """A client waits for another's upload that began between its question and its first byte."""
    async with ScriptedRegistry() as registry, proxy_on(valkey, registry.url, spool=tmp_path) as proxy:
        assert await ask(proxy, "app", LEASED_DIGEST) == 404
        async with another_uploads(valkey, proxy, "base") as turn:
            location = await begin_upload(proxy, "app")
            await proxy.client.patch(location, content=LEASED)
            put = asyncio.create_task(proxy.client.put(f"{location}?digest={LEASED_DIGEST}"))
            await until(lambda: waiting_on(valkey, proxy) == 1)
            registry.put_blob("base", LEASED)
            await turn.publish()
            assert (await put).status_code == 201
        assert (registry.mounts(LEASED_DIGEST), registry.bytes_received) == (1, 0)


async def test_a_dripping_client_has_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops in the middle loses its leases, so that others need not wait for it."""
    monkeypatch.setattr("crossmount.proxy.uploads.leases.PACED_SECONDS", 0.3)
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        assert await ask(proxy, "slow") == 404
        location = await begin_upload(proxy, "slow")
        headers = {"Content-Length": str(len(DATA))}
        drip = asyncio.create_task(
            proxy.client.patch(location, content=gated(DATA, asyncio.Event()), headers=headers)
        )
        await until(lambda: bool(fleet_of(proxy)._keeper.held))
        async with asyncio.timeout(PATIENCE):
            answer = await push(proxy, "app")
        assert answer.status_code == 201
        drip.cancel()


async def test_a_private_upload_does_not_change_what_happens(tmp_path: Path) -> None:
    """A caller's upload goes on early although somebody uploads the layer where the caller may not read."""
    users = {"ann": "pw-ann", "bob": "pw-bob"}
    grants = {"ann": (Grant("*", ANYTHING),), "bob": (Grant("bob/*", ANYTHING),)}
    options = RegistryOptions(auth=BasicAuth(users=users, grants=grants))
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        gate, ann, headers = asyncio.Event(), ("ann", "pw-ann"), {"Content-Length": str(len(DATA))}
        assert await ask(proxy, "secret/x", auth=ann) == 404
        location = await begin_upload(proxy, "secret/x", auth=ann)
        first = asyncio.create_task(
            proxy.client.patch(location, content=gated(DATA, gate), headers=headers, auth=ann)
        )
        await until(lambda: bool(fleet_of(proxy)._keeper.held))
        bob = await push(proxy, "bob/app", auth=("bob", "pw-bob"))
        assert bob.status_code == 201
        gate.set()
        await first
        done = await proxy.client.put(f"{location}?digest={DIGEST}", auth=ann)
        assert (done.status_code, registry.uploads(DIGEST), registry.mounts(DIGEST)) == (201, 2, 0)


async def test_a_layer_that_may_only_be_mounted_is_not_sent_early(tmp_path: Path) -> None:
    """No byte reaches the registry while the client is expected to send a blob that is flagged must-mount."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        await proxy.index.add_source(DIGEST, proxy.repository("gone"), must_mount=True)
        assert await ask(proxy, "a") == 404
        location = await begin_upload(proxy, "a")
        await proxy.client.patch(location, content=DATA)
        answer = await proxy.client.put(f"{location}?digest={DIGEST}")
        assert (answer.status_code, registry.bytes_received) == (403, 0)
