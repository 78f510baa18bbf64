"""`crossmount index prune` and its progress."""

import io
import signal
from collections import Counter

import pytest
from rich.console import Console

import crossmount
import redis
from crossmount import events
from crossmount.cli.commands.index_content import prune_so_far, render_prune
from crossmount.cli.progress.bulk import PruneTracker
from crossmount.cli.progress.display import LineDisplay
from crossmount.cli.progress.screen import ScreenDisplay
from crossmount.index import Sighting
from crossmount.maintenance import PruneReport
from crossmount.maintenance.prune import PAGE
from crossmount.oci import Repository
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, running_registry
from support.commands import Here, Shell
from support.index_kit import layer
from support.servers import Server
from support.waiting import PATIENCE, until_now

pytestmark = pytest.mark.usefixtures("valkey_index")
STRANDED = (
    "1 must-mount layer without a source, images with it cannot be pushed "
    "(crossmount add, or crossmount must-mount --clear)"
)


def fill(url: str, registry: ScriptedRegistry, held: int, gone: int) -> Repository:
    """Record layers of a repository in the index; the registry has some of them."""
    place = Repository(registry.address, "team/app")
    there = [registry.put_blob(place.name, b"%d" % number) for number in range(held)]
    with crossmount.open_index(url) as index:
        index.record([Sighting(digest, place, 7) for digest in there])
        index.record([Sighting(layer(number), place) for number in range(gone)])
    return place


def test_prune_forgets_what_is_gone(here: Here, registry: ScriptedRegistry, valkey: Server) -> None:
    """Gone sources are removed, but not by a dry run, and the report counts all."""
    place = fill(valkey.unix_url, registry, 3, 2)
    here("add", layer(0), str(place), "--must-mount")
    dry = here("index", "prune", "--plain-http", "--dry-run", "--json")
    assert (dry.status, dry.err) == (0, "")
    document = dry.document
    assert document.pop("seconds") >= 0
    assert document == {
        "dry_run": True,
        "resumed": False,
        "sources": {"held": 3, "gone": 2, "unseen": 0, "denied": 0, "failed": 0, "unreachable": 0},
        "unreachable": {},
        "must_mount_without_sources": [layer(0)],
        "mended": 0,
        "remarks": [],
    }
    done = here("index", "prune", "--plain-http")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[:-1] == [
        "looked at 5 sources",
        "         3 still there",
        "         2 gone, removed from the index",
        f"{STRANDED}:",
        f"  {layer(0)}",
    ]
    assert here("must-mount", layer(0), "--json").document["must_mount"] is True
    assert here("index", "prune", "--plain-http", "--json").document["sources"]["gone"] == 0


def test_a_choice_that_nothing_fits_is_reported(here: Here) -> None:
    """If no source matches the options, the output says so."""
    done = here("index", "prune", "--registry", "nosuch.example", "--repository", "x/*", "--plain-http")
    assert done.status == 0
    assert done.out.splitlines()[0] == "nothing in the index matches --registry nosuch.example --repository x/*"
    empty = here("index", "prune", "--repository", "")
    assert empty.status == 2
    assert "a pattern of repositories is empty" in empty.complaint


def test_what_was_not_verified_is_reported_and_the_status_says_so(
    here: Here, registry: ScriptedRegistry, valkey: Server
) -> None:
    """An unreachable registry is one line, its sources stay, and the status is 1."""
    fill(valkey.unix_url, registry, 3, 2)
    with crossmount.open_index(valkey.unix_url) as index:
        index.record([Sighting(layer(number), Repository("127.0.0.1:1", "a")) for number in range(50)])
    registry.play(Fault(path=f"*/{layer(0)}", times=None, action=Reply(status=501)))
    done = here("index", "prune", "--plain-http")
    assert done.status == 1
    failed, lost = sorted(done.err.splitlines(), key=lambda line: "not asked any more" in line)
    assert failed.startswith(f"crossmount: {layer(0)} in {registry.address}/team/app: not verified: ")
    assert lost.startswith("crossmount: 127.0.0.1:1: not asked any more: ")
    assert "         1 not verified, kept" in done.out
    assert "        50 on registries that do not answer, kept" in done.out
    assert here("locate", layer(3)).out == "127.0.0.1:1/a\n"


def test_only_what_is_chosen_is_pruned(here: Here, registry: ScriptedRegistry, valkey: Server) -> None:
    """`--registry` and `--repository` limit the prune."""
    fill(valkey.unix_url, registry, 3, 2)
    here("add", layer(7), "r.example/team/app")
    chosen = here(
        "index", "prune", "--plain-http", "--registry", registry.address, "--repository", "x/*", "--json"
    )
    assert sum(chosen.document["sources"].values()) == 0
    chosen = here("index", "prune", "--plain-http", "--registry", registry.address, "--rate", "1000", "--json")
    assert chosen.document["sources"]["gone"] == 2
    assert chosen.status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sample", "0"), "--sample"),
        (("--sample", "101"), "--sample"),
        (("--registry", "a b"), "not a registry"),
        (("--requests", "0"), "whole number from 1 to 256"),
        (("--rate", "0"), "--rate"),
    ],
)
def test_wrong_usage_of_prune_is_reported(here: Here, arguments: tuple[str, ...], words: str) -> None:
    """Wrong usage is one line and status 2."""
    done = here("index", "prune", *arguments)
    assert done.status == 2
    assert words in done.complaint


def test_a_prune_killed_in_the_middle_is_resumed(shell: Shell, valkey: Server) -> None:
    """After kill -9 the next prune verifies the remaining sources, and at most one page again."""
    total = 1200
    with running_registry(RegistryOptions(latency=0.005)) as registry:
        fill(valkey.url, registry, total, 0)
        arguments = ("index", "prune", "--plain-http", "--json")

        def asked() -> Counter[str]:
            return Counter(record.path for record in registry.matching(method="HEAD", path="/v2/*/blobs/*"))

        with shell.start(*arguments, CROSSMOUNT_INDEX=valkey.url) as process:
            until_now(lambda: len(asked()) >= total // 2)
            process.send_signal(signal.SIGKILL)
            process.wait()
        before = asked()
        assert len(before) < total
        done = shell(*arguments, CROSSMOUNT_INDEX=valkey.url)
        assert done.status == 0, done.err
        assert done.document["resumed"]
        assert done.document["sources"]["held"] < total - len(before) + 2 * PAGE
        assert len(asked()) == total
        assert sum(asked().values()) <= total + 2 * PAGE
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        assert list(client.scan_iter("crossmount:*:prune:*")) == []


def test_a_prune_that_is_interrupted_says_how_to_resume(shell: Shell, valkey: Server) -> None:
    """An interrupted prune is status 130 and says how to resume."""
    with running_registry(RegistryOptions(latency=0.05)) as registry:
        fill(valkey.url, registry, 500, 0)
        arguments = ("index", "prune", "--plain-http", "--requests", "2")
        with shell.start(*arguments, CROSSMOUNT_INDEX=valkey.url) as process:
            until_now(lambda: len(registry.matching(method="HEAD")) >= 5)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "0 gone and removed: run the same command again to resume" in err


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_prune_that_stops_early_says_what_it_did(*, dry_run: bool) -> None:
    """The note of an unfinished dry run does not say that sources were removed."""
    tracker = PruneTracker()
    tracker.apply(verified("gone"), now=0.0)
    left = prune_so_far(tracker, dry_run=dry_run)
    assert left.startswith("looked at 1 source, 1 gone")
    assert ("removed" in left) is not dry_run
    assert left.endswith("run the same command again to resume")


def verified(verdict: events.Verdict, registry: str = "r.example", cause: str = "") -> events.SourceVerified:
    """Return the event that a source was verified."""
    return events.SourceVerified(layer=layer(1), source=Repository(registry, "a"), verdict=verdict, cause=cause)


def test_lines_say_how_far_a_prune_is() -> None:
    """A log gets a status line now and then, each failure, and each unreachable registry once; more with -v."""
    times = iter(range(0, 1000, 4))
    stream = io.StringIO()
    with LineDisplay(stream, PruneTracker(), clock=lambda: float(next(times))) as lines:
        lines.observe(verified("held"))
        lines.observe(events.IndexWalked(keys=500, total=2000))
        lines.observe(verified("gone"))
        lines.observe(verified("failed", cause="it is\nbroken"))
        for _ in range(2):
            lines.observe(verified("unreachable", "away.example", "refused"))
    assert stream.getvalue().splitlines() == [
        "25 % of the index, 2 sources, 1 gone",
        f"crossmount: {layer(1)} in r.example/a: not verified: it is broken",
        "crossmount: away.example: not asked any more: refused",
        "25 % of the index, 5 sources, 1 gone",
    ]
    stream = io.StringIO()
    with LineDisplay(stream, PruneTracker(), verbose=1, clock=lambda: 0.0) as lines:
        lines.observe(verified("held"))
        lines.observe(verified("gone"))
    assert stream.getvalue() == f"{layer(1)} in r.example/a: gone\n"


def test_a_terminal_gets_one_bar_for_a_prune() -> None:
    """The bar shows the share of keys if the server knows their number."""
    for total in (400, None):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=90, highlight=False)
        with ScreenDisplay(stream, PruneTracker(), clock=lambda: 0.0, console=console) as bar:
            bar.observe(events.IndexWalked(keys=200, total=total))
            bar.observe(verified("gone"))
        assert ("50 % of the index, 1 source, 1 gone" if total else "  1 source, 1 gone") in stream.getvalue()


def test_the_summary_of_a_prune_marks_exceptions() -> None:
    """The report has a line for each kind of source that was not removed."""
    counts: dict[events.Verdict, int] = {
        "held": 1,
        "gone": 2,
        "unseen": 3,
        "denied": 4,
        "failed": 5,
        "unreachable": 6,
    }
    report = PruneReport(
        dry_run=True,
        resumed=True,
        counts=counts,
        unreachable={},
        stranded=tuple(layer(number) for number in range(25)),
        remarks=(),
        seconds=1.5,
    )
    lines = render_prune(report)
    assert lines[:7] == [
        "looked at 21 sources, resuming an unfinished prune",
        "         1 still there",
        "         2 gone, kept by the dry run",
        "         4 not readable with our credentials, kept",
        "         3 maybe hidden from our credentials, kept",
        "         5 not verified, kept",
        "         6 on registries that do not answer, kept",
    ]
    assert lines[7].startswith("25 must-mount layers without a source, images with them")
    assert lines[-2:] == ["  and 5 more", "took 1.5 s"]


def test_the_help_names_what_a_prune_takes(here: Here) -> None:
    """The help has the options' variables and the Redis user that is needed."""
    words = " ".join(here("index", "prune", "--help").out.split())
    for part in ("CROSSMOUNT_PRUNE_REQUESTS", "CROSSMOUNT_PRUNE_RATE", "crossmount-operator"):
        assert part in words
    assert {"info", "prune", "export", "import"} <= set(here("index", "--help").out.split())
