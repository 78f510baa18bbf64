"""What a crowd pushes, made once a worker."""

from pathlib import Path

import pytest

from support.crowd import Images, make_images


@pytest.fixture(scope="session")
def crowd_images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Images for sixteen pushers."""
    folder: Path = tmp_path_factory.mktemp("crowd")
    return make_images(folder / "layout")
