"""`crossmount scan` and its progress."""

import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from rich.console import Console

import redis
from crossmount import events
from crossmount.cli.commands.scan import read_targets, render_scan
from crossmount.cli.progress.bulk import ScanTracker
from crossmount.cli.progress.display import LineDisplay, progress_display
from crossmount.cli.progress.screen import ScreenDisplay
from crossmount.discovery import ScanReport
from crossmount.errors import InvalidReferenceError
from crossmount.index import Keys
from crossmount.oci import Digest, Repository
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, running_registry
from support.commands import Here, Shell
from support.holdings import put_image
from support.servers import Server
from support.waiting import PATIENCE, until_now

BASE = b"base layer"
INDEX = "CROSSMOUNT_INDEX"
pytestmark = pytest.mark.usefixtures("valkey_index")


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """A registry with five repositories."""
    with running_registry(RegistryOptions(page_size=2)) as registry:
        for name in ("team/a", "team/b", "team/c", "other/d", "e"):
            put_image(registry, name, "1", [BASE, name.encode()])
        yield registry


def test_a_whole_registry_is_scanned(here: Here, registry: ScriptedRegistry) -> None:
    """The report adds up, as lines and as JSON, and the layers can be located afterwards."""
    done = here("scan", registry.address, "--plain-http")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[:-1] == [
        f"scanned {registry.address}",
        "repositories  5",
        "tags          5",
        "manifests     5 fetched",
        "layers        15 recorded in the index",
    ]
    assert len(here("locate", Digest.of(BASE)).out.splitlines()) == 5
    again = here("scan", registry.address, "--plain-http", "--since-last", "--json")
    document = again.document
    assert document.pop("seconds") >= 0
    assert document == {
        "registry": registry.address,
        "resumed": False,
        "repositories": {"scanned": 5, "before": 0, "unreadable": 0, "failed": 0},
        "tags": 5,
        "manifests": {"fetched": 0, "known": 5, "skipped": 0},
        "layers": 15,
        "remarks": [],
    }


@pytest.mark.parametrize(
    ("targets", "names", "expected"),
    [
        (("R/team/a",), None, 1),
        (("R/team/a", "R/e"), None, 2),
        (("R/team/*",), None, 3),
        (("R/team/*", "R/e"), None, 4),
        (("R",), "team/a\n# a comment\n\nR/other/d\n", 2),
        (("R/team/*",), "team/a\nother/d\n", 1),
    ],
)
def test_what_is_scanned_is_what_was_named(
    here: Here,
    registry: ScriptedRegistry,
    tmp_path: Path,
    targets: tuple[str, ...],
    names: str | None,
    expected: int,
) -> None:
    """Repositories, patterns and a file of names select the repositories to scan."""
    given = [target.replace("R", registry.address) for target in targets]
    if names is not None:
        file = tmp_path / "names"
        file.write_text(names.replace("R", registry.address))
        given += ["--from", str(file)]
    done = here("scan", *given, "--plain-http", "--json")
    assert done.status == 0, done.err
    assert done.document["repositories"]["scanned"] == expected


def test_a_scan_of_nothing_says_why(here: Here, registry: ScriptedRegistry, tmp_path: Path) -> None:
    """A pattern without a match fails, an empty catalogue is a remark, and an empty file is a usage error."""
    done = here("scan", f"{registry.address}/zzz*", "--plain-http")
    assert done.status == 1
    assert done.err == f"crossmount: no repository of {registry.address} matches zzz*: 5 repositories listed\n"
    assert "listed" in here("scan", f"{registry.address}/zzz*", "--plain-http", "--json").err
    with running_registry() as empty:
        done = here("scan", empty.address, "--plain-http")
        assert (done.status, done.err) == (
            0,
            f"crossmount: the catalogue of {empty.address} is empty: are you logged in?\n",
        )
    file = tmp_path / "names"
    file.write_text("# none\n\n")
    done = here("scan", registry.address, "--from", str(file))
    assert done.status == 2
    assert f"{file}: it lists nothing to scan" in done.complaint


def test_a_repository_and_a_file_are_not_given_both(here: Here, tmp_path: Path) -> None:
    """A repository beside a file of names is a usage error; a pattern selects names of the file."""
    file = tmp_path / "names"
    file.write_text("team/a\n")
    for targets in (("r.example/team/b",), ("r.example/team/*", "r.example/e")):
        done = here("scan", *targets, "--from", str(file))
        assert done.status == 2
        assert "or r.example and --from FILE, not both" in done.complaint


def test_names_come_from_standard_input_too(
    here: Here, registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--from -` reads standard input; names may include the registry."""
    names = f"team/a\n{registry.address}/e\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names)))
    done = here("scan", registry.address, "--from", "-", "--plain-http", "--json")
    assert done.status == 0, done.err
    assert done.document["repositories"]["scanned"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("alpine",), "'alpine': name the registry first"),
        (("https://r.example",), "name the registry first"),
        (("r.example/a", "s.example/b"), "one registry at a time"),
        (("r.example/UPPER",), "not a repository name"),
        (("r.example:99999",), "not a registry"),
        (("r.example", "--requests", "0"), "whole number from 1 to 256"),
        (("r.example", "--rate", "0"), "--rate"),
        (("r.example", "--from", "/nowhere"), "--from"),
        ((), "missing argument"),
        (("r.example", "--index", "off"), "this needs an index"),
    ],
)
def test_wrong_usage_is_reported_before_anything_is_asked(
    here: Here, arguments: tuple[str, ...], words: str
) -> None:
    """Wrong usage is one line and status 2, before any request."""
    done = here("scan", *arguments)
    assert done.status == 2
    assert words.lower() in done.complaint.lower()


def test_a_name_in_a_file_that_is_none_is_reported(here: Here, tmp_path: Path) -> None:
    """An invalid name in a file is an error before any request."""
    file = tmp_path / "names"
    file.write_text("team/a\nteam/a:1\n")
    done = here("scan", "r.example", "--from", str(file))
    assert done.status == 2
    assert "'team/a:1'" in done.complaint
    file.write_bytes(b"\xff\xfe\x00")
    assert "not a list" in here("scan", "r.example", "--from", str(file)).complaint


def test_repositories_that_fail_are_named_and_the_status_says_so(here: Here, registry: ScriptedRegistry) -> None:
    """If a repository fails, it is named, the others are scanned, and the status is 1."""
    registry.play(Fault(path="/v2/team/b/*", action=Reply(status=400), times=None))
    done = here("scan", registry.address, "--plain-http")
    assert done.status == 1
    assert "repositories  4, 1 failed" in done.out
    (line,) = done.err.splitlines()
    assert line.startswith(f"crossmount: {registry.address}/team/b: failed: ")


def test_a_repository_that_needs_a_login_says_so_once(here: Here, registry: ScriptedRegistry) -> None:
    """If all failures are denied access, the status is 4, and one line says how to log in."""
    registry.play(Fault(path="/v2/team/b/*", action=Reply(status=403, code="DENIED"), times=None))
    done = here("scan", f"{registry.address}/team/b", f"{registry.address}/team/a", "--plain-http")
    assert done.status == 4
    assert done.complaint.startswith(f"{registry.address}/team/b: failed: 403")
    assert done.complaint.endswith(f"docker login {registry.address}, or --authfile FILE")
    registry.play(Fault(path="/v2/team/a/*", action=Reply(status=400), times=None))
    assert here("scan", f"{registry.address}/team/b", f"{registry.address}/team/a", "--plain-http").status == 1


def test_a_registry_without_a_catalogue_says_what_to_give(here: Here, registry: ScriptedRegistry) -> None:
    """For a registry without a catalogue, one line says to give --from."""
    registry.play(Fault(path="/v2/_catalog", action=Reply(status=404, code="NOT_FOUND"), times=None))
    done = here("scan", registry.address, "--plain-http")
    assert done.status == 1
    assert "does not list its repositories" in done.complaint
    assert f"as in {registry.address}/team/app" in done.complaint


def test_an_index_that_does_not_serve_is_a_failure(here: Here, registry: ScriptedRegistry) -> None:
    """A scan fails if the index fails."""
    done = here("scan", registry.address, "--plain-http", "--index", "redis://127.0.0.1:1")
    assert done.status == 1
    assert "index at redis://127.0.0.1:1 does not answer" in done.complaint


def test_a_scan_killed_in_the_middle_is_resumed(shell: Shell, valkey: Server) -> None:
    """After kill -9 the next scan skips finished repositories, and at the end every layer is recorded."""
    arguments = ("--plain-http", "--requests", "2", "--json")
    with running_registry(RegistryOptions(latency=0.02)) as registry:
        for number in range(60):
            for tag in ("1", "2", "3"):
                put_image(registry, f"r/{number:02}", tag, [b"%d %s" % (number, tag.encode())])
        client = redis.Redis(unix_socket_path=str(valkey.socket))

        def done_so_far() -> set[str]:
            names = [client.smembers(key) for key in client.scan_iter("crossmount:default:scan:*:")]
            return {name.decode() for name in names[0]} if names else set()  # type: ignore[union-attr]

        with shell.start("scan", registry.address, *arguments, CROSSMOUNT_INDEX=valkey.url) as process:
            until_now(lambda: len(done_so_far()) >= 5)
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = done_so_far()
        assert 5 <= len(done) < 60
        registry.requests.clear()
        finished = shell("scan", registry.address, *arguments, CROSSMOUNT_INDEX=valkey.url)
        assert finished.status == 0, finished.err
        document = finished.document
        assert document["resumed"]
        assert document["repositories"] == {
            "scanned": 60 - len(done),
            "before": len(done),
            "unreadable": 0,
            "failed": 0,
        }
        asked = {record.path.split("/tags/")[0] for record in registry.matching(path="/v2/*/tags/list")}
        assert asked == {f"/v2/r/{number:02}" for number in range(60)} - {f"/v2/{name}" for name in done}
        for number in (0, 30, 59):
            assert shell("locate", Digest.of(b"%d 1" % number), CROSSMOUNT_INDEX=valkey.url).out


def test_a_scan_that_is_interrupted_says_how_to_resume(shell: Shell, valkey: Server) -> None:
    """An interrupted scan is status 130, keeps its records, and says how to resume."""
    with running_registry(RegistryOptions(latency=0.05)) as registry:
        for number in range(60):
            put_image(registry, f"r/{number:02}", "1", [BASE])
        with shell.start(
            "scan", registry.address, "--plain-http", "--requests", "1", CROSSMOUNT_INDEX=valkey.url
        ) as process:
            until_now(lambda: len(registry.matching(path="/v2/*/manifests/*")) >= 3)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert "scanned and recorded: run the same command again to resume" in err
        assert redis.Redis(unix_socket_path=str(valkey.socket)).exists(
            Keys().sources(Digest.of(BASE), registry.address)
        )


def test_targets_are_read_by_their_form() -> None:
    """A name is scanned without the catalogue, a pattern with it."""
    known = read_targets(["r.example/a", "r.example/a"], None)
    assert (known.names, known.patterns) == (("a",), ())
    mixed = read_targets(["r.example/a", "R.example:443/b*"], None)
    assert (mixed.names, mixed.patterns) == (None, ("a", "b*"))
    everything = read_targets(["r.example/b*", "r.example/"], None)
    assert (everything.names, everything.patterns) == (None, ())
    hub = read_targets(["docker.io/alpine"], None)
    assert hub.names == ("library/alpine",)
    with pytest.raises(InvalidReferenceError):
        read_targets(["r.example/a:1"], None)
    with pytest.raises(click.UsageError):
        read_targets(["team/app"], None)


def through(name: str, outcome: events.ScanOutcome = "scanned", cause: str = "") -> events.RepositoryScanned:
    """Return the event that the scan of a repository ended."""
    return events.RepositoryScanned(
        repository=Repository("r.example", name), outcome=outcome, tags=2, manifests=2, layers=7, cause=cause
    )


def ticking(step: float) -> Callable[[], float]:
    """Return a clock that advances on each call."""
    times = iter(range(1_000_000))
    return lambda: next(times) * step


def test_lines_say_now_and_then_how_far_it_is() -> None:
    """A log gets a status line every ten seconds and each failure; with -v each repository."""
    stream = io.StringIO()
    with LineDisplay(stream, ScanTracker(), clock=ticking(4.0)) as lines:
        for number in range(4):
            lines.observe(through(str(number)))
        lines.observe(through("x", "failed", "it is\nbroken"))
        lines.observe(through("y", "unreadable"))
    assert stream.getvalue().splitlines() == [
        "3 repositories, 6 tags, 21 layers",
        "crossmount: r.example/x: failed: it is broken",
        "6 repositories, 12 tags, 42 layers",
    ]
    stream = io.StringIO()
    with LineDisplay(stream, ScanTracker(), verbose=1, clock=ticking(0.0)) as lines:
        lines.observe(through("a"))
        lines.observe(through("b", "unreadable"))
        lines.observe(
            events.Retrying(method="GET", host="r.example", cause="429 Too Many Requests", attempt=1, wait=1.0)
        )
    assert stream.getvalue().splitlines() == [
        "r.example/a: 2 tags, 2 manifests, 7 layers",
        "r.example/b: unreadable",
        "crossmount: GET r.example: 429 Too Many Requests: attempt 1 failed, again in 1.0 s",
    ]


def test_a_terminal_gets_one_bar() -> None:
    """The bar shows the share if the number of repositories is known, and pulses otherwise."""
    for total in (4, None):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=80, highlight=False)
        with ScreenDisplay(stream, ScanTracker(total), clock=ticking(1.0), console=console) as bar:
            bar.observe(through("a"))
            bar.observe(through("b", "failed", "broken"))
        shown = stream.getvalue()
        assert "crossmount: r.example/b: failed: broken" in shown
        assert ("2 of 4 repositories, 4 tags" if total else "2 repositories, 4 tags") in shown


def test_lines_are_for_what_is_no_terminal() -> None:
    """A file gets lines."""
    assert isinstance(progress_display(io.StringIO(), ScanTracker(), verbose=0), LineDisplay)


def test_the_summary_marks_exceptions() -> None:
    """The report has counts that are not 0 only."""
    report = ScanReport(
        registry="r.example",
        resumed=True,
        listed=7,
        fitting=7,
        repositories=3,
        before=4,
        tags=5,
        fetched=6,
        known=7,
        layers=8,
        skipped=9,
        unreadable=10,
        failed=11,
        denied=0,
        remarks=(),
        seconds=1.5,
    )
    assert render_scan(report) == [
        "scanned r.example",
        "repositories  3, 4 done before, 10 not readable, 11 failed",
        "tags          5",
        "manifests     6 fetched, 7 known before, 9 skipped",
        "layers        8 recorded in the index",
        "took 1.5 s",
    ]
