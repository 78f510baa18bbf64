"""`crossmount savings`: what pushes saved, as a table and as a document."""

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import pytest

from crossmount.cli.commands.savings import read_since, render_savings
from crossmount.errors import InvalidInputError
from crossmount.index import open_index
from crossmount.savings import AccountEntry, DayAccounts, LayerAccount, LayerIncrement, Savings, Tally
from crossmount.savings.accounts import OTHER
from support.commands import Here, Shell
from support.index_kit import layer
from support.savings import entry
from support.servers import Server

TODAY = date(2026, 11, 27)


def write(url: str, entries: Iterable[AccountEntry]) -> None:
    """Count pushes in an index."""

    async def count() -> None:
        async with open_index(url) as index:
            index.account(*entries)
            await index.record(())

    asyncio.run(count())


def some() -> list[AccountEntry]:
    """Return pushes of today and yesterday."""
    today = datetime.now(UTC).date()
    mounted = LayerIncrement(layer(1), 30_000_000, "mounted")
    again = LayerIncrement(layer(2), 10_000_000, "unreadable")
    return [
        entry(
            1, day=today, bytes_mounted=60_000_000, blobs_mounted=2, bytes_uploaded=20_000_000, blobs_uploaded=1,
            ms_uploading=2000, pushes=1, layers=[mounted, again],
        ),
        entry(
            2, day=today, prefix="base", bytes_waited=20_000_000, pushes=1, pushes_without_index=1, layers=[again],
        ),
        entry(3, day=today - timedelta(days=1), registry="other.example", pushes_failed=1, bytes_fetched=1000),
    ]  # fmt: skip


def test_a_table_by_day(valkey: Server, here: Here) -> None:
    """Off a terminal the table is plain: the sums, then a row a day, without bars."""
    write(valkey.url, some())
    lines = here("savings", "--index", valkey.url).out.splitlines()
    assert lines[0] == "80.0 MB saved, 80 % of what would have been uploaded, about 8.0 s of uploads"
    assert "mounted          2 blobs   60.0 MB" in lines
    assert "2 pushes, 1 more failed, 1 without the index" in lines
    assert "1.00 kB fetched from other registries" in lines
    today = datetime.now(UTC).date()
    assert lines[-1].split() == [str(today), "80.0", "MB", "80", "%", "20.0", "MB", "2"]
    assert lines[-2].split()[:4] == [str(today - timedelta(days=1)), "0", "B", "-"]
    assert len(lines) == 10 + 7
    assert "█" not in "".join(lines)


@pytest.mark.parametrize(
    ("by", "names"),
    [("registry", ["r.example", "other.example"]), ("repository", ["r.example/team", "r.example/base"])],
)
def test_tables_by_place(valkey: Server, here: Here, by: str, names: list[str]) -> None:
    """Registries and repositories are listed by what they saved, most first."""
    write(valkey.url, some())
    lines = here("savings", "--index", valkey.url, "--by", by, "--since", "2d").out.splitlines()
    assert [line.split()[0] for line in lines[10 : 10 + len(names)]] == names


def test_layers_say_why_they_were_uploaded_again(valkey: Server, here: Here) -> None:
    """The most mounted layers, and those that were uploaded again with the reason."""
    write(valkey.url, some())
    out = here("savings", "--index", valkey.url, "--by", "layer").out
    assert f"{layer(1)[7:19]}   30.0 MB      1 times, 30.0 MB saved" in out
    assert f"{layer(2)[7:19]}   10.0 MB      1 times, 10.0 MB: its sources may not be read" in out


@pytest.mark.parametrize("by", ["day", "registry", "repository", "layer"])
def test_a_document(valkey: Server, here: Here, by: str) -> None:
    """`--json` prints the sums and the rows for scripts."""
    write(valkey.url, some())
    document = here("savings", "--index", valkey.url, "--by", by, "--since", "1w", "--json").document
    assert document["total"]["saved"] == {"bytes": 80_000_000, "share": 0.8}
    assert document["total"]["pushes_without_index"] == 1
    assert (document["namespace"], document["by"]) == ("default", by)
    assert len(document["rows"]) == {"day": 7, "registry": 2, "repository": 3, "layer": 2}[by]


def test_an_empty_index(valkey: Server, here: Here) -> None:
    """Before the first push everything is zero, and nothing is divided by it."""
    for by in ("day", "registry", "repository", "layer"):
        done = here("savings", "--index", valkey.url, "--by", by)
        assert done.status == 0
        assert done.out.startswith("0 B saved\n")
    document = here("savings", "--index", valkey.url, "--json").document
    assert document["total"]["saved"] == {"bytes": 0, "share": None}
    assert document["total"]["seconds_saved"] is None


@pytest.mark.parametrize(
    ("words", "first"),
    [("1d", TODAY), ("7d", date(2026, 11, 21)), ("2w", date(2026, 11, 14)), ("2026-11-27", TODAY)],
)
def test_a_period(words: str, first: date) -> None:
    """A period is days or weeks with today, or begins on a day."""
    assert read_since(words, lambda: TODAY) == first


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("x", "no period: give days"),
        ("7", "no period: give days"),
        ("-7d", "no period: give days"),
        ("0d", "give 1d to 400d"),
        ("401d", "give 1d to 400d"),
        ("60w", "give 1d to 400d"),
        ("2026-11-28", "is in the future"),
        ("2026-13-01", "no period: give days"),
    ],
)
def test_a_bad_period_is_a_clear_error(here: Here, words: str, complaint: str) -> None:
    """The error says what to give."""
    with pytest.raises(InvalidInputError, match=complaint):
        read_since(words, lambda: TODAY)
    if words != "2026-11-28":
        done = here("savings", "--since", words, "--index", "memory://")
        assert done.status == 2
        assert complaint in done.complaint


def test_an_index_that_is_down_or_off(here: Here) -> None:
    """Without an index there is nothing to show, and the error says so in a line."""
    assert "does not answer" in here("savings", "--index", "redis://127.0.0.1:1").complaint
    assert "this needs an index" in here("savings", "--index", "off").complaint
    assert here("savings", "--index", "memory://").out.startswith("0 B saved")


def test_bars_fit_every_width() -> None:
    """On a terminal each row has a bar that fits; the longest bar is that of the best row."""
    rows = {("r.example", "a" * 70): Tally(bytes_mounted=1000), (OTHER, OTHER): Tally(bytes_mounted=1)}
    found = Savings((DayAccounts(TODAY, rows),))
    for columns in (20, 40, 60, 80, 200):
        lines = render_savings(found, "repository", columns=columns)
        assert all(len(line) < columns for line in lines[9:] if columns >= 60)
    lines = render_savings(found, "repository", columns=120)
    assert lines[9].endswith("█")
    assert lines[10].startswith("other/other ")
    assert lines[10].endswith("▏")


def test_long_names_are_cut_where_they_differ_least() -> None:
    """Two repositories on a registry with a long name are told apart at 80 columns."""
    registry = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    rows = {(registry, name): Tally(bytes_mounted=1000) for name in ("payments", "search")}
    lines = render_savings(Savings((DayAccounts(TODAY, rows),)), "repository", columns=80)
    assert {line.split()[0].rpartition("/")[2] for line in lines[9:]} == {"payments", "search"}
    assert all(line.startswith("1234567890") and "…" in line for line in lines[9:])


def test_more_rows_than_are_shown() -> None:
    """A long list of repositories ends with the number of those that are left out."""
    rows = {("r.example", f"p{number}"): Tally(bytes_mounted=number) for number in range(30)}
    lines = render_savings(Savings((DayAccounts(TODAY, rows),)), "repository", columns=None)
    assert lines[-1] == "and 10 more"
    layers = [LayerAccount(digest=layer(number), size=10, mounted=1) for number in range(30)]
    lines = render_savings(Savings((DayAccounts(TODAY, {}, layers),)), "layer", columns=None)
    assert sum("times" in line for line in lines) == 10


def test_in_a_terminal(valkey: Server, shell: Shell) -> None:
    """In a terminal of 80 columns no line is longer, and days have bars."""
    write(valkey.url, some())
    master, slave = pty.openpty()
    env = {**shell.env, "COLUMNS": "80", "LINES": "24"}
    line = [sys.executable, "-m", "crossmount", "savings", "--index", valkey.url]
    done = subprocess.run(line, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=env, check=True)
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert done.stderr == b""
    assert "█" in shown
    assert all(len(each) <= 80 for each in shown.splitlines())
