import io
import os
import pty
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from crossmount import events
from crossmount._formatting import short
from crossmount.cli.progress import transfer
from crossmount.cli.progress.display import LineDisplay, progress_display
from crossmount.cli.progress.screen import ScreenDisplay
from crossmount.cli.progress.transfer import STATUS_SECONDS, TransferTracker, index_warning
from crossmount.errors import RegistryError
from crossmount.oci import Digest, Reference, Repository

SOURCE = Repository("r.example", "team/base")


def digest(number: int) -> Digest:
    """Return one of many digests, which differ in the first twelve digits."""
    return Digest(f"sha256:{number:012x}{0:052x}")


def started(number: int, size: int = 1000) -> events.BlobStarted:
    """Return the event that a blob started."""
    return events.BlobStarted(digest=digest(number), size=size)


def finished(number: int, outcome: events.Outcome = "uploaded", size: int = 1000) -> events.BlobFinished:
    """Return the event that a blob is in its repository."""
    source = SOURCE if outcome == "mounted" else None
    return events.BlobFinished(digest=digest(number), size=size, outcome=outcome, source=source)


def sent(number: int, count: int) -> events.BlobProgress:
    """Return the event that bytes of a blob were sent."""
    return events.BlobProgress(digest=digest(number), sent=count)


def state_after(*happened: events.Event) -> TransferTracker:
    """Return the state after events that come a second apart."""
    state = TransferTracker()
    for now, event in enumerate(happened):
        state.apply(event, now=float(now))
    return state


def steps() -> Callable[[], float]:
    """Return a clock that advances by a minute on each call."""
    times = iter(range(0, 100_000, 60))
    return lambda: float(next(times))


def test_what_becomes_of_a_blob_is_printed_in_words() -> None:
    """A blob that waits, is uploaded or is verified has its own text, and so does each outcome."""
    happened: list[events.Event] = [started(1), sent(1, 250), sent(1, 500), sent(1, 1000)]
    words = [state_after(*happened[: n + 1]).blobs[None, digest(1)].status(3.0) for n in range(4)]
    assert words == ["waiting", "uploading, 125 B/s", "uploading, 250 B/s", "the registry verifies it"]
    outcomes: tuple[events.Outcome, ...] = ("existing", "mounted", "uploaded")
    ends = [state_after(started(1), finished(1, kind)) for kind in outcomes]
    assert [end.blobs[None, digest(1)].status(3.0) for end in ends] == [
        "already there",
        "mounted from team/base",
        "uploaded",
    ]


def test_a_blob_that_the_registry_is_storing_is_said_to_be() -> None:
    """Bar and line say that the registry is storing the blob; a log does so now and then, not for each attempt."""
    committing = events.BlobCommitting(digest=digest(1), size=1000)
    state = state_after(started(1), sent(1, 1000), committing)
    bar = state.blobs[None, digest(1)].bar(9.0)
    assert (bar.text, bar.waiting) == ("waiting for the registry to store it", True)
    [line] = state.log_lines(committing, now=9.0)
    assert line.endswith("waiting for the registry to store it")
    assert list(state.log_lines(committing, now=9.0 + STATUS_SECONDS - 1)) == []
    assert list(state.log_lines(committing, now=9.0 + STATUS_SECONDS)) == [line]
    state.apply(sent(1, 10), now=10.0)
    assert "waiting" not in state.blobs[None, digest(1)].status(11.0)
    assert list(TransferTracker().log_lines(committing, now=0.0)) == []


def test_a_mount_that_the_registry_found_names_no_source() -> None:
    """A mount whose source the registry chose names no source."""
    state = state_after(events.BlobFinished(digest=digest(1), size=1, outcome="mounted"))
    assert state.blobs[None, digest(1)].status(0) == "mounted, found by the registry"


def test_a_blob_has_no_speed_before_time_has_passed() -> None:
    """The speed is 0 at the moment of the first bytes."""
    blob = state_after(started(1), sent(1, 500)).blobs[None, digest(1)]
    assert blob.speed(1.0) == 0
    assert blob.speed(2.0) == 500


def test_images_of_a_copy_are_counted_and_their_blobs_kept_no_more() -> None:
    """The blobs of a copied image are removed but counted in the total; later events of theirs are ignored."""
    source, dest = Reference.parse("a.example/x:1"), Reference.parse("b.example/x:1")
    at = dest.repository
    begun = [replace(started(n), dest=at) for n in (1, 2)]
    ended = replace(finished(1), dest=at)
    state = state_after(*begun, ended, events.ImageCopied(source=source, dest=dest), replace(sent(1, 5), dest=at))
    assert list(state.blobs) == [(at, digest(2))]
    assert state.total() == "1 image copied, 1 of 2 blobs, 1.00 kB of 2.00 kB"


def test_what_went_wrong_in_a_copy_is_reported() -> None:
    """A source with wrong bytes, a failed cache and a failed image are reported without -v."""
    source, dest = Reference.parse("a.example/x:1"), Reference.parse("b.example/x:1")
    state = TransferTracker()
    printed = [
        state.notice(event, now=0, verbose=0)
        for event in (
            events.SourceDropped(layer=digest(1), source=source.repository, reason="wrong"),
            events.SourceDropped(layer=digest(1), source=source.repository, reason="cut"),
            events.CacheDegraded(cause="/cache: No space left on device"),
            events.ImageFailed(source=source, dest=dest, error=RegistryError("why")),
        )
    ]
    assert printed == [
        (
            f"crossmount: source a.example/x of {short(digest(1))}: "
            "its bytes do not match the digest, not used again"
        ),
        None,
        "crossmount: warning: cache /cache: No space left on device: copying without the cache",
        "crossmount: not copied: why (a.example/x:1 to b.example/x:1)",
    ]


def test_rows_show_uploads_first_and_what_waits_last() -> None:
    """If there is little room, uploads are drawn first and waiting blobs last, in the order of the image."""
    state = state_after(*(started(n) for n in range(6)), sent(4, 1), finished(1), finished(2))
    assert [blob.digest for blob in state.rows(2)] == [digest(2), digest(4)]
    assert state.view(transfer.LINES_BESIDE + 2, now=0).footer.endswith(", 4 not shown")
    assert "not shown" not in state.view(100, now=0).footer
    assert state.rows(-1) == []


def test_the_sum_counts_what_is_there() -> None:
    """The total counts mounted, existing and sent bytes."""
    state = state_after(started(1), started(2), started(3), finished(1, "mounted"), sent(2, 500))
    assert state.total() == "1 of 3 blobs, 1.50 kB of 3.00 kB"


def test_a_push_is_tagged_by_its_tag_alone() -> None:
    """A manifest that is pushed by digest does not count as tagged."""
    assert not state_after(events.ManifestPushed(digest=digest(1))).tagged
    assert state_after(events.ManifestPushed(digest=digest(1), tag="1"), started(1)).tagged


def retrying(wait: float) -> events.Retrying:
    """Return the event that a request is retried."""
    return events.Retrying(method="HEAD", host="r", cause="503", attempt=2, wait=wait)


WARNING = index_warning("gone").removeprefix("crossmount: ")
DROPPED = events.SourceDropped(layer=digest(1), source=SOURCE, reason="gone")


@pytest.mark.parametrize(
    ("event", "unasked", "asked"),
    [
        (
            events.IndexDegraded(cause="gone"),
            WARNING,
            WARNING,
        ),
        (retrying(0.1), None, "HEAD r: 503: attempt 2 failed, again in 0.1 s"),
        (
            retrying(4),
            "HEAD r: 503: attempt 2 failed, again in 4.0 s",
            "HEAD r: 503: attempt 2 failed, again in 4.0 s",
        ),
        (
            DROPPED,
            None,
            "source r.example/team/base of 000000000001: it no longer has the layer, removed from the index",
        ),
        (started(1), None, None),
    ],
)
def test_notices_come_when_they_matter(event: events.Event, unasked: str | None, asked: str | None) -> None:
    """Failures of the index and long waits are reported without -v, the rest with -v."""
    said = [TransferTracker().notice(event, now=1, verbose=verbose) for verbose in (0, 1)]
    assert said == [words and f"crossmount: {words}" for words in (unasked, asked)]


def test_requests_that_retry_together_are_reported_once() -> None:
    """Retries with the same cause are one line while the first one waits."""
    state = TransferTracker()
    said = [state.notice(retrying(4), now=now, verbose=0) is not None for now in (1.0, 1.1, 4.9, 5.0)]
    assert said == [True, False, False, True]


def test_retries_for_one_reason_are_one_line_and_a_count() -> None:
    """With -v, retries of one cause are one line and a count; another cause has its own line."""
    stream = io.StringIO()
    times = iter([0.9, 1.0, 1.1, 1.2, 1.3, 5.0, 5.1])
    other = events.Retrying(method="PUT", host="r", cause="cut", attempt=1, wait=0.1)
    with LineDisplay(stream, TransferTracker(), verbose=1, clock=lambda: next(times)) as lines:
        for event in (retrying(0.1), retrying(0.1), other, retrying(0.1), retrying(0.1), retrying(0.1)):
            lines.observe(event)
    assert stream.getvalue().splitlines() == [
        "crossmount: HEAD r: 503: attempt 2 failed, again in 0.1 s",
        "crossmount: PUT r: cut: attempt 1 failed, again in 0.1 s",
        "crossmount: HEAD r: 503: attempt 2 failed, again in 0.1 s, and 2 more like the last one",
        "crossmount: r: 503, and 1 more like the last one",
    ]


def test_bars_count_retries_too() -> None:
    """On a terminal, the retries that were only counted are printed at the end."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None)
    with ScreenDisplay(io.StringIO(), TransferTracker(), verbose=1, console=console, clock=lambda: 1.0) as bars:
        bars.observe(retrying(0.1))
        bars.observe(retrying(0.1))
    assert "crossmount: r: 503, and 1 more like the last one" in stream.getvalue()


def test_an_index_that_fails_before_the_first_blob_is_noticed() -> None:
    """The state records whether the index failed before the first blob."""
    degraded = events.IndexDegraded(cause="gone")
    assert state_after(degraded, started(1)).index_failed_first
    assert not state_after(started(1), degraded).index_failed_first


def test_lines_name_each_blob_once() -> None:
    """Off a terminal each finished blob is one line, and nothing else is printed."""
    stream = io.StringIO()
    with LineDisplay(stream, TransferTracker()) as lines:
        for event in (started(1), sent(1, 10), finished(1), started(2), finished(2, "mounted")):
            lines.observe(event)
    assert stream.getvalue().splitlines() == [
        "000000000001   1.00 kB  uploaded",
        "000000000002   1.00 kB  mounted from team/base",
    ]


def test_it_says_whose_upload_is_waited_for() -> None:
    """A blob that waits for another upload names its repository until it ends, in lines and in bars."""
    into = events.BlobWaiting(digest=digest(1), size=1000, into=Repository("r.example", "team/other"))
    unknown = events.BlobWaiting(digest=digest(2), size=1000)
    stream = io.StringIO()
    with LineDisplay(stream, TransferTracker()) as lines:
        for event in (started(1), into, started(2), unknown, finished(1, "mounted")):
            lines.observe(event)
    assert stream.getvalue().splitlines() == [
        "000000000001   1.00 kB  waiting for the upload into team/other",
        "000000000002   1.00 kB  waiting for another pusher's upload",
        "000000000001   1.00 kB  mounted from team/base",
    ]
    state = state_after(started(1), into, started(2))
    assert [blob.status(1.0) for blob in state.blobs.values()] == [
        "waiting for the upload into team/other",
        "waiting",
    ]
    ended = state_after(started(1), into, sent(1, 10))
    assert [blob.status(1.0).partition(",")[0] for blob in ended.blobs.values()] == ["uploading"]


def test_lines_warn_of_the_index() -> None:
    """The warning about the index is one line, even if its cause has several."""
    stream = io.StringIO()
    LineDisplay(stream, TransferTracker()).observe(events.IndexDegraded(cause="two\nlines\x1b[2J"))
    assert stream.getvalue() == (
        "crossmount: warning: two lines [2J; going on without the index, must-mount flags have no effect\n"
    )


def test_a_large_upload_is_reported_now_and_then() -> None:
    """A log gets a line about a large upload now and then, but not for each event."""
    stream = io.StringIO()
    size = 4 * transfer.LARGE_BYTES
    lines = LineDisplay(stream, TransferTracker(), clock=steps())
    for event in (started(1, size), sent(1, 0), sent(1, size // 4), sent(1, size // 2), finished(1, size=size)):
        lines.observe(event)
    assert [line.partition("B  ")[2] for line in stream.getvalue().splitlines()] == [
        "uploading, 25 %",
        "uploading, 50 %",
        "uploaded",
    ]


def screen(bars: ScreenDisplay[TransferTracker], *, height: int = 24) -> list[str]:
    """Return the lines that a terminal of 80 columns shows."""
    console = Console(file=io.StringIO(), width=80, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(bars.render())
    return capture.get().splitlines()


def bars_after(*happened: events.Event, height: int = 24) -> ScreenDisplay[TransferTracker]:
    """Return a display that has observed these events, and has drawn nothing."""
    console = Console(file=io.StringIO(), width=80, height=height, force_terminal=True, color_system=None)
    bars = ScreenDisplay(io.StringIO(), TransferTracker(), console=console, clock=lambda: 2.0)
    for event in happened:
        bars.observe(event)
    return bars


def test_nothing_is_drawn_before_the_first_blob() -> None:
    """Nothing is drawn before the first blob."""
    assert screen(bars_after()) == [""]


def test_bars_fit_eighty_columns() -> None:
    """Digest, size, bar and outcome fit in one line, and a long repository is cut."""
    deep = Repository("r.example", "/".join(["a-rather-long-name"] * 8))
    shown = screen(
        bars_after(
            started(1),
            started(2),
            events.BlobFinished(digest=digest(1), size=1000, outcome="mounted", source=deep),
        )
    )
    assert len(shown) == 3
    assert all(len(line) <= 80 for line in shown)
    assert shown[0].startswith("000000000001  1.00 kB  ━━━━━━━━━━━━━━━━  mounted from a-rather-long")
    assert shown[0].rstrip().endswith("…")
    assert shown[1].split()[-1] == "waiting"
    assert shown[2].rstrip() == "1 of 2 blobs, 1.00 kB of 2.00 kB"


def test_an_interrupt_that_the_terminal_shows_begins_no_line() -> None:
    """The last columns stay free for `^C`: else the terminal goes to the next line, and a bar stays twice."""
    shown = screen(bars_after(started(1), started(2), finished(1)))
    assert max(map(len, shown)) <= 78


def test_what_failed_before_anything_ended_leaves_nothing() -> None:
    """After a failure without a blob that ended the screen is as before, without an empty line."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=24, force_terminal=True, color_system=None)
    bars = ScreenDisplay(io.StringIO(), TransferTracker(), console=console, clock=lambda: 1.0)
    bars.__enter__()
    bars.observe(started(1))
    bars.__exit__(RegistryError, RegistryError("why"), None)
    last = stream.getvalue().rpartition("\n")[2]  # after the line feed rich goes back up, and erases
    assert "\x1b[1A\x1b[2K" in last
    assert "blob" not in last


@pytest.mark.parametrize("height", [5, 24, 200])
def test_many_blobs_do_not_scroll_the_screen_away(height: int) -> None:
    """The bars leave room on the terminal, and the total says how many are not shown."""
    bars = bars_after(*(started(n) for n in range(300)), height=height)
    shown = screen(bars, height=height)
    assert len(shown) < height
    assert shown[-1].rstrip().endswith(f"{300 - (len(shown) - 1)} not shown")


def test_bars_end_as_the_push_ended_and_notices_stand_above_them() -> None:
    """At the end the last state stays on the screen, below the notices."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=24, force_terminal=True, color_system=None)
    with ScreenDisplay(stream, TransferTracker(), console=console) as bars:
        bars.observe(started(1))
        bars.observe(events.IndexDegraded(cause="[bold]gone[/bold] for now, " + "and so on " * 10))
        bars.observe(finished(1))
    last = stream.getvalue()
    assert "warning: [bold]gone[/bold]" in last
    assert last.rindex("uploaded") > last.rindex("gone[/bold]")
    assert "1 of 1 blob, 1.00 kB of 1.00 kB" in last[last.rindex("uploaded") :]


@pytest.mark.parametrize(
    ("term", "verbose", "kind"),
    [
        ("xterm", 0, "ScreenDisplay"),
        ("xterm", 1, "ScreenDisplay"),
        ("xterm", 2, "LineDisplay"),
        ("dumb", 0, "LineDisplay"),
        ("", 0, "LineDisplay"),
    ],
)
def test_bars_need_a_terminal_that_can_move_its_cursor(term: str, verbose: int, kind: str) -> None:
    """A dumb terminal, and one that gets a log, get lines."""
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w") as terminal:
            display = progress_display(terminal, TransferTracker(), verbose=verbose, env={"TERM": term})
            assert type(display).__name__ == kind
    finally:
        os.close(ours)


def test_a_file_gets_lines(tmp_path: Path) -> None:
    """A file gets lines."""
    with (tmp_path / "log").open("w") as file:
        assert isinstance(progress_display(file, TransferTracker(), verbose=0), LineDisplay)
