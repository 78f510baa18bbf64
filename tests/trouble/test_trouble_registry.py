"""Troubles of the registry during sixteen pushes: no push fails, and no stored bytes are sent again."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from crossmount.registry import ClientOptions, upload_answers
from crossmount.testing import CutReceiving, Fault, Grant, RegistryOptions, ScriptedRegistry, TokenAuth
from support.crowd import OPTIONS, PUSHERS, Images, Outcome, Scene, push_at_once
from support.faulty import FaultyWay, faulty_way
from support.registries import PASSWORD, USER, DockerRegistry, StartRegistry, TokenRegistry
from support.servers import Server
from support.troubles_registry import ANSWERS, BODIES, CUT_AFTER, CUTS, LATER, UPLOADS, RegistryTrouble

pytestmark = pytest.mark.usefixtures("unhurried")

BOUNDED = 6
"""The number of one-second pauses in a test."""


def sent_again(registry: ScriptedRegistry) -> int:
    """Return the number of received bytes that did not become blobs."""
    taken = sum(record.received for record in registry.requests if "/blobs/uploads/" in record.path)
    return taken - registry.upload_bytes


async def check(outcome: Outcome, *, realm: str | None = None, login: tuple[str, str] | None = None) -> None:
    """Compare the outcome with the promises."""
    assert outcome.failures == []
    assert await outcome.incomplete(realm=realm, login=login) == []
    assert outcome.beyond == 0
    assert outcome.warnings == []


@pytest.mark.parametrize("trouble", [ANSWERS[0], ANSWERS[3], *CUTS, BODIES], ids=str)
async def test_a_registry_in_trouble(trouble: RegistryTrouble, valkey: Server, crowd_images: Images) -> None:
    """When one request in five fails, each blob arrives once, and no byte is sent twice."""
    async with ScriptedRegistry(faults=trouble.faults) as registry:
        outcome = await push_at_once(valkey.url, registry, crowd_images)
        registry.clear_script()
        await check(outcome)
        assert sent_again(registry) == 0


@pytest.mark.parametrize("trouble", LATER[2:], ids=str)
async def test_a_registry_that_asks_for_time(
    trouble: RegistryTrouble, valkey: Server, crowd_images: Images
) -> None:
    """A push waits for a Retry-After and does not fail."""
    faults = [replace(fault, times=BOUNDED) for fault in trouble.faults]
    async with ScriptedRegistry(faults=faults) as registry:
        outcome = await push_at_once(valkey.url, registry, crowd_images)
        assert registry.unplayed == ()
        await check(outcome)
        assert sent_again(registry) == 0


async def test_tokens_that_end_in_the_middle_of_uploads(valkey: Server, crowd_images: Images) -> None:
    """An expired token is replaced, and the upload continues at its offset."""
    auth = TokenAuth(anonymous=(Grant(),), uses=8)
    async with ScriptedRegistry(RegistryOptions(auth=auth), faults=BODIES.faults) as registry:
        outcome = await push_at_once(valkey.url, registry, crowd_images)
        registry.clear_script()
        await check(outcome, realm=f"{registry.url}/token")
        assert any(record.status == 401 for record in registry.matching(method="PUT|PATCH|GET|HEAD"))
        assert sent_again(registry) == 0


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for one second, not five, whether a registry stores a blob whose upload was cut: here it never does."""
    monkeypatch.setattr(upload_answers, "UNKNOWN_SECONDS", 1.0)


async def push_past(
    way: FaultyWay, registry: DockerRegistry, valkey: Server, images: Images, options: ClientOptions = OPTIONS
) -> Outcome:
    """Push to a real registry through a server that applies faults."""
    return await push_at_once(valkey.url, registry, images, address=way.address, options=options)


@pytest.mark.parametrize("trouble", [ANSWERS[1], CUTS[1]], ids=str)
async def test_a_real_registry_in_trouble(
    trouble: RegistryTrouble, start_docker_registry: StartRegistry, valkey: Server, crowd_images: Images
) -> None:
    """With a real registry too, each blob arrives once, and no byte is sent twice."""
    registry = start_docker_registry(relative=True)
    async with faulty_way(registry.url, *trouble.faults) as way:
        await check(await push_past(way, registry, valkey, crowd_images))
        assert way.carried == registry.upload_bytes()


@pytest.mark.usefixtures("_impatient")
async def test_a_real_registry_that_is_cut_off_in_the_middle_of_bodies(
    start_docker_registry: StartRegistry, valkey: Server, crowd_images: Images
) -> None:
    """Distribution 2.8 cannot continue an upload that was cut: only the bytes of that upload are sent again."""
    registry = start_docker_registry(relative=True)
    async with faulty_way(registry.url, *BODIES.faults) as way:
        await check(await push_past(way, registry, valkey, crowd_images))
        cut = sum(each.carried == CUT_AFTER for each in way.passed if each.fault)
        assert cut
        assert way.carried == registry.upload_bytes() + cut * CUT_AFTER


@pytest.mark.usefixtures("_impatient")
async def test_real_tokens_that_end_in_the_middle_of_uploads(
    token_registry: TokenRegistry, valkey: Server, crowd_images: Images, tmp_path: Path
) -> None:
    """Tokens that expire within eight seconds are replaced in uploads that take longer and are cut."""
    registry, tokens = token_registry.registry, token_registry.tokens
    assert tokens.expires_in is not None
    tokens.early = tokens.expires_in + 52  # the registry accepts them for a minute longer: so for eight seconds
    slow = Fault(method="PUT", path=UPLOADS, action=CutReceiving(after=CUT_AFTER), times=PUSHERS, delay=8.1)
    async with faulty_way(registry.url, slow) as way:
        options = replace(OPTIONS, authfile=tmp_path / "auth.json", commit_timeout=30.0)  # nothing stores so long
        assert options.authfile is not None
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        options.authfile.write_text(json.dumps({"auths": {way.address: {"auth": auth}}}))
        outcome = await push_past(way, registry, valkey, crowd_images, options)
        refused = [each for each in way.passed if each.status == 401]
    assert len(refused) > PUSHERS  # each push got one 401 for its first request
    tokens.early = 0
    await check(outcome, realm=tokens.url, login=(USER, PASSWORD))


async def test_a_real_registry_that_restarts(
    docker_registry: DockerRegistry, valkey: Server, crowd_images: Images
) -> None:
    """No push fails while the registry is killed and restarted three times during sixteen pushes."""

    def restart(scene: Scene) -> None:
        for _ in range(3):
            docker_registry.restart()
            if scene.over.wait(0.2):
                return

    scene = Scene(docker_registry, docker_registry.address, crowd_images.shared)
    outcome = await push_at_once(valkey.url, docker_registry, crowd_images, scene=scene, strike=restart)
    assert outcome.failures == []
    assert await outcome.incomplete() == []
    assert outcome.warnings == []
