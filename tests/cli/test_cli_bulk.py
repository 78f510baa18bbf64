"""Promises that `crossmount index info`, `prune`, `export` and `import` have in common."""

import os

import pytest

from support.commands import Here, Shell
from support.index_kit import layer
from support.places import Place

pytestmark = pytest.mark.usefixtures("valkey_index")


def test_the_embedded_index_can_be_looked_after(here: Here, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Info, export and import work on the embedded index as on any other."""
    monkeypatch.delenv("CROSSMOUNT_INDEX")
    saved = shell.folder / "saved.jsonl"
    here("add", layer(1), "r.example/team/a")
    assert here("index", "info", "--json").document["layers"] == 1
    assert here("index", "export", str(saved)).err == "exported 1 layer, 1 source\n"
    here("forget", layer(1), "r.example/team/a")
    assert here("index", "import", str(saved)).out == "imported 1 layer, 1 source\n"
    assert here("locate", layer(1)).out == "r.example/team/a\n"


@pytest.mark.parametrize("arguments", [("info",), ("export",), ("prune",)])
def test_who_may_not_look_at_all_keys_is_reported_who_may(
    here: Here, restricted: Place, arguments: tuple[str, ...]
) -> None:
    """A Redis user that may not list keys gets one line that names the user that may; import works for both."""
    done = here("index", *arguments, "--index", restricted.url)
    assert done.status == 1
    assert "crossmount-operator in deploy/redis/users.acl" in done.complaint
    assert here("index", *arguments, "--index", restricted.operator_url).status == 0


@pytest.mark.parametrize("arguments", [("info",), ("export",), ("prune",), ("import", os.devnull)])
def test_an_index_that_is_off_or_gone_is_reported(here: Here, arguments: tuple[str, ...]) -> None:
    """Without an index the command is a usage error; an unreachable index is a failure."""
    done = here("index", *arguments, "--index", "off")
    assert done.status == 2
    assert "this needs an index" in done.complaint
    if arguments[0] != "import":
        done = here("index", *arguments, "--index", "redis://127.0.0.1:1")
        assert done.status == 1
        assert "does not answer" in done.complaint
