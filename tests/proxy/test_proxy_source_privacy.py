"""The time of an answer reveals nothing about repositories that the caller may not read."""

import os
import time

import pytest

from crossmount.oci import Digest
from crossmount.proxy.auth.callers import Agent, Caller
from crossmount.proxy.uploads.source_privacy import OPEN_QUESTIONS, OPEN_SECONDS, PAD_SECONDS, SourcePrivacy
from crossmount.testing import BasicAuth, Grant, RegistryOptions, ScriptedRegistry
from support.proxies import proxy_before
from support.waiting import PATIENCE, until

USERS = {"ann": "a", "bob": "b"}
READS = Grant("a/*", frozenset({"pull"}))
AUTH = BasicAuth(users=USERS, grants={"ann": (Grant("a/*"),), "bob": (Grant("b/*"), READS)})
PRIVATE = BasicAuth(users=USERS, grants={"ann": (Grant("a/*"),), "bob": (Grant("b/*"),)})
LAYERS = [os.urandom(300) for _ in range(3)]


@pytest.fixture(autouse=True)
def _patient_answers() -> None:
    """Measure answers with the time that users get."""


async def test_a_new_caller_mounts_from_what_it_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a first push a source that the caller was never seen to read is mounted before the answer."""
    monkeypatch.setattr("crossmount.proxy.uploads.source_privacy.PAD_SECONDS", (PATIENCE, PATIENCE))
    async with ScriptedRegistry(RegistryOptions(auth=AUTH)) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("a/base", LAYERS[0])
        await proxy.knows(Digest.of(LAYERS[0]), "a/base")
        path = f"/v2/b/app/blobs/{Digest.of(LAYERS[0])}"
        assert (await proxy.client.head(path, auth=("bob", "b"))).status_code == 200


async def test_in_a_first_push_every_no_comes_at_the_same_moment() -> None:
    """A private layer and one that nobody has are answered equally long after the question."""
    async with ScriptedRegistry(RegistryOptions(auth=PRIVATE)) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("a/secret", LAYERS[0])
        await proxy.knows(Digest.of(LAYERS[0]), "a/secret")
        took = []
        for data in LAYERS[:2]:
            begun = time.monotonic()
            answer = await proxy.client.head(f"/v2/b/app/blobs/{Digest.of(data)}", auth=("bob", "b"))
            assert answer.status_code == 404
            took.append(time.monotonic() - begun)
        assert min(took) >= PAD_SECONDS[0]


async def test_later_unknown_sources_are_tried_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first push a HEAD does not wait for an unknown source; the blob is mounted a little later."""
    monkeypatch.setattr("crossmount.proxy.uploads.source_privacy.OPEN_QUESTIONS", 0)
    async with ScriptedRegistry(RegistryOptions(auth=AUTH)) as registry, proxy_before(registry.url) as proxy:
        for data in LAYERS[:2]:
            registry.put_blob("a/base", data)
            await proxy.knows(Digest.of(data), "a/base")
        first, second = (f"/v2/b/app/blobs/{Digest.of(data)}" for data in LAYERS[:2])
        assert (await proxy.client.head(first, auth=("bob", "b"))).status_code == 404
        await until(lambda: registry.mounts(Digest.of(LAYERS[0])) == 1)
        assert (await proxy.client.head(first, auth=("bob", "b"))).status_code == 200
        assert (await proxy.client.head(second, auth=("bob", "b"))).status_code == 200, (
            "the source is readable now"
        )


async def test_a_repository_that_the_caller_has_read_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller pulled through the proxy is a source before every answer."""
    monkeypatch.setattr("crossmount.proxy.uploads.source_privacy.OPEN_QUESTIONS", 0)
    async with ScriptedRegistry(RegistryOptions(auth=AUTH)) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("a/base", LAYERS[0])
        await proxy.knows(Digest.of(LAYERS[0]), "a/base")
        pulled = await proxy.client.get(f"/v2/a/base/blobs/{Digest.of(LAYERS[0])}", auth=("bob", "b"))
        assert pulled.status_code == 200
        path = f"/v2/b/app/blobs/{Digest.of(LAYERS[0])}"
        assert (await proxy.client.head(path, auth=("bob", "b"))).status_code == 200


async def test_nothing_is_hidden_where_the_registry_asks_for_no_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On an open registry every source is tried before every answer."""
    monkeypatch.setattr("crossmount.proxy.uploads.source_privacy.OPEN_QUESTIONS", 0)
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("a/base", LAYERS[0])
        await proxy.knows(Digest.of(LAYERS[0]), "a/base")
        assert (await proxy.client.head(f"/v2/b/app/blobs/{Digest.of(LAYERS[0])}")).status_code == 200


async def test_a_first_push_is_open_for_some_seconds_and_questions() -> None:
    """A caller's questions are padded in the first seconds of a push into a repository, up to a number."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        agents = proxy.app._authenticator._agents  # type: ignore[attr-defined]
        agent: Agent = agents._agents["anonymous"]
        now = 0.0
        privacy = SourcePrivacy(round_trip=lambda: 0.05, clock=lambda: now)
        dest, other = proxy.repository("a"), proxy.repository("b")
        assert privacy.answer_at(agent, dest) == pytest.approx(0.5)
        for _ in range(OPEN_QUESTIONS - 1):
            assert privacy.answer_at(agent, dest) is not None
        assert privacy.answer_at(agent, dest) is None
        assert privacy.answer_at(agent, other) is not None
        now = OPEN_SECONDS
        assert privacy.answer_at(agent, other) is None
        now = 2 * 3600.0
        assert privacy.answer_at(agent, other) is not None
        assert privacy.hides_nothing(Caller("anonymous", agent=agent), agent)
        assert not privacy.hides_nothing(Caller("one", "Basic x", agent=agent), agent)


@pytest.mark.parametrize(("round_trip", "most"), [(0.001, 0.6), (0.02, 0.8), (0.1, 2.0)])
async def test_a_push_of_many_new_layers_waits_for_few_of_them(round_trip: float, most: float) -> None:
    """A client that asks for one new layer after another waits half a second altogether, or for two answers."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        agent: Agent = proxy.app._authenticator._agents._agents["anonymous"]  # type: ignore[attr-defined]
        now = 0.0
        privacy = SourcePrivacy(round_trip=lambda: round_trip, clock=lambda: now)
        for _ in range(50):
            now = privacy.answer_at(agent, proxy.repository("a")) or now
        assert 0.4 <= now <= most
