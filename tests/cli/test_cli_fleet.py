import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest

from crossmount.asyncio import Digest, Fleet, Repository, open_index
from crossmount.cli.commands.fleet import fitted, render_uploads
from crossmount.fleet import Slots, UploadTurn
from crossmount.fleet.active_uploads import ActiveUpload, UploadRates
from crossmount.fleet.lease import LeaseValue
from crossmount.testing import running_registry
from support.commands import Here, Shell
from support.images import make_layers, make_layout
from support.servers import Server
from support.waiting import PATIENCE, until

LAYER = Digest.of(b"a layer")
LIFE = 3600.0
"""Seconds that a lease lives without a renewal: no busy machine lets one expire while it is shown."""


def value(name: str | None, since: float = 100.0, size: int = 0) -> LeaseValue:
    """Return the lease value of an uploader or a waiter."""
    dest = None if name is None else Repository.parse(f"r.example/{name}")
    return LeaseValue(token="t", holder="host:1" if name else "", dest=dest, size=size, since=since if name else 0)


async def shown(valkey: Server, shell: Shell, *options: str) -> str:
    """Return what the command prints while one uploads and another waits."""
    async with (
        open_index(valkey.url) as one,
        open_index(valkey.url) as two,
        Fleet(one, life=LIFE) as first,
        Fleet(two, life=LIFE) as second,
    ):
        repository = Repository.parse("r.example/team/app")
        turn = await first.turn(LAYER, repository, 12_000_000, slots=Slots(1))
        assert isinstance(turn, UploadTurn)
        waiter = asyncio.create_task(second.turn(LAYER, repository.sibling("team/b"), 12_000_000, slots=Slots(1)))
        await until(lambda: not second._poller.queues.idle and bool(second._gateway.called))
        while True:
            done = await asyncio.to_thread(shell, "fleet", "--index", valkey.url, *options)
            assert done.status == 0
            if "team/b" in done.out:
                break
        await turn.publish()
        await turn.release()
        await waiter
        return done.out


async def test_fleet_shows_who_uploads_and_who_waits(valkey: Server, shell: Shell) -> None:
    """Off a terminal it prints once: the layer, its size, the uploader, the destination and the waiters."""
    lines = (await shown(valkey, shell)).splitlines()
    assert lines[0] == "1 upload underway, 1 waiting"
    assert "r.example/team/app by " in lines[1]
    assert "12.0 MB" in lines[1]
    assert lines[2].strip().startswith("waits: r.example/team/b by ")


async def test_fleet_as_a_document(valkey: Server, shell: Shell) -> None:
    """`--json` prints the same for scripts."""
    (upload,) = json.loads(await shown(valkey, shell, "--json"))["uploads"]
    assert (upload["layer"], upload["registry"], upload["size"]) == (LAYER, "r.example", 12_000_000)
    assert upload["dest"] == "r.example/team/app"
    assert [waiter["dest"] for waiter in upload["waiting"]] == ["r.example/team/b"]
    assert upload["publishes"] == "blob"
    assert 0 < upload["lease_seconds"] <= LIFE


def test_nothing_underway(valkey: Server, here: Here) -> None:
    """Without an upload the list is empty and the status is 0, also for an index in memory."""
    for url in (valkey.url, "memory://"):
        assert here("fleet", "--index", url).out == "0 uploads underway, 0 waiting\n"
        assert here("fleet", "--index", url, "--json").document == {"uploads": []}


def test_fleet_refreshes_on_a_terminal_until_it_is_interrupted(valkey: Server, shell: Shell) -> None:
    """On a terminal the list is redrawn until Ctrl-C."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "crossmount", "fleet", "--index", valkey.url], stdout=theirs, env=dict(shell.env)
    )
    os.close(theirs)
    drawn = b""
    while drawn.count(b"0 uploads underway") < 2:
        drawn += os.read(ours, 4096)
    valkey.stop()
    while b"does not answer" not in drawn:
        drawn += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 0
    os.close(ours)


def test_what_is_reported() -> None:
    """Many waiters are counted, and a lease without an expiry is marked."""
    waiting = tuple(value(f"team/w{number}") for number in range(7))
    ours = ActiveUpload(
        registry="r.example", layer=LAYER, holder=value("team/a", size=1), seconds_left=5.0, waiting=waiting
    )
    odd = ActiveUpload(registry="r.example", layer=LAYER, holder=value(None), seconds_left=None, waiting=())
    lines = render_uploads([ours, odd], now=160.0)
    assert lines[0] == "2 uploads underway, 7 waiting"
    assert lines[1].endswith("r.example/team/a by host:1, for 60.0 s")
    assert lines[7] == "    and 2 more wait"
    assert lines[8].endswith("r.example by unknown (its lease never expires: not set by crossmount)")


def test_progress_rate_and_time_left() -> None:
    """Bytes done, rate and time left stand below the upload, as far as the pusher says them."""
    holder = replace(value("team/a", since=100.0, size=12_000_000), taken=100.0, sent=3_000_000)
    ours = ActiveUpload(registry="r.example", layer=LAYER, holder=holder, seconds_left=5.0, waiting=())
    rates = UploadRates()
    lines = render_uploads([ours], now=102.0, rates=rates)
    assert lines[2] == "    25 %, 3.00 MB done, 1.50 MB/s, 6.0 s left"
    unsized = replace(ours, holder=replace(holder, size=0, taken=None, since=0))
    assert render_uploads([unsized], now=102.0)[2] == "    3.00 MB done"


@pytest.mark.parametrize(("columns", "lines"), [(20, 5), (80, 24), (200, 50)])
async def test_watch_fits_a_terminal_of_any_size(valkey: Server, shell: Shell, columns: int, lines: int) -> None:
    """`--watch` draws within the terminal: no line is wider, and there are no more lines than it has."""
    async with open_index(valkey.url) as index, Fleet(index) as fleet:
        turns = [
            await fleet.turn(
                Digest.of(b"%d" % number),
                Repository.parse(f"r.example/team/app-{number}"),
                12_000_000,
                slots=Slots(1),
            )
            for number in range(9)
        ]
        drawn = await asyncio.to_thread(watched, valkey, shell, columns, lines)
        for turn in turns:
            assert isinstance(turn, UploadTurn)
            await turn.release()
    frame = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn).replace("\r", "")
    rows = frame.strip("\n").split("\n")
    assert frame.startswith("9 uploads underway"[:columns])
    assert max(map(len, rows[: lines - 1])) <= columns
    if lines < 10:
        assert "more lines" in frame


def watched(valkey: Server, shell: Shell, columns: int, lines: int) -> str:
    """Return the first frame that `fleet --watch` draws on a terminal of a size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    env = {key: text for key, text in shell.env.items() if key not in {"COLUMNS", "LINES"}} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "crossmount", "fleet", "--watch", "--index", valkey.url],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
    )
    os.close(theirs)
    drawn = b""
    while drawn.count(b"underway") < 2:
        drawn += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 0
    os.close(ours)
    return drawn[: drawn.rindex(b"9 uploads")].decode()


def test_watch_needs_a_terminal(here: Here) -> None:
    """Off a terminal `--watch` is an error that says so."""
    done = here("fleet", "--watch", "--index", "memory://")
    assert done.status == 2
    assert "--watch draws on a terminal" in done.complaint


def test_what_a_terminal_cannot_show_is_cut() -> None:
    """Lines are cut at the width of the terminal, and lines that do not fit are counted below the first ones."""
    lines = ["x" * 100, *map(str, range(30))]
    shown = fitted(lines, 80, 24)
    assert len(shown) == 23
    assert (len(shown[0]), shown[0][-1]) == (80, "…")
    assert shown[-1] == "and 9 more lines"
    assert fitted(["a", "b"], 80, 24) == ["a", "b"]


def test_push_waits_at_most_as_long_as_given(valkey: Server, here: Here, tmp_path: Path) -> None:
    """`--wait` limits the wait for a lease that never expires, and 0 does not wait."""
    image = make_layout(tmp_path / "image", make_layers(1, size=1_100_000))
    with running_registry() as registry:
        for number, wait in enumerate(("0.3", "0")):
            lease = f"crossmount:default:{{{image.layers[0].digest}}}:lease:{registry.address}"
            lend(valkey, lease)
            started = time.monotonic()
            done = here(
                *("push", str(image.path), f"{registry.address}/team/{number}:1", "--plain-http", "--json"),
                *("--index", valkey.url, "--wait", wait, "--namespace", "default"),
            )
            assert done.status == 0
            waited = [blob["waited"] for blob in done.document["blobs"] if "waited" in blob]
            assert bool(waited) == (wait != "0")
            assert time.monotonic() - started >= sum(waited)
            forget(valkey)


def lend(valkey: Server, key: str) -> None:
    """Write a lease that crossmount did not acquire."""
    import redis  # noqa: PLC0415 a bare client, for one line

    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.set(key, "stranger")


def forget(valkey: Server) -> None:
    """Empty the server, so that the second push has no source."""
    import redis  # noqa: PLC0415 the same

    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.flushall()
