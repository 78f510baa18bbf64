"""Fixtures of the tests of troubles."""

from pathlib import Path

import pytest

from support.crowd import Images, make_images


@pytest.fixture(scope="session")
def crowd_images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Return images for sixteen pushers, made once a worker."""
    folder: Path = tmp_path_factory.mktemp("crowd")
    return make_images(folder / "layout")
