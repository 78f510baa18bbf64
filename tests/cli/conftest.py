"""Fixtures for the tests of the command: an image, a registry, and an index on a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmount.testing import ScriptedRegistry, running_registry
from support.commands import Here
from support.images import MadeImage, make_layers, make_layout
from support.servers import Server


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of three layers."""
    return make_layout(tmp_path / "image", make_layers(3, size=2000))


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """An empty registry that mounts."""
    with running_registry() as registry:
        yield registry


@pytest.fixture
def valkey_index(valkey: Server, monkeypatch: pytest.MonkeyPatch, here: Here) -> None:
    """The commands use an empty Valkey as their index."""
    del here  # it takes all variables of ours away first
    monkeypatch.setenv("CROSSMOUNT_INDEX", valkey.unix_url)
