"""`crossmount push` that is ended by a signal, or whose output is closed, full or a terminal."""

import asyncio
import fcntl
import json
import os
import pty
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import IO

import pytest

from crossmount.cli.commands import push as push_command
from crossmount.testing import Fault, ScriptedRegistry
from crossmount.testing.faults import Reply
from crossmount.transfer.push_list import push_one
from support.commands import SECONDS, Here, Shell, plain, read_terminal
from support.images import MadeImage
from support.waiting import until_now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_an_upload_leaves_nothing_behind(
    shell: Shell, image: MadeImage, registry: ScriptedRegistry, number: signal.Signals
) -> None:
    """The status is 128 plus the signal's number, sessions are cancelled, and nothing is tagged or recorded."""
    registry.play(*(Fault(method="PUT", path="*/uploads/*", delay=SECONDS) for _ in image.blobs))
    arguments = ("push", str(image.path), *plain(registry, "a"), "--index", "off")
    with shell.start(*arguments) as process:
        until_now(lambda: not registry.unplayed)
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number
    assert out == ""
    assert err.splitlines()[-1].endswith(f"{registry.address}/a was not pushed: push again to resume")
    assert "Traceback" not in err
    assert registry.open_sessions == ()
    assert not registry.holdings.find("a").tags


def test_an_interrupted_push_says_how_far_it_was(
    here: Here, image: MadeImage, registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal after the tag was pushed is reported as such."""

    async def pushed_and_interrupted(*arguments: object, **options: object) -> None:
        await push_one(*arguments, **options)  # type: ignore[arg-type]  # passed on as they are
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    monkeypatch.setattr(push_command, "push_one", pushed_and_interrupted)
    done = here("push", str(image.path), *plain(registry, "a"), "--index", "off")
    assert done.status == 130
    assert done.err.splitlines()[-1] == f"crossmount: interrupted: after {registry.address}/a was pushed"


def test_a_signal_in_the_last_step_leaves_the_tag_uncertain(
    shell: Shell, image: MadeImage, registry: ScriptedRegistry
) -> None:
    """A signal while the manifest is pushed says that the tag may or may not exist."""
    registry.play(Fault(method="PUT", path="*/manifests/*", delay=SECONDS))
    with shell.start("push", str(image.path), *plain(registry, "a:1"), "--index", "off") as process:
        until_now(lambda: not registry.unplayed)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    words = f"during the last step: {registry.address}/a:1 may or may not exist, push again to be sure"
    assert err.splitlines()[-1] == f"crossmount: interrupted: {words}"


def test_a_push_that_failed_leaves_no_bars_of_what_did_not_end(
    shell: Shell, image: MadeImage, registry: ScriptedRegistry
) -> None:
    """On a terminal, the bars of blobs that were not pushed vanish when the push fails."""
    registry.play(Fault(method="PUT", skip=1, times=None, delay=0.4, action=Reply(status=403)))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "crossmount", "push", str(image.path), *plain(registry, "a"), "--index", "off"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**shell.env, "TERM": "xterm"},
    ):
        os.close(theirs)
        drawn = read_terminal(ours)
    os.close(ours)
    assert "uploading" in drawn or "verifies it" in drawn  # while it went on
    last = drawn.rpartition("\x1b[2K")[2]
    assert "crossmount: 403" in last
    assert all(words not in last for words in ("uploading", "waiting", "verifies it"))


def pushed_with_output_to(
    output: int | IO[str], shell: Shell, image: MadeImage, registry: ScriptedRegistry
) -> "subprocess.CompletedProcess[str]":
    """Push an image in its own process, with `output` as its standard output."""
    return subprocess.run(
        [sys.executable, "-m", "crossmount", "push", str(image.path), *plain(registry, "a"), "--index", "off"],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(shell.env),
        check=False,
        timeout=SECONDS,
    )


def test_a_reader_that_is_gone_is_no_traceback(shell: Shell, image: MadeImage, registry: ScriptedRegistry) -> None:
    """A closed pipe ends the command without a message; the image is pushed."""
    reading, writing = os.pipe()
    os.close(reading)
    done = pushed_with_output_to(writing, shell, image, registry)
    os.close(writing)
    assert done.returncode == 1
    assert all(line.endswith("uploaded") for line in done.stderr.splitlines())
    assert registry.holdings.find("a").tags


def test_a_full_disk_under_standard_output_is_one_line(
    shell: Shell, image: MadeImage, registry: ScriptedRegistry
) -> None:
    """If the report cannot be written, one line says so and that the image was pushed."""
    with Path("/dev/full").open("w") as full:
        done = pushed_with_output_to(full, shell, image, registry)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "crossmount: standard output cannot be written: No space left on device: "
        f"{registry.address}/a:latest was pushed nevertheless"
    )
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_output_is_no_success_unless_nothing_was_to_be_said_there(
    shell: Shell, image: MadeImage, registry: ScriptedRegistry, closed: int
) -> None:
    """Closed standard output is status 1; with closed standard error only the progress is lost."""
    command = shlex.join([sys.executable, "-m", "crossmount", "push", str(image.path), *plain(registry, "a")])
    done = subprocess.run(
        ["sh", "-c", f"{command} --index off {closed}>&-"],
        capture_output=True,
        text=True,
        env=dict(shell.env),
        check=False,
        timeout=SECONDS,
    )
    assert registry.holdings.find("a").tags
    if closed == 1:
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("crossmount: standard output is closed: ")
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("pushed ")


def test_a_terminal_gets_bars(shell: Shell, image: MadeImage, registry: ScriptedRegistry) -> None:
    """On a terminal each blob has a bar, and standard output has the report only."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "crossmount", "push", str(image.path), *plain(registry, "a"), "--json"]
    env = {**shell.env, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "CROSSMOUNT_INDEX": "off"}
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=env) as process:
            os.close(theirs)
            drawn = read_terminal(ours)
            out, _ = process.communicate(timeout=SECONDS)
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert json.loads(out)["index"] == "off"
    assert "━━━━" in drawn
    assert "4 of 4 blobs" in drawn
