"""The format of an index: the commands that write look at it first."""

from pathlib import Path

import pytest

from crossmount.index import Keys
from crossmount.index.data_format import FORMAT
from support.commands import Here
from support.servers import Server

KEY = Keys().data_format()
HEADER = '{"crossmount":"index","version":1,"namespace":"default"}\n'


@pytest.mark.usefixtures("valkey_index")
@pytest.mark.parametrize(
    "command",
    [
        ("prune",),
        ("import", "{file}"),
        ("same-registry", "a.example=b.example"),
        ("registry", "r.example", "--forget"),
    ],
    ids=lambda command: command[0],
)
def test_a_newer_format_is_refused_before_anything_is_written(
    here: Here, valkey: Server, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A command that writes to an index in a newer format says so, writes nothing, and the status is 1."""
    file = tmp_path / "saved.jsonl"
    file.write_text(HEADER)
    words = tuple(word.format(file=file) for word in command)
    for newer in (str(FORMAT + 1), "of tomorrow"):
        valkey.ask("SET", KEY, newer)
        before = valkey.ask("KEYS", "*")
        done = here("index", *words)
        assert done.status == 1
        assert done.complaint.endswith(f"writes format {FORMAT}: upgrade crossmount; nothing was written")
        assert valkey.ask("KEYS", "*") == before
    valkey.ask("SET", KEY, FORMAT - 1)
    done = here("index", *words)
    assert done.status == 0
    assert f"crossmount: the index was in format {FORMAT - 1}: it is read on" in done.err
    assert here("index", *words).err.count("format") == 0
    assert valkey.ask("TTL", KEY) > 0


@pytest.mark.usefixtures("valkey_index")
def test_a_command_that_reads_does_not_ask_for_the_format(here: Here, valkey: Server) -> None:
    """Commands that only read work on a newer format too."""
    valkey.ask("SET", KEY, FORMAT + 1)
    for words in (("info",), ("prune", "--dry-run"), ("same-registry",), ("registry", "r.example")):
        assert here("index", *words).status == 0
