"""`crossmount index info`."""

import pytest

import crossmount
from crossmount.cli.commands.index import render_info
from crossmount.index import Keys, Sighting
from crossmount.maintenance import IndexInfo, RegistryInfo
from support.commands import Here
from support.index_kit import layer, repo
from support.servers import Server

pytestmark = pytest.mark.usefixtures("valkey_index")
A, B = repo("team/a"), repo("team/b")


def test_info_says_what_the_index_holds(here: Here, valkey: Server) -> None:
    """The output has the numbers of the index, as lines and as JSON."""
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
    """Estimated numbers are marked as estimates."""
    with crossmount.open_index(valkey.unix_url) as index:
        index.record([Sighting(layer(number), A, 1) for number in range(3000)])
    lines = here("index", "info", "--sample", "1000").out.splitlines()
    assert lines[1].startswith("  layers      about ")
    assert lines[-1].startswith("estimated from ")
    assert here("index", "info", "--sample", "0").status == 2


def test_info_marks_exceptions() -> None:
    """The output marks flagged layers without a source, unknown sizes, and registries that are not listed."""
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
    lines = render_info(info)
    assert "  must-mount  2, 1 WITHOUT a source" in lines
    assert "  renewed     never" in lines
    assert "  hit rate    no look-ups yet" in lines
    assert "  underway    1 upload" in lines
    assert "  keys        7, of unknown size" in lines
    assert lines[-1] == "  and 5 more registries"


def test_an_upgrade_says_what_it_carried_over(here: Here, valkey: Server) -> None:
    """The flags of 0.1.0 are listed by a dry run, and carried over by an upgrade."""
    with valkey.client() as client:
        client.hset(Keys().flags(layer(1)), "must_mount", "1")
    assert here("index", "upgrade", "--dry-run").out.splitlines() == [
        "1 must-mount flag of 0.1.0 found, nothing was changed",
        f"  {layer(1)}  size unknown, in no known repository",
    ]
    assert here("index", "upgrade", "--json").document == {
        "dry_run": False,
        "cleared": False,
        "must_mount_flags": 1,
        "layers": [layer(1)],
        "flags": [{"layer": layer(1), "size": None, "sources": []}],
        "layers_looked_at": 1,
    }
    assert here("index", "upgrade").out == "0 must-mount flags of 0.1.0 carried over\n"
    assert here("must-mount", layer(1), "--json").document["must_mount"] is True


def test_an_upgrade_of_one_layer_leaves_the_others(here: Here, valkey: Server) -> None:
    """An operator names the layers to carry over, sees where each is, and clears the flags that are left."""
    with valkey.client() as client:
        for number in (1, 2):
            client.hset(Keys().flags(layer(number)), mapping={"must_mount": "1", "size": "5000"})
            here("add", layer(number), "r.example/base/debian")
    here("add", layer(2), "r.example/team/web")
    assert here("index", "upgrade", layer(1)).out.splitlines() == [
        "1 must-mount flag of 0.1.0 carried over",
        f"  {layer(1)}  5.00 kB, in r.example/base/debian",
    ]
    assert here("index", "upgrade", "--clear").out.splitlines() == [
        "1 must-mount flag of 0.1.0 cleared",
        f"  {layer(2)}  5.00 kB, in r.example/base/debian and 1 more",
    ]
    assert here("must-mount", layer(2), "--json").document["must_mount"] is False
