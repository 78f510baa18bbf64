"""Troubles of the index during sixteen pushes: none fails, every image is complete, at most one warning each."""

import asyncio
import re

import pytest

from crossmount.testing import Fault, ScriptedRegistry
from support.crowd import Images, Outcome, Scene, push_at_once
from support.places import Place
from support.servers import StartServer
from support.troubles import ON_A_CLUSTER, ON_A_SERVER, UNDER_SENTINEL, Trouble

UPLOADS_LAST = Fault(method="PUT", path="*/blobs/*", delay=0.2, times=None)
"""Slow uploads, so that trouble strikes in their middle."""


async def push_in_trouble(trouble: Trouble, place: Place, registry: ScriptedRegistry, images: Images) -> Outcome:
    """Push with a crowd while trouble strikes."""
    registry.play(UPLOADS_LAST)
    scene = Scene(place, registry.address, images.shared)
    await asyncio.to_thread(trouble.before, scene)
    with trouble.url(place) as url:
        return await push_at_once(url, registry, images, scene=scene, strike=trouble.strike)


async def check(trouble: Trouble, outcome: Outcome) -> None:
    """Compare the outcome with the promises."""
    assert outcome.failures == []
    assert await outcome.incomplete() == []
    assert all(len(pushed.warnings) <= 1 for pushed in outcome.pushes)
    if trouble.warning:
        assert outcome.warnings
        assert all(re.search(trouble.warning, cause) for cause in outcome.warnings)
    if trouble.spares:
        assert outcome.beyond == 0
        assert outcome.warnings == []


@pytest.fixture
def trouble(request: pytest.FixtureRequest) -> Trouble:
    """Return each trouble; unless it is a silence, the deadlines are extended."""
    found: Trouble = request.param
    if not found.silent:
        request.getfixturevalue("unhurried")
    return found


@pytest.mark.parametrize("trouble", ON_A_SERVER, ids=str, indirect=True)
async def test_a_server_in_trouble(
    trouble: Trouble, start_server: StartServer, scripted_registry: ScriptedRegistry, crowd_images: Images
) -> None:
    """In each trouble of the server all images arrive complete, with at most one warning a push."""
    place = start_server(*trouble.options)
    await check(trouble, await push_in_trouble(trouble, place, scripted_registry, crowd_images))


@pytest.mark.parametrize("trouble", ON_A_CLUSTER, ids=str, indirect=True)
async def test_a_cluster_in_trouble(
    trouble: Trouble, cluster: Place, scripted_registry: ScriptedRegistry, crowd_images: Images
) -> None:
    """No push fails while a Cluster fails over, loses a master or moves slots."""
    await check(trouble, await push_in_trouble(trouble, cluster, scripted_registry, crowd_images))


@pytest.mark.parametrize("trouble", UNDER_SENTINEL, ids=str, indirect=True)
async def test_servers_under_sentinel_in_trouble(
    trouble: Trouble, sentinels: Place, scripted_registry: ScriptedRegistry, crowd_images: Images
) -> None:
    """No push fails while a master is replaced, as ordered or after its death."""
    await check(trouble, await push_in_trouble(trouble, sentinels, scripted_registry, crowd_images))
