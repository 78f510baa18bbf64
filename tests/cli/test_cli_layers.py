import pytest

from support.commands import Here
from support.servers import Server

LAYER = "sha256:" + "a" * 64
OTHER = "sha512:" + "b" * 128
DEST = "r.example/team/dest"
pytestmark = pytest.mark.usefixtures("valkey_index")


def test_what_was_added_is_a_source(here: Here) -> None:
    """`sources` lists the other repositories on dest's registry, one a line; tags are ignored."""
    added = here("add", LAYER, "r.example/team/base:1")
    assert (added.status, added.out, added.err) == (
        0,
        f"added r.example/team/base as a source of {LAYER}\n",
        "",
    )
    here("add", LAYER, "R.example:443/team/app")
    here("add", LAYER, "other.example/team/app")
    done = here("sources", LAYER, DEST)
    assert done.status == 0
    assert done.out == "r.example/team/app\nr.example/team/base\n"
    assert done.err == "known on other registries too: other.example\n"


def test_sources_in_json_are_exactly_the_document(here: Here) -> None:
    """`sources --json` prints a document with five members, and nothing else."""
    here("add", LAYER, "r.example/team/base", "--must-mount")
    done = here("sources", LAYER, f"{DEST}:1", "--json")
    assert done.err == ""
    assert done.document == {
        "layer": LAYER,
        "dest": DEST,
        "sources": ["r.example/team/base"],
        "mountable": True,
        "must_mount": True,
    }


def test_a_layer_that_dest_holds_is_not_mountable(here: Here) -> None:
    """A layer that dest has is not mountable, and dest is not listed as a source."""
    here("add", LAYER, DEST)
    done = here("sources", LAYER, DEST)
    assert done.out == ""
    assert done.err.splitlines() == [
        "no source is known on r.example",
        f"{DEST} is known to have it already",
    ]
    here("add", LAYER, "r.example/team/base", "--must-mount")
    assert here("sources", LAYER, DEST, "--json").document["mountable"] is False
    assert here("sources", LAYER, DEST).err.splitlines()[-1] == "it must be mounted, never uploaded"


def test_locate_lists_all_registries(here: Here) -> None:
    """`locate` lists every repository that has the layer, on all registries."""
    assert here("locate", OTHER).err == f"no repository is known to have {OTHER}\n"
    here("add", OTHER, "b.example/x")
    here("add", OTHER, "alpine")
    assert here("locate", OTHER).out == "b.example/x\ndocker.io/library/alpine\n"
    assert here("locate", OTHER, "--json").document == {
        "layer": OTHER,
        "locations": ["b.example/x", "docker.io/library/alpine"],
    }


def test_forget_says_whether_it_was_known(here: Here) -> None:
    """`forget` succeeds for an unknown source, and says so."""
    here("add", LAYER, "r.example/team/base")
    assert here("forget", LAYER, "r.example/team/base:2").out == (
        f"forgot r.example/team/base as a source of {LAYER}\n"
    )
    assert here("forget", LAYER, "r.example/team/base").out == (
        f"r.example/team/base was not known as a source of {LAYER}\n"
    )
    assert here("forget", LAYER, "r.example/team/base", "--json").document == {
        "layer": LAYER,
        "source": "r.example/team/base",
        "was_known": False,
    }
    assert here("locate", LAYER).out == ""


def test_the_flag_is_shown_and_lifted(here: Here) -> None:
    """A must-mount flag survives the addition of a plain source, and `--clear` clears it."""
    assert here("must-mount", LAYER).out == f"{LAYER} may be uploaded\n"
    done = here("add", LAYER, "r.example/a", "--must-mount", "--why", "one copy")
    assert done.out == f"added r.example/a as a source of {LAYER}, must-mount is set\n"
    assert here("add", LAYER, "r.example/b", "--json").document == {
        "layer": LAYER,
        "source": "r.example/b",
        "must_mount": True,
    }
    shown = here("must-mount", LAYER).out
    assert shown.startswith(f"{LAYER} must be mounted: ")
    assert shown.endswith(" UTC: one copy\n")
    document = here("must-mount", LAYER, "--json").document
    assert (document["must_mount"], document["why"]) == (True, "one copy")
    assert document["who"] in shown
    assert document["since"] > 0
    assert here("must-mount", LAYER, "--clear", "--json").document == {
        "layer": LAYER,
        "must_mount": False,
        "was_set": True,
    }
    assert here("must-mount", LAYER).out == f"{LAYER} may be uploaded\n"


def test_a_flag_that_was_not_set_is_not_lifted(here: Here) -> None:
    """`--clear` says if the flag was not set, since the digest may be mistyped."""
    assert here("must-mount", LAYER, "--clear").out == f"{LAYER} may be uploaded: the flag was not set\n"
    assert here("must-mount", LAYER, "--clear", "--json").document["was_set"] is False
    here("add", LAYER, "r.example/a", "--must-mount")
    assert here("must-mount", LAYER, "--clear").out == f"{LAYER} may be uploaded\n"


def test_the_help_says_when_the_flag_does_not_count(here: Here) -> None:
    """The help says that a push without the index ignores the flag."""
    words = " ".join(here("add", "--help").out.split()).replace("- ", "-")
    assert "by every push that reaches this index" in words
    words = " ".join(here("help", "options").out.split())
    assert "Without an index, or while it is unreachable, must-mount flags have no effect." in words


def test_namespaces_do_not_see_each_other(here: Here) -> None:
    """A tenant cannot read the entries of another."""
    here("add", LAYER, "r.example/a", "--namespace", "one")
    assert here("locate", LAYER, "--namespace", "two").out == ""
    assert here("locate", LAYER, "--namespace", "one").out == "r.example/a\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--index", "redis://127.0.0.1:1"), 1, "index at redis://127.0.0.1:1 does not answer"),
        (("--index", "redis://me:hidden@127.0.0.1:1"), 1, "is it running, and is --index right?"),
        (("--index", "ftp://x"), 2, "not an index URL"),
        (("--index", "redis://x:nonsense"), 2, "index URL"),
        (("--index", "off"), 2, "this needs an index, and it is off"),
        (("--namespace", "a b"), 2, "not a namespace: 'a b'"),
    ],
)
@pytest.mark.parametrize("command", ["sources", "locate", "add", "forget", "must-mount"])
def test_trouble_with_the_index_is_one_line(
    here: Here, command: str, arguments: tuple[str, ...], status: int, words: str
) -> None:
    """A failure of the index is one line without secrets and a status; with `--json` also a document."""
    operands = (LAYER, "r.example/a") if command in {"sources", "add", "forget"} else (LAYER,)
    done = here(command, *operands, *arguments, "--json")
    assert done.status == status
    assert done.document["error"]["exit_status"] == status
    assert words in done.document["error"]["message"]
    assert words in done.complaint
    assert "hidden" not in done.err + done.out


def test_a_server_that_refuses_is_reported(here: Here, valkey: Server) -> None:
    """A server's refusal is part of the message."""
    done = here("locate", LAYER, "--index", f"redis://me:hidden@127.0.0.1:{valkey.port}")
    assert done.status == 1
    assert "WRONGPASS" in done.complaint.upper() or "invalid username-password" in done.complaint
    assert "hidden" not in done.err
