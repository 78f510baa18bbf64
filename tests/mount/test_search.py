"""What the mounts of one push teach each other."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import AccessDeniedError
from crossmount.mount.decision import FalseMount, MountAnswer
from crossmount.mount.ranking import FAILURES, FAILURES_A_LAYER, SPARES, SourceSearch
from crossmount.oci import Digest, Repository
from crossmount.registry import Mounted

DEST = Repository("r.example", "team/app")
ALL = tuple(Repository("r.example", f"source/{number}") for number in range(100))
ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
REFUSED = AccessDeniedError("refused", status=403)
ABSENT = FalseMount()


def attempt(search: SourceSearch, layer: Digest, answer: MountAnswer) -> Repository:
    """Try a layer's next source, with this answer."""
    source = search.order(layer)[0]
    with search.trying(layer, source) as trial:
        trial.answer = answer
    return source


def test_a_refusal_counts_for_all_layers_and_a_missing_layer_does_not() -> None:
    """A source that is unreadable is not tried for another layer; one that lost a layer is."""
    search = SourceSearch(DEST, {})
    search.add({ONE: ALL[:3], TWO: ALL[:3]})
    assert attempt(search, ONE, REFUSED) == ALL[0]
    assert search.order(TWO) == ALL[1:3]
    assert attempt(search, ONE, ABSENT) == ALL[1]
    assert search.order(ONE) == ALL[2:3]
    assert search.order(TWO) == ALL[1:3]


def test_a_source_that_mounted_comes_first_and_stays() -> None:
    """After a success other layers try that source first, whatever another layer's refusal from it says."""
    search = SourceSearch(DEST, {})
    search.add({ONE: ALL[1:2], TWO: ALL[:3]})
    attempt(search, ONE, Mounted())
    assert search.order(ONE) == ()
    assert search.order(TWO) == (ALL[1], ALL[0], ALL[2])
    attempt(search, TWO, REFUSED)
    assert ALL[1] not in search.unreadable


def test_after_a_failure_layers_try_different_sources() -> None:
    """While one layer's mount is underway another layer tries another source, and the first requests do not."""
    search = SourceSearch(DEST, {})
    search.add({ONE: ALL[:4], TWO: ALL[:4]})
    with search.trying(ONE, ALL[0]) as trial:
        assert search.order(TWO)[0] == ALL[0]
        trial.answer = REFUSED
    search.more(ALL[1])
    with search.trying(ONE, ALL[1]):
        assert search.is_being_tried(ALL[1])
        assert search.order(TWO)[0] == ALL[2]


def test_more_sources_are_enough_for_one_request() -> None:
    """Further sources come many at a time, and each once."""
    search = SourceSearch(DEST, {})
    assert search.add({ONE: ALL, TWO: ALL}) == ALL[:1]
    attempt(search, ONE, REFUSED)
    chosen = search.more(ALL[1])
    assert SPARES <= len(chosen) == len(set(chosen)) <= SPARES + 1
    assert all(map(search.is_ready, chosen))


@given(st.integers(1, 4), st.sampled_from([REFUSED, ABSENT]))
def test_failures_are_bounded_for_the_whole_push(layers: int, failure: MountAnswer) -> None:
    """However many sources there are, so many mounts fail at most, and then only proven sources are tried."""
    proven = {ALL[-1]: None}
    search = SourceSearch(DEST, proven)
    digests = [Digest.of(bytes([number])) for number in range(layers)]
    search.add(dict.fromkeys(digests, ALL[:-1]))
    failures = 0
    while any(search.order(layer) for layer in digests):
        for layer in digests:
            if search.order(layer):
                attempt(search, layer, failure)
                failures += 1
    assert failures <= FAILURES + FAILURES_A_LAYER * layers
    search.add({ONE: ALL})
    assert search.order(ONE)[0] == ALL[-1]


@pytest.mark.parametrize("failure", [REFUSED, ABSENT])
def test_a_must_mount_layer_is_tried_from_all_its_sources(failure: MountAnswer) -> None:
    """The bound on failures, its own and those of other layers, is not for what cannot be uploaded instead."""
    many = tuple(DEST.sibling(f"base/{number}") for number in range(FAILURES + 2 * FAILURES_A_LAYER))
    search = SourceSearch(DEST, {})
    search.add({ONE: (*many, *ALL)})
    while search.order(ONE):
        attempt(search, ONE, failure)
    tried = set()
    while left := search.order(ONE, must_mount=True):
        with search.trying(ONE, left[0]) as trial:
            trial.answer = failure
        tried.add(left[0])
    assert set(ALL) <= tried


async def test_a_change_wakes_those_that_wait() -> None:
    """A layer that waits for another one's mount continues when that mount has ended."""
    search = SourceSearch(DEST, {})
    search.add({ONE: ALL[:1]})
    waiting = asyncio.create_task(search.changed())
    await asyncio.sleep(0)
    attempt(search, ONE, Mounted())
    await waiting
