"""A registry's events keep the index up to date."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossmount.asyncio import (
    ClientOptions,
    EventFeed,
    IndexUnavailableError,
    InvalidInputError,
    MemoryMountIndex,
    RegistryTraits,
    Repository,
    Sighting,
)
from crossmount.discovery import feed as feeding
from crossmount.index import MountIndex, guarded_calls
from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.testing import BasicAuth, Fault, RegistryOptions, Reply, ScriptedRegistry
from support.holdings import put_image, put_index
from support.registry_kit import QUICK
from support.waiting import until

PLAIN = ClientOptions(plain_http=True, retry=QUICK)
BASE, OWN = b"base layer", b"own layer"


def event(action: str, name: str, digest: Digest, kind: str | None = None, size: int = 1) -> bytes:
    """Return a notification of distribution."""
    target: dict[str, Any] = {"repository": name, "digest": digest, "size": size}
    if kind is not None:
        target["mediaType"] = kind
    return json.dumps({"events": [{"action": action, "target": target}]}).encode()


def pushed(name: str, digest: Digest) -> bytes:
    """Return the notification of a pushed manifest."""
    return event("push", name, digest, OCI_MANIFEST)


@pytest.fixture
def index() -> MemoryMountIndex:
    """An index in memory."""
    return MemoryMountIndex()


@pytest.fixture
async def feed(scripted_registry: ScriptedRegistry, index: MemoryMountIndex) -> AsyncIterator[EventFeed]:
    """A feed of the in-process registry."""
    async with EventFeed(scripted_registry.address, index, options=PLAIN) as made:
        yield made


async def deliver(feed: EventFeed, *messages: bytes) -> None:
    """Send messages, and wait until they are processed."""
    for message in messages:
        assert await feed.accept(message)
    await feed.settled()


async def known(index: MountIndex, layer: bytes) -> set[str]:
    """Return the repositories that have a layer according to the index."""
    return {repository.name for repository in await index.locations(Digest.of(layer))}


async def test_a_pushed_manifests_layers_are_known(
    scripted_registry: ScriptedRegistry, feed: EventFeed, index: MemoryMountIndex
) -> None:
    """A pushed manifest and its children are fetched, and their layers recorded."""
    one = put_image(scripted_registry, "team/app", None, [BASE, OWN])
    top = put_index(scripted_registry, "team/app", "1", [one])
    await deliver(feed, pushed("team/app", top))
    assert await known(index, BASE) == await known(index, OWN) == {"team/app"}
    quay = {"repository": "team/web", "updated_tags": ["1"]}
    put_image(scripted_registry, "team/web", "1", [BASE])
    await deliver(feed, json.dumps(quay).encode())
    assert await known(index, BASE) == {"team/app", "team/web"}


async def test_a_pushed_blob_is_recorded_before_its_manifest(
    scripted_registry: ScriptedRegistry, feed: EventFeed, index: MemoryMountIndex
) -> None:
    """A pushed blob is recorded at once, without a request, so that a concurrent push can mount it."""
    layer = Digest.of(BASE)
    await deliver(feed, event("push", "a", layer, "application/octet-stream", 77))
    seen = await index.look_up([layer], Repository(scripted_registry.address, "b"))
    assert [source.name for source in seen.of(layer).sources] == ["a"]
    assert seen.of(layer).size == 77
    assert scripted_registry.requests == []


async def test_a_blob_is_not_recorded_where_mounts_need_a_manifest(
    scripted_registry: ScriptedRegistry, feed: EventFeed, index: MemoryMountIndex
) -> None:
    """On a registry that mounts only after a manifest, a pushed blob is not recorded."""
    await index.record_traits(scripted_registry.address, RegistryTraits(after_manifest=True))
    manifest = put_image(scripted_registry, "a", "1", [BASE])
    await deliver(feed, event("push", "a", Digest.of(BASE), "application/octet-stream"))
    assert await known(index, BASE) == set()
    await deliver(feed, pushed("a", manifest))
    assert await known(index, BASE) == {"a"}


async def test_blobs_of_a_deleted_manifest_are_checked(
    scripted_registry: ScriptedRegistry, feed: EventFeed, index: MemoryMountIndex
) -> None:
    """After a manifest's deletion its blobs are checked: existing ones stay, missing ones are removed."""
    manifest = put_image(scripted_registry, "a", "1", [BASE, OWN])
    await deliver(feed, pushed("a", manifest))
    holding = scripted_registry.holdings.find("a")
    holding.remove_manifest(manifest)
    holding.blobs.remove(Digest.of(OWN))
    scripted_registry.requests.clear()
    await deliver(feed, event("delete", "a", manifest))
    assert await known(index, BASE) == {"a"}
    assert await known(index, OWN) == set()
    assert {record.method for record in scripted_registry.requests} == {"HEAD"}
    assert len(scripted_registry.requests) == 3  # two layers and a config
    assert feed.worked["forgotten"] == 1


async def test_a_deleted_blob_is_checked(
    scripted_registry: ScriptedRegistry, feed: EventFeed, index: MemoryMountIndex
) -> None:
    """A deleted blob is checked by HEAD before it is removed from the index."""
    layer = scripted_registry.put_blob("a", BASE)
    await index.record([Sighting(layer, Repository(scripted_registry.address, "a"))])
    await deliver(feed, event("delete", "a", layer))
    assert await known(index, BASE) == {"a"}
    scripted_registry.holdings.find("a").blobs.clear()
    await deliver(feed, event("delete", "a", layer))
    assert await known(index, BASE) == set()


async def test_hidden_blobs_are_not_removed(index: MemoryMountIndex, tmp_path: Path) -> None:
    """A 404 for a repository that the account may not read removes nothing."""
    authfile = tmp_path / "auth.json"
    layer = Digest.of(BASE)
    async with ScriptedRegistry(RegistryOptions(auth=BasicAuth(users={"feed": "secret"}))) as registry:
        encoded = base64.b64encode(b"feed:secret").decode()
        authfile.write_text(json.dumps({"auths": {registry.address: {"auth": encoded}}}))
        options = replace(PLAIN, authfile=authfile)
        hidden, open_to_it = Repository(registry.address, "hidden"), Repository(registry.address, "open")
        await index.record([Sighting(layer, hidden), Sighting(layer, open_to_it)])
        put_image(registry, "open", "1", [OWN])
        registry.play(Fault(path="/v2/hidden/*", action=Reply(status=404), times=None))
        async with EventFeed(registry.address, index, options=options) as feed:
            await deliver(feed, event("delete", "hidden", layer), event("delete", "open", layer))
            assert feed.worked["failed"] == 0
    assert await known(index, BASE) == {"hidden"}


async def test_the_deletion_of_an_unknown_digest_costs_nothing(
    scripted_registry: ScriptedRegistry, feed: EventFeed
) -> None:
    """The deletion of an unknown digest causes no request."""
    await deliver(feed, event("delete", "a", Digest.of(b"unknown")))
    assert scripted_registry.requests == []


async def test_the_same_event_many_times_is_harmless(
    scripted_registry: ScriptedRegistry, feed: EventFeed, index: MemoryMountIndex
) -> None:
    """A waiting event is not added twice, and a known manifest is not fetched twice."""
    manifest = put_image(scripted_registry, "a", "1", [BASE])
    await deliver(feed, *[pushed("a", manifest)] * 50)
    await deliver(feed, *[pushed("a", manifest)] * 50)
    assert await known(index, BASE) == {"a"}
    assert len(scripted_registry.matching(method="GET")) <= feeding.WORKERS


async def test_a_registry_in_trouble_is_waited_for(
    scripted_registry: ScriptedRegistry, feed: EventFeed, index: MemoryMountIndex
) -> None:
    """Requests are retried; an event that fails is lost, and the next ones are processed."""
    manifest = put_image(scripted_registry, "a", "1", [BASE])
    lost = put_image(scripted_registry, "b", "1", [OWN])
    scripted_registry.play(
        Fault(path="/v2/a/manifests/*", action=Reply(status=503), times=2),
        Fault(path="/v2/b/manifests/*", action=Reply(status=500), times=None),
    )
    await deliver(feed, pushed("b", lost), pushed("a", manifest))
    assert await known(index, BASE) == {"a"}
    assert await known(index, OWN) == set()
    assert feed.worked["failed"] == 1


async def test_a_defect_of_the_index_costs_one_event(
    scripted_registry: ScriptedRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Any exception of a user's own index costs one event, is logged, and does not end the feed."""

    class Odd(MemoryMountIndex):
        defects = feeding.WORKERS + 1

        async def record(self, sightings: Iterable[Sighting]) -> None:
            if self.defects:
                self.defects -= 1
                raise LookupError("not one of ours")
            await super().record(sightings)

    index = Odd()
    manifests = [put_image(scripted_registry, "a", None, [b"%d" % number]) for number in range(index.defects)]
    async with EventFeed(scripted_registry.address, index, options=PLAIN) as feed:
        await deliver(feed, *(pushed("a", manifest) for manifest in manifests))
        assert feed.worked["failed"] == len(manifests)
        await deliver(feed, pushed("a", put_image(scripted_registry, "a", None, [BASE])))
        assert await known(index, BASE) == {"a"}
    assert "LookupError: not one of ours" in caplog.text


async def test_events_wait_until_the_index_answers(
    scripted_registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the index does not answer, accepted events wait, and new messages are refused."""
    monkeypatch.setattr(guarded_calls, "OPEN_SECONDS", 0.02)
    monkeypatch.setattr(feeding, "RETRY_SECONDS", 0.01)

    class Away(MemoryMountIndex):
        away = True

        async def record(self, sightings: Iterable[Sighting]) -> None:
            if self.away:
                raise IndexUnavailableError("nobody there")
            await super().record(sightings)

    index = Away()
    blob, later = Digest.of(b"blob"), Digest.of(b"later")
    manifest = put_image(scripted_registry, "a", "1", [BASE])
    async with EventFeed(scripted_registry.address, index, options=PLAIN) as feed:
        assert await feed.accept(pushed("a", manifest))
        assert await feed.accept(event("push", "a", blob, "application/octet-stream"))
        await until(lambda: feed.holds)
        message = event("push", "a", later, "application/octet-stream")
        assert not await feed.accept(message)
        assert await feed.accept(b"{}")
        index.away = False
        await feed.settled()
        await until(lambda: not feed.holds)
        assert await known(index, BASE) == await known(index, b"blob") == {"a"}
        await deliver(feed, message)
        assert await known(index, b"later") == {"a"}
        assert feed.worked["failed"] == 0
    assert len(scripted_registry.matching(method="GET", path="/v2/a/manifests/*")) == 1


async def test_waiting_events_of_a_closed_feed_are_logged_as_lost(
    scripted_registry: ScriptedRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Events that still wait when the feed is closed are logged as lost."""

    class Gone(MemoryMountIndex):
        async def record(self, sightings: Iterable[Sighting]) -> None:
            del sightings
            raise IndexUnavailableError("nobody there")

    feed = EventFeed(scripted_registry.address, Gone(), options=PLAIN)
    await feed.accept(event("push", "a", Digest.of(BASE), "application/octet-stream"))
    await until(lambda: feed.holds)
    await feed.aclose()
    assert "1 events were not processed: scan the registry" in caplog.text


async def test_a_missing_manifest_is_skipped(feed: EventFeed) -> None:
    """A manifest that is missing already is skipped."""
    await deliver(feed, pushed("a", Digest.of(b"gone")))
    assert feed.worked["failed"] == 0


async def test_too_many_events_are_refused(
    scripted_registry: ScriptedRegistry, feed: EventFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is limited; a refused message is accepted later."""
    monkeypatch.setattr(feeding, "WAITING_MAX", 3)
    scripted_registry.play(Fault(delay=0.2, times=None))
    messages = [pushed("a", Digest.of(b"%d" % number)) for number in range(12)]
    refused = [message for message in messages if not await feed.accept(message)]
    assert 0 < len(refused) <= 12
    scripted_registry.clear_script()
    await feed.settled()
    await deliver(feed, *refused[:3])


async def test_an_invalid_message_is_refused(feed: EventFeed) -> None:
    """A message that is not valid raises an InvalidInputError at once."""
    with pytest.raises(InvalidInputError, match="not an event"):
        await feed.accept(b"[]")


async def test_a_closed_feed_stops(
    scripted_registry: ScriptedRegistry, index: MemoryMountIndex, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing a feed logs how many waiting events are lost."""
    scripted_registry.play(Fault(delay=60, times=None))
    feed = EventFeed(scripted_registry.address, index, options=PLAIN)
    for number in range(10):
        await feed.accept(pushed("a", Digest.of(b"%d" % number)))
    await asyncio.sleep(0)
    await feed.aclose()
    assert "were not processed: scan the registry" in caplog.text
    assert feed.waiting == 0
