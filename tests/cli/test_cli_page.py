"""The page as commands make it: without the packages of its extra, and without an index."""

import sys

import pytest

from crossmount.cli.page import page_of, running_page
from crossmount.cli.settings import Settings
from crossmount.errors import MissingExtraError
from crossmount.index import MemoryMountIndex
from support.commands import Shell


@pytest.fixture
def _no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jinja2 is not installed."""
    for name in [name for name in sys.modules if name.startswith(("crossmount.dashboard", "jinja2"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)


@pytest.mark.usefixtures("_no_extra")
async def test_a_page_without_its_packages_names_the_extra() -> None:
    """What lacks, and how to install it, is in the error; a proxy that shows sums by default goes on without."""
    settings, index = Settings(), MemoryMountIndex()
    with pytest.raises(MissingExtraError, match=r"--page names needs jinja2, .*crossmount\[dashboard\]"):
        async with page_of(settings, index, "names"):
            pass
    with pytest.raises(MissingExtraError, match="crossmount dashboard needs jinja2"):
        async with running_page(settings, index, ("127.0.0.1", 0), command="crossmount dashboard"):
            pass
    async with page_of(settings, index, "sums") as page:
        assert page is None


async def test_a_proxy_without_an_index_has_no_page() -> None:
    """Without an index, or with the page off, there is none."""
    async with page_of(Settings(), None, "names") as page:
        assert page is None
    async with page_of(Settings(), MemoryMountIndex(), "off") as page:
        assert page is None
    async with page_of(Settings(), MemoryMountIndex(), "sums") as page:
        assert page is not None


@pytest.mark.usefixtures("_no_extra")
async def test_an_import_that_fails_in_crossmount_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of crossmount itself that lacks is not blamed on the extra."""
    monkeypatch.setitem(sys.modules, "crossmount.dashboard", None)
    with pytest.raises(ModuleNotFoundError):
        async with page_of(Settings(), MemoryMountIndex(), "names"):
            pass


def test_the_help_of_the_dashboard_says_who_sees_it(shell: Shell) -> None:
    """The help warns that the page asks for no password."""
    done = shell("dashboard", "--help")
    assert "asks nobody for a password" in " ".join(done.out.split())
