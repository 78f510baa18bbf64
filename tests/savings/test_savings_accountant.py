"""The events of a push become one increment."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount import events
from crossmount.index import LayerKnowledge
from crossmount.oci import Digest, Repository
from crossmount.savings import LayerIncrement, Tally
from crossmount.savings.accountant import LAYERS_A_PUSH, PushAccountant, upload_reason
from support.index_kit import Clock, layer, repo

A, B, DEST = repo("team/a"), repo("team/b"), repo("group/dest")
NOTHING = LayerKnowledge()
FROM_A = LayerKnowledge((A,))


def accountant(clock: Clock | None = None, *, known: LayerKnowledge = NOTHING, **others: Any) -> PushAccountant:
    """Return an accountant of a push into DEST; of each layer the same is known."""
    given: dict[str, Any] = {
        "known": lambda _: known,
        "denied": frozenset(),
        "mounts": None,
        "waits_for": lambda size: size >= 1000,
        "clock": clock or Clock(0.0),
        **others,
    }
    return PushAccountant(DEST, **given)


def finished(
    number: int, outcome: events.Outcome, size: int = 1000, dest: Repository = DEST
) -> events.BlobFinished:
    """Return the end of a blob."""
    return events.BlobFinished(digest=layer(number), size=size, outcome=outcome, dest=dest)


def waiting(number: int, size: int = 1000) -> events.BlobWaiting:
    """Return the begin of a wait."""
    return events.BlobWaiting(digest=layer(number), size=size, dest=DEST)


def progress(number: int, sent: int = 1) -> events.BlobProgress:
    """Return a step of an upload."""
    return events.BlobProgress(digest=layer(number), sent=sent, dest=DEST)


outcomes = st.sampled_from(["existing", "mounted", "uploaded"])
blobs = st.lists(st.tuples(st.integers(0, 8), outcomes, st.booleans()), max_size=20)


@given(blobs)
def test_every_blob_counts_once(ended: list[tuple[int, events.Outcome, bool]]) -> None:
    """Each blob counts once, with its size, as it ended last; one that waited and was not uploaded was saved."""
    count = accountant()
    last: dict[int, str] = {}
    waited = set()
    for number, outcome, waits in ended:
        if waits:
            count(waiting(number, 10 + number))
            waited.add(number)
        count(finished(number, outcome, 10 + number))
        last[number] = outcome
    tally = count.increment(succeeded=True).tally
    assert tally.blobs == len(last)
    assert tally.bytes == sum(10 + number for number in last)
    saved = {n for n, outcome in last.items() if outcome == "mounted" or (n in waited and outcome == "existing")}
    assert (tally.blobs_saved, tally.bytes_saved) == (len(saved), sum(10 + number for number in saved))
    assert tally.bytes_uploaded == sum(10 + number for number, outcome in last.items() if outcome == "uploaded")
    assert (tally.pushes, tally.pushes_failed, tally.pushes_without_index) == (1, 0, 0)


def test_concurrent_uploads_count_their_time_once() -> None:
    """Time is that of the push: two uploads at once take it once, and waiting beside an upload costs nothing."""
    clock = Clock(0.0)
    count = accountant(clock)
    steps: Sequence[tuple[float, events.Event]] = [
        (0, waiting(1)),
        (2, progress(2)),
        (3, progress(3)),
        (3.5, progress(3, 500)),
        (4, finished(2, "uploaded")),
        (6, finished(3, "uploaded")),
        (7, finished(1, "mounted")),
        (9, finished(4, "existing")),
    ]
    for clock.now, event in steps:
        count(event)
    tally = count.increment(succeeded=True).tally
    assert (tally.seconds_uploading, tally.seconds_waiting) == (4, 3)
    assert tally.rate == 500
    assert (tally.blobs_waited, tally.blobs_uploaded, tally.blobs_existing) == (1, 2, 1)


def test_an_upload_that_fails_counts_its_time_to_the_end() -> None:
    """A push that fails counts as failed, with what it did before."""
    clock = Clock(0.0)
    count = accountant(clock)
    count(finished(1, "mounted"))
    count(progress(2))
    clock.now = 5
    increment = count.increment(succeeded=False, fetched=7, used_index=False)
    assert increment.tally == Tally(
        blobs_mounted=1,
        bytes_mounted=1000,
        bytes_fetched=7,
        ms_uploading=5000,
        pushes_failed=1,
        pushes_without_index=1,
    )
    assert increment.row == ("r.example", "group")


def test_events_of_other_repositories_are_ignored() -> None:
    """A copy into many repositories gives each push its own events."""
    count = accountant()
    count(finished(1, "mounted", dest=A))
    count(events.IndexDegraded(cause="x"))
    assert count.increment(succeeded=True).tally == Tally(pushes=1)


@pytest.mark.parametrize(
    ("mounts", "uploads", "expected"),
    [(9, 9, (2, 1)), (9, 1, (2, 1)), (1, 9, (1, 2)), (0, 9, (0, 3)), (9, 0, (3, 0))],
)
def test_only_the_largest_layers_are_named(mounts: int, uploads: int, expected: tuple[int, int]) -> None:
    """The layers of a push are bounded, with room for both kinds; those without bytes are left out."""
    count = accountant()
    for number in range(mounts):
        count(finished(number, "mounted", 1 + number))
    for number in range(uploads):
        count(finished(100 + number, "uploaded", 1 + number))
    layers = count.increment(succeeded=True).layers
    named = [each.fate == "mounted" for each in layers]
    assert (sum(named), len(named) - sum(named)) == expected
    assert len(layers) == LAYERS_A_PUSH
    assert max(each.size for each in layers) == 9
    empty = accountant()
    empty(finished(1, "mounted", 0))
    assert empty.increment(succeeded=True).layers == ()


def test_a_tiny_upload_does_not_take_the_place_of_a_large_mount() -> None:
    """Of two mounted layers, an uploaded one and a config, the config is left out."""
    count = accountant()
    for number, (fate, size) in enumerate([("mounted", 20), ("mounted", 10), ("uploaded", 3), ("uploaded", 1)]):
        count(finished(number, fate, size))  # type: ignore[arg-type]
    named = count.increment(succeeded=True).layers
    assert [(each.size, each.fate == "mounted") for each in named] == [(20, True), (10, True), (3, False)]


def dropped(*reasons: str) -> list[events.SourceDropped]:
    """Return what was found out about sources of layer 1."""
    return [events.SourceDropped(layer=layer(1), source=A, reason=reason) for reason in reasons]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "others", "drops", "size", "reason"),
    [
        (NOTHING, {}, [], 1000, "unknown"),
        (NOTHING, {}, [], 999, "small"),
        (LayerKnowledge(in_dest=True), {}, [], 1000, "gone"),
        (FROM_A, {"mounts": False}, [], 1000, "unmountable"),
        (FROM_A, {}, [], 1000, "unmountable"),
        (FROM_A, {}, dropped("gone"), 1000, "gone"),
        (FROM_A, {}, dropped("gone", "unreadable"), 1000, "unreadable"),
        (FROM_A, {}, dropped("gone", "unmountable"), 1000, "unmountable"),
        (FROM_A, {"denied": frozenset({A})}, [], 1000, "unreadable"),
        (LayerKnowledge((A, B)), {"denied": frozenset({A})}, dropped("gone"), 1000, "gone"),
    ],
)
def test_an_uploaded_layer_says_why(
    known: LayerKnowledge,
    others: dict[str, Any],
    drops: list[events.SourceDropped],
    size: int,
    reason: str,
) -> None:
    """The reason says what would have to change for the layer to be mounted."""
    count = accountant(known=known, **others)
    for drop in drops:
        count(drop)
    count(finished(1, "uploaded", size))
    assert count.increment(succeeded=True).layers == (LayerIncrement(layer(1), size, reason),)  # type: ignore[arg-type]


def test_a_layer_of_another_digest_has_its_own_reason() -> None:
    """What is found out about one layer's sources says nothing of another layer."""
    known = {layer(1): FROM_A}
    count = PushAccountant(
        DEST,
        known=lambda digest: known.get(digest, NOTHING),
        denied=(),
        mounts=None,
        waits_for=lambda _: True,
        clock=Clock(0.0),
    )
    seen: list[events.Event] = [*dropped("gone"), finished(1, "uploaded"), finished(2, "uploaded")]
    for event in seen:
        count(event)
    fates = {each.digest: each.fate for each in count.increment(succeeded=True).layers}
    assert fates == {layer(1): "gone", layer(2): "unknown"}
    assert upload_reason(FROM_A, denied=(), dropped=(), mounts=True, is_small=True) == "unmountable"


def test_a_digest_of_another_algorithm_is_counted() -> None:
    """A sha512 layer is counted as all are."""
    digest = Digest.of(b"x", algorithm="sha512")
    count = accountant()
    count(events.BlobFinished(digest=digest, size=5, outcome="mounted", dest=DEST))
    assert count.increment(succeeded=True).layers == (LayerIncrement(digest, 5, "mounted"),)
