"""`crossmount index export` and `import`."""

import io
import json
import signal
import subprocess
import sys

import pytest

import crossmount
import redis
from crossmount.index import Keys, Sighting
from crossmount.oci import Digest
from support.commands import Here, Shell
from support.index_kit import layer, repo
from support.servers import Server
from support.waiting import until_now

pytestmark = pytest.mark.usefixtures("valkey_index")


def test_an_export_is_imported(here: Here, shell: Shell, valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export can be imported, through files and pipes, into another namespace."""
    here("add", layer(1), "r.example/team/a", "--must-mount")
    here("add", layer(2), "r.example/team/b")
    piped = shell("index", "export", CROSSMOUNT_INDEX=valkey.url)
    assert (piped.status, piped.err) == (0, "exported 2 layers, 1 of them must-mount, 2 sources\n")
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
    """A failed export does not replace an existing file and leaves no temporary file."""
    saved = shell.folder / "saved.jsonl"
    saved.write_text("precious")
    done = here("index", "export", str(saved), "--index", "redis://127.0.0.1:1")
    assert done.status == 1
    assert saved.read_text() == "precious"
    assert [path.name for path in shell.folder.iterdir() if "saved" in path.name] == ["saved.jsonl"]
    absent = shell.folder / "no" / "folder"
    assert here("index", "export", str(absent)).complaint.endswith(f"{absent}: No such file or directory")
    assert "No space left" in here("index", "export", "/dev/full").complaint
    assert here("index", "export", str(shell.folder)).status == 2


def test_a_file_that_is_no_export_is_reported_with_its_line(here: Here, shell: Shell) -> None:
    """An invalid file is status 2, with file, line, cause and the number of imported layers."""
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
    """If the index fails during an import, the output has the number of imported layers, and they stay."""
    saved = shell.folder / "saved.jsonl"
    with crossmount.open_index("memory:") as index, saved.open("wb") as file:
        index.record([Sighting(layer(number), repo("team/a")) for number in range(1500)])
        crossmount.export_index(index, file)
    late = json.loads(saved.read_text().splitlines()[1200])["layer"]
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.set(Keys().flags(Digest(late)), "x", ex=600)
    done = here("index", "import", str(saved))
    assert done.status == 1
    first, second = done.err.splitlines()
    assert first == "1024 layers imported so far: importing again is safe"
    assert "holds something else under a key of ours" in second


def test_an_import_that_waits_for_a_terminal_can_be_interrupted(shell: Shell, valkey: Server) -> None:
    """Ctrl-C ends an import that waits for input."""
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
        until_now(lambda: bool(client.exists(Keys().sources(layer(2), "r.example"))))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        process.wait()
    assert process.returncode == 130
    assert said.startswith("crossmount: interrupted: ")
    assert ": 1 layer imported so far" in said or ": 2 layers imported so far" in said
