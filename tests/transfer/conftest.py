"""Fixtures of copies: an image, a registry that has it, and two empty registries."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crossmount.testing import ScriptedRegistry
from crossmount.transfer.push import push
from support.copies import OPTIONS
from support.images import MadeImage, make_layers, make_layout


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of four layers."""
    return make_layout(tmp_path / "image", make_layers(4, size=200_000))


@pytest.fixture
async def a(image: MadeImage) -> AsyncIterator[ScriptedRegistry]:
    """A registry with the image as team/app:1."""
    async with ScriptedRegistry() as registry:
        await push(image.path, f"{registry.address}/team/app:1", options=OPTIONS)
        registry.requests.clear()
        yield registry


@pytest.fixture
async def b() -> AsyncIterator[ScriptedRegistry]:
    """An empty registry."""
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def c() -> AsyncIterator[ScriptedRegistry]:
    """Another empty registry."""
    async with ScriptedRegistry() as registry:
        yield registry
