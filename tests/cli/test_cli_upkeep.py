"""`crossmount index info`, `prune`, `export` and `import`."""

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
import redis
from rich.console import Console

import crossmount
from crossmount import events
from crossmount.cli.index_info import told as told_info
from crossmount.cli.index_prune import told as told_prune
from crossmount.cli.prune_progress import PruneState
from crossmount.cli.work_live import WorkBar
from crossmount.cli.work_progress import WorkLines
from crossmount.index import Keys, Sighting
from crossmount.oci import Digest, Repository
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, running_registry
from crossmount.upkeep import IndexInfo, PruneReport, RegistryInfo
from crossmount.upkeep.prune import PAGE
from support.commands import Here, Shell
from support.index_kit import layer, repo
from support.places import Place
from support.servers import Server
from support.waiting import until_now

A, B = repo("team/a"), repo("team/b")
STRANDED = (
    "1 layer may only be mounted and has no source left: nobody can push what needs it "
    "(crossmount add, or crossmount must-mount --clear)"
)


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """Give a registry."""
    with running_registry() as registry:
        yield registry


@pytest.fixture(autouse=True)
def _index(valkey: Server, monkeypatch: pytest.MonkeyPatch, here: Here) -> None:
    """Let the index be an empty Valkey."""
    del here
    monkeypatch.setenv("CROSSMOUNT_INDEX", valkey.unix_url)


def fill(url: str, registry: ScriptedRegistry, held: int, gone: int) -> Repository:
    """Let the index know layers in a repository, of which the registry holds some."""
    place = Repository(registry.address, "team/app")
    there = [registry.put_blob(place.name, b"%d" % number) for number in range(held)]
    with crossmount.open_index(url) as index:
        index.record([Sighting(digest, place, 7) for digest in there])
        index.record([Sighting(layer(number), place) for number in range(gone)])
    return place


def test_info_says_what_the_index_holds(here: Here, valkey: Server) -> None:
    """In words and as JSON."""
    with crossmount.open_index(valkey.unix_url) as index:
        index.look_up([layer(1)], A)
        index.record([Sighting(layer(1), A, 1000), Sighting(layer(1), B), Sighting(layer(2), A, must_mount=True)])
    done = here("index", "info")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"index: {valkey.unix_url}, namespace default"
    assert lines[1:6] == [
        "  layers      2, 1.00 kB, 1 of unknown size",
        "  sources     3",
        "  must-mount  1",
        "  renewed     0.0 s ago the newest, 0.0 s the median, 0.0 s the oldest",
        "  hit rate    0.0 % of 1 layer that pushers asked for in two weeks",
    ]
    assert lines[6] == "  underway    0 uploads"
    assert lines[7].startswith("  keys        5, about ")
    assert lines[8:] == ["  r.example  2 layers, 3 sources, 1.00 kB"]
    document = here("index", "info", "--json").document
    assert document.pop("memory_bytes") > 0
    assert document.pop("server_memory_bytes") > 0
    assert document == {
        "index": valkey.unix_url,
        "namespace": "default",
        "layers": 2,
        "sources": 3,
        "size_bytes": 1000,
        "layers_of_unknown_size": 1,
        "must_mount": {"layers": 1, "without_sources": 0},
        "registries": {"r.example": {"layers": 2, "sources": 3, "size_bytes": 1000}},
        "renewed_seconds_ago": {"newest": 0.0, "median": 0.0, "oldest": 0.0},
        "look_ups": {"layers": 1, "known": 0, "hit_rate": 0.0},
        "keys": 5,
        "leases": 0,
        "keys_looked_at": 5,
        "estimated": False,
    }
    assert here("index", "info", "--json", "--namespace", "other").document["layers"] == 0


def test_info_of_a_sample_says_that_it_is_one(here: Here, valkey: Server) -> None:
    """What is estimated is told so."""
    with crossmount.open_index(valkey.unix_url) as index:
        index.record([Sighting(layer(number), A, 1) for number in range(3000)])
    lines = here("index", "info", "--sample", "1000").out.splitlines()
    assert lines[1].startswith("  layers      about ")
    assert lines[-1].startswith("estimated from ")
    assert here("index", "info", "--sample", "0").status == 2


def test_the_embedded_index_can_be_looked_after(here: Here, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any other: counted, written out, emptied, taken in."""
    monkeypatch.delenv("CROSSMOUNT_INDEX")
    saved = shell.folder / "saved.jsonl"
    here("add", layer(1), "r.example/team/a")
    assert here("index", "info", "--json").document["layers"] == 1
    assert here("index", "export", str(saved)).err == "exported 1 layer, in 1 place\n"
    here("forget", layer(1), "r.example/team/a")
    assert here("index", "import", str(saved)).out == "imported 1 layer, in 1 place\n"
    assert here("locate", layer(1)).out == "r.example/team/a\n"


@pytest.mark.parametrize("arguments", [("info",), ("export",), ("prune",)])
def test_who_may_not_look_at_all_keys_is_told_who_may(
    here: Here, restricted: Place, arguments: tuple[str, ...]
) -> None:
    """One line that names the user; a pusher may import."""
    done = here("index", *arguments, "--index", restricted.url)
    assert done.status == 1
    assert "crossmount-operator in deploy/redis/users.acl" in done.complaint
    assert here("index", *arguments, "--index", restricted.operator_url).status == 0


@pytest.mark.parametrize("arguments", [("info",), ("export",), ("prune",), ("import", os.devnull)])
def test_an_index_that_is_off_or_gone_is_told(here: Here, arguments: tuple[str, ...]) -> None:
    """There is nothing to look after."""
    done = here("index", *arguments, "--index", "off")
    assert done.status == 2
    assert "this needs an index" in done.complaint
    if arguments[0] != "import":
        done = here("index", *arguments, "--index", "redis://127.0.0.1:1")
        assert done.status == 1
        assert "does not answer" in done.complaint


def test_prune_forgets_what_is_gone(here: Here, registry: ScriptedRegistry, valkey: Server) -> None:
    """The summary adds up, in words and as JSON; a dry run comes first."""
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
        "remarks": [],
    }
    done = here("index", "prune", "--plain-http")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[:-1] == [
        "verified 5 sources",
        "         3 still there",
        "         2 gone, and forgotten",
        f"{STRANDED}:",
        f"  {layer(0)}",
    ]
    assert here("must-mount", layer(0), "--json").document["must_mount"] is True
    assert here("index", "prune", "--plain-http", "--json").document["sources"]["gone"] == 0


def test_what_was_not_verified_is_told_and_the_status_says_so(
    here: Here, registry: ScriptedRegistry, valkey: Server
) -> None:
    """A registry that does not answer has one line, however many layers it has; all of it stays."""
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
    """By registry, by repository."""
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
def test_wrong_usage_of_prune_is_told(here: Here, arguments: tuple[str, ...], words: str) -> None:
    """One line, status 2."""
    done = here("index", "prune", *arguments)
    assert done.status == 2
    assert words in done.complaint


def test_a_prune_killed_in_the_middle_is_gone_on_with(shell: Shell, valkey: Server) -> None:
    """Kill -9: what was verified until then is not asked for again, a page aside, and nothing is left out."""
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


def test_a_prune_that_is_interrupted_says_how_to_go_on(shell: Shell, valkey: Server) -> None:
    """Status 130."""
    with running_registry(RegistryOptions(latency=0.05)) as registry:
        fill(valkey.url, registry, 500, 0)
        arguments = ("index", "prune", "--plain-http", "--requests", "2")
        with shell.start(*arguments, CROSSMOUNT_INDEX=valkey.url) as process:
            until_now(lambda: len(registry.matching(method="HEAD")) >= 5)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=50)
    assert process.returncode == 130
    assert "gone: what is gone was forgotten so far: run the same command again to go on" in err


def test_an_export_is_imported(here: Here, shell: Shell, valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through files and through pipes, into the namespace that is named."""
    here("add", layer(1), "r.example/team/a", "--must-mount")
    here("add", layer(2), "r.example/team/b")
    piped = shell("index", "export", CROSSMOUNT_INDEX=valkey.url)
    assert (piped.status, piped.err) == (0, "exported 2 layers, 1 of them must-mount, in 2 places\n")
    saved = shell.folder / "saved.jsonl"
    assert here("index", "export", str(saved)).out == ""
    header, *rest = map(json.loads, saved.read_text().splitlines())
    assert header == {"crossmount": "index", "version": 1, "namespace": "default"}
    assert sorted(line["layer"] for line in rest) == sorted([layer(1), layer(2)])
    assert all(1209000 < line["expires_in"]["r.example"] <= 1209600 for line in rest)
    assert list(shell.folder.glob(".saved*")) == []
    done = here("index", "import", str(saved), "--namespace", "copy", "--json")
    assert done.document == {"layers": 2, "sources": 2, "must_mount": 1}
    assert here("locate", layer(1), "--namespace", "copy").out == "r.example/team/a\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped.out.encode())))
    assert here("index", "import", "-", "--namespace", "piped").out.startswith("imported 2 layers")
    assert here("must-mount", layer(1), "--namespace", "piped", "--json").document["must_mount"] is True


def test_an_export_that_fails_leaves_what_was_there(here: Here, shell: Shell) -> None:
    """A good export is not lost to a bad one, and nothing half is left behind."""
    saved = shell.folder / "saved.jsonl"
    saved.write_text("precious")
    done = here("index", "export", str(saved), "--index", "redis://127.0.0.1:1")
    assert done.status == 1
    assert saved.read_text() == "precious"
    assert [path.name for path in shell.folder.iterdir() if "saved" in path.name] == ["saved.jsonl"]
    assert "No such file" in here("index", "export", str(shell.folder / "no" / "folder")).complaint
    assert "No space left" in here("index", "export", "/dev/full").complaint
    assert here("index", "export", str(shell.folder)).status == 2


def test_a_file_that_is_no_export_is_told_with_its_line(here: Here, shell: Shell) -> None:
    """FILE:LINE and what is wrong, how many layers were imported, status 2."""
    saved = shell.folder / "saved.jsonl"
    header = {"crossmount": "index", "version": 1}
    good = {"layer": layer(1), "sources": {"r.example": ["team/a"]}}
    lines = [header, good, {**good, "sources": {"r.example": ["UPPER"]}}]
    saved.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = here("index", "import", str(saved))
    assert done.status == 2
    assert done.complaint.startswith(f"{saved}:3: not a repository name: 'UPPER'")
    assert done.complaint.endswith(": 1 layer before that was imported")
    assert here("locate", layer(1)).out == "r.example/team/a\n"
    assert "No such file" in here("index", "import", str(shell.folder / "nothing")).complaint


def test_an_index_that_fails_in_the_middle_says_how_far_it_came(here: Here, shell: Shell, valkey: Server) -> None:
    """What was imported stays, and it can be imported again."""
    saved = shell.folder / "saved.jsonl"
    with crossmount.open_index("memory:") as index, saved.open("wb") as file:
        index.record([Sighting(layer(number), A) for number in range(1500)])
        crossmount.export_index(index, file)
    late = json.loads(saved.read_text().splitlines()[1200])["layer"]
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.set(Keys().flags(Digest(late)), "x", ex=600)
    done = here("index", "import", str(saved))
    assert done.status == 1
    first, second = done.err.splitlines()
    assert first == "1024 layers imported until then: importing them again does no harm"
    assert "holds something else under a key of ours" in second


def test_an_import_that_waits_for_a_terminal_can_be_interrupted(shell: Shell, valkey: Server) -> None:
    """Ctrl-C ends a read that would wait for ever."""
    with (
        redis.Redis(unix_socket_path=str(valkey.socket)) as client,
        subprocess.Popen(
            [sys.executable, "-m", "crossmount", "index", "import", "--index", valkey.url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(shell.env),
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b'{"crossmount": "index", "version": 1}\n')
        for number in (1, 2):  # once the second is there, the first one is through
            line = {"layer": layer(number), "sources": {"r.example": [f"a/{name}" for name in range(600)]}}
            process.stdin.write(json.dumps(line).encode() + b"\n")
        process.stdin.flush()
        until_now(lambda: bool(client.exists(Keys().flags(layer(2)))))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        process.wait()
    assert process.returncode == 130
    assert said.startswith("crossmount: interrupted: ")
    assert said.endswith((": 1 layer imported\n", ": 2 layers imported\n"))


def verified(verdict: events.Verdict, registry: str = "r.example", cause: str = "") -> events.SourceVerified:
    """Let a source be verified."""
    return events.SourceVerified(layer=layer(1), source=Repository(registry, "a"), verdict=verdict, cause=cause)


def test_lines_say_how_far_a_prune_is() -> None:
    """Now and then; failures at once, a lost registry once, the rest only with -v."""
    times = iter(range(0, 1000, 4))
    stream = io.StringIO()
    with WorkLines(stream, PruneState(), clock=lambda: float(next(times))) as lines:
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
    with WorkLines(stream, PruneState(), verbose=1, clock=lambda: 0.0) as lines:
        lines.observe(verified("held"))
        lines.observe(verified("gone"))
    assert stream.getvalue() == f"{layer(1)} in r.example/a: gone\n"


def test_a_terminal_gets_one_bar_for_a_prune() -> None:
    """It fills with the keys that were looked at, where the server says how many there are."""
    for total in (400, None):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=90, highlight=False)
        with WorkBar(stream, PruneState(), clock=lambda: 0.0, console=console) as bar:
            bar.observe(events.IndexWalked(keys=200, total=total))
            bar.observe(verified("gone"))
        assert ("50 % of the index, 1 source, 1 gone" if total else "  1 source, 1 gone") in stream.getvalue()


def test_the_summary_of_a_prune_tells_what_is_odd() -> None:
    """Only where it is."""
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
    lines = told_prune(report)
    assert lines[:7] == [
        "verified 21 sources, after those of a prune that was not finished",
        "         1 still there",
        "         2 gone, and left in the index",
        "         4 that we may not read, kept",
        "         3 that may be hidden from us, kept",
        "         5 not verified, kept",
        "         6 on registries that do not answer, kept",
    ]
    assert lines[7].startswith("25 layers may only be mounted and have no source left")
    assert lines[-2:] == ["  and 5 more", "took 1.5 s"]


def test_info_tells_what_is_odd() -> None:
    """Flagged layers that nobody can push, what a server does not tell, and more registries than one reads."""
    info = IndexInfo(
        layers=3,
        sources=2,
        size=5,
        unsized=0,
        flagged=2,
        stranded=1,
        registries={f"r{number}.example": RegistryInfo(layers=1, sources=1, size=1) for number in range(25)},
        newest=None,
        median=None,
        oldest=None,
        asked=0,
        known=0,
        keys=7,
        leases=1,
    )
    lines = told_info(info)
    assert "  must-mount  2, 1 WITHOUT a source" in lines
    assert "  renewed     never" in lines
    assert "  hit rate    nobody looked yet" in lines
    assert "  underway    1 upload" in lines
    assert "  keys        7, of a size that the server does not tell" in lines
    assert lines[-1] == "  and 5 more registries"


def test_the_help_names_what_a_prune_takes(here: Here) -> None:
    """Options have their variables, and the user who may is named."""
    words = " ".join(here("index", "prune", "--help").out.split())
    for part in ("CROSSMOUNT_PRUNE_REQUESTS", "CROSSMOUNT_PRUNE_RATE", "crossmount-operator"):
        assert part in words
    assert {"info", "prune", "export", "import"} <= set(here("index", "--help").out.split())
