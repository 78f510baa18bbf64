"""The receiver of events over HTTP: as a service of its own, and in the proxy."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from crossmount.asyncio import (
    ClientOptions,
    IndexUnavailableError,
    InvalidInputError,
    MemoryMountIndex,
    Reference,
    Repository,
    Sighting,
    push,
)
from crossmount.discovery import EventFeed
from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.proxy.event_receiver import MESSAGE_MAX, EventListenerSettings, event_listener
from crossmount.proxy.http.serving import ListenAddress
from crossmount.proxy.settings import ServerLimits
from crossmount.testing import ScriptedRegistry
from support.holdings import put_image
from support.images import MadeImage, make_layers, make_layout
from support.proxies import proxy_before
from support.registries import DockerRegistry, StartRegistry, run
from support.registry_kit import QUICK
from support.waiting import PATIENCE, until

SECRET = "a-secret-of-the-registry"
BEARER = {"Authorization": f"Bearer {SECRET}"}
PLAIN = ClientOptions(plain_http=True, retry=QUICK)
HERE = ListenAddress("127.0.0.1", 0)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with the secret."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    return file


@asynccontextmanager
async def listening_for(
    registry: str, index: MemoryMountIndex, secret: Path | None
) -> AsyncIterator[tuple[httpx.AsyncClient, EventFeed]]:
    """Give a client of an event listener, and its feed."""
    settings = EventListenerSettings(
        registry=registry, address=HERE, secret=secret, options=PLAIN, limits=ServerLimits(grace=1.0)
    )
    async with (
        event_listener(settings, index) as (service, feed, _),
        httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client,
    ):
        yield client, feed


def pushed(name: str, digest: Digest) -> bytes:
    """Return a notification of a manifest's push."""
    target = {"repository": name, "digest": digest, "mediaType": OCI_MANIFEST}
    return json.dumps({"events": [{"action": "push", "target": target}]}).encode()


async def test_an_event_is_taken_before_it_is_worked_on(scripted_registry: ScriptedRegistry, secret: Path) -> None:
    """An event is answered with 202 at once, and its layers are in the index later."""
    index = MemoryMountIndex()
    manifest = put_image(scripted_registry, "a", "1", [b"layer"])
    async with listening_for(scripted_registry.address, index, secret) as (client, feed):
        for path in ("/", "/_crossmount/events"):
            answer = await client.post(path, content=pushed("a", manifest), headers=BEARER)
            assert (answer.status_code, answer.content) == (202, b"")
        await feed.settled()
        assert [found.name for found in await index.locations(Digest.of(b"layer"))] == ["a"]
        assert (await client.get("/_crossmount/healthz")).text == "ok\n"


async def test_nobody_without_the_secret_is_listened_to(scripted_registry: ScriptedRegistry, secret: Path) -> None:
    """A request without the secret gets a 401; with the secret, a malformed message is refused too."""
    async with listening_for(scripted_registry.address, MemoryMountIndex(), secret) as (client, feed):
        message = pushed("a", Digest.of(b"x"))
        for headers in ({}, {"Authorization": "Bearer wrong-wrong-wrong-wrong"}):
            answer = await client.post("/", content=message, headers=headers)
            assert answer.status_code == 401
            assert "Basic" in answer.headers["www-authenticate"]
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/", headers=BEARER)).status_code == 405
        assert (await client.post("/elsewhere", content=message, headers=BEARER)).status_code == 404
        assert (await client.post("/", content=b"[]", headers=BEARER)).status_code == 400
        assert (await client.post("/", content=b"{}", headers=BEARER)).status_code == 202
        assert (await client.post("/", content=b" " * (MESSAGE_MAX + 1), headers=BEARER)).status_code == 413
        assert (await client.post("/", content=message, auth=("", SECRET))).status_code == 202
        assert (await client.post("/", content=message, headers={"Authorization": SECRET})).status_code == 202
        await feed.settled()
    assert scripted_registry.matching(path="/v2/a/manifests/*")


async def test_a_queue_that_is_full_says_when_to_come_again(
    scripted_registry: ScriptedRegistry, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full queue is a 503 with Retry-After, since registries send an event until it is accepted."""
    monkeypatch.setattr("crossmount.discovery.feed.WAITING_MAX", 0)
    async with listening_for(scripted_registry.address, MemoryMountIndex(), secret) as (client, _):
        answer = await client.post("/", content=pushed("a", Digest.of(b"x")), headers=BEARER)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_an_index_that_is_away_says_when_to_come_again(
    scripted_registry: ScriptedRegistry, secret: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed index is a 503 with Retry-After, and the log says that no events are accepted."""

    class Away(MemoryMountIndex):
        async def record(self, sightings: Iterable[Sighting]) -> None:
            del sightings
            raise IndexUnavailableError("nobody there")

    manifest = put_image(scripted_registry, "a", "1", [b"layer"])
    async with listening_for(scripted_registry.address, Away(), secret) as (client, feed):
        assert (await client.post("/", content=pushed("a", manifest), headers=BEARER)).status_code == 202
        await until(lambda: feed.holds)
        answer = await client.post("/", content=pushed("a", Digest.of(b"x")), headers=BEARER)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "the index does not answer: send it again" in answer.text
    assert "no events are taken until the index answers: nobody there" in caplog.text
    own = [record.getMessage() for record in caplog.records if record.name != "crossmount.index"]
    assert not any("going on without" in line for line in own)


async def test_without_a_secret_only_this_machine_is_listened_to() -> None:
    """Without a secret events are accepted on loopback only, since they can remove sources from the index."""
    settings = EventListenerSettings(registry="r.example", address=ListenAddress("0.0.0.0", 0))  # noqa: S104 that is the point
    with pytest.raises(InvalidInputError, match="--secret-file"):
        async with event_listener(settings, MemoryMountIndex()):
            pass
    async with listening_for("r.example", MemoryMountIndex(), None) as (client, _):
        assert (await client.post("/", content=b"{}")).status_code == 202


def notifying(start: StartRegistry, url: str) -> DockerRegistry:
    """Start a real registry that sends its events to a URL."""
    endpoint = (
        f"{{name: crossmount, url: '{url}', headers: {{Authorization: ['Bearer {SECRET}']}}, "
        "timeout: 5s, threshold: 3, backoff: 100ms}"
    )
    return start(notify=f"notifications: {{endpoints: [{endpoint}]}}")


def skopeo_push(image: MadeImage, registry: DockerRegistry, name: str) -> None:
    """Push past crossmount."""
    dest = f"docker://{registry.address}/{name}"
    run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{image.path}:latest", dest)


async def test_a_push_past_crossmount_is_mountable_a_moment_later(
    start_docker_registry: StartRegistry, tmp_path: Path, secret: Path
) -> None:
    """A real registry's events add pushed layers, and remove deleted ones after a check at the registry."""
    image = make_layout(tmp_path / "image", make_layers(3))
    layers = [layer.digest for layer in image.layers]
    index = MemoryMountIndex()
    async with listening_for("registry.invalid", index, secret) as (client, _):
        gate = str(client.base_url)
        registry = notifying(start_docker_registry, gate)
    # the registry's port is known only now, so a second listener takes the address of the first
    address = ListenAddress("127.0.0.1", httpx.URL(gate).port or 0)
    settings = EventListenerSettings(registry=registry.address, address=address, secret=secret, options=PLAIN)
    async with event_listener(settings, index) as (_, feed, _):
        skopeo_push(image, registry, "team/one:1")
        await until(lambda: feed.worked["ManifestArrived"] >= 1)
        await feed.settled()
        dest = Reference.parse(f"{registry.address}/team/two:1")
        report = await push(image.path, dest, index=index, options=PLAIN)
        assert (report.count("mounted"), report.count("uploaded")) == (4, 0)

        one = Repository(registry.address, "team/one")
        async with httpx.AsyncClient(base_url=registry.url) as direct:
            before = len(heads(registry, "team/one"))
            gone = await direct.delete(f"/v2/team/one/manifests/{image.root.digest}")
            assert gone.status_code == 202
            await until(lambda: feed.worked["Deleted"] >= 1)
            await feed.settled()
            asked = heads(registry, "team/one")[before:]
            assert {path.rpartition("/")[2] for path in asked} >= set(layers)
            assert all([one in await index.locations(layer) for layer in layers])  # the blobs are still there
            await direct.delete(f"/v2/team/one/blobs/{layers[0]}")
            await until(lambda: feed.worked["forgotten"] >= 1)
            await feed.settled()
        assert one not in await index.locations(layers[0])
        assert one in await index.locations(layers[1])


def heads(registry: DockerRegistry, name: str) -> list[str]:
    """Return the blobs of a repository that were asked for."""
    return [a.path for a in registry.accesses() if a.method == "HEAD" and a.path.startswith(f"/v2/{name}/blobs/")]


async def test_the_proxy_takes_events_too(scripted_registry: ScriptedRegistry, secret: Path) -> None:
    """The proxy receives events at an endpoint of its own if it has a file of secrets."""
    manifest = put_image(scripted_registry, "a", "1", [b"layer"])
    page = "/_crossmount/events"
    async with proxy_before(scripted_registry.url, events_secret=secret) as proxy:
        assert (await proxy.client.post(page, content=pushed("a", manifest))).status_code == 401
        answer = await proxy.client.post(page, content=pushed("a", manifest), headers=BEARER)
        assert answer.status_code == 202
        assert proxy.app.endpoints.events is not None
        await proxy.app.endpoints.events.feed.settled()
        assert [found.name for found in await proxy.index.locations(Digest.of(b"layer"))] == ["a"]
    async with proxy_before(scripted_registry.url) as proxy:
        assert (await proxy.client.get(page)).status_code == 404
        assert (await proxy.client.post(page, content=b"{}", headers=BEARER)).status_code in {404, 405}
