"""Which of several scopes a realm refuses, and in which tokens the sources of mounts are requested."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.registry.auth.mount_scopes import REQUESTS_MAX, Group, Halved, MountScopes, batches, halving
from crossmount.registry.auth.scope import Scope, Wanted

SCOPES = tuple(Scope("repository", f"team/{number}", ("pull",)) for number in range(40))
DEST = Scope("repository", "team/app", ("pull", "push"))


def solve(scopes: Group, refused: frozenset[Scope], *, singly: bool, limit: int) -> tuple[Halved, int]:
    """Run the generator against a realm that refuses a token as a whole; return the result and its requests."""
    flow, asked = halving(scopes, singly=singly, limit=limit), 0
    try:
        groups = next(flow)
        while True:
            asked += len(groups)
            groups = flow.send(tuple(refused.isdisjoint(group) for group in groups))
    except StopIteration as end:
        return end.value, asked


@given(st.integers(1, 40), st.frozensets(st.sampled_from(SCOPES)), st.booleans(), st.integers(0, 60))
def test_every_scope_is_found_out_or_left_unasked(
    count: int, refused: frozenset[Scope], singly: bool, limit: int
) -> None:
    """Each scope is granted, refused or unasked, each rightly, and no more is asked than the limit allows."""
    scopes, bad = SCOPES[:count], refused.intersection(SCOPES[:count]) or frozenset(SCOPES[:1])
    found, asked = solve(scopes, bad, singly=singly, limit=limit)
    assert sorted((*found.granted, *found.refused, *found.unasked)) == sorted(scopes)
    assert bad.issuperset(found.refused)
    assert bad.isdisjoint(found.granted)
    assert asked <= limit


@given(st.integers(2, 40), st.data())
def test_one_refused_scope_takes_few_requests(count: int, data: st.DataObject) -> None:
    """One refused scope of n is found with 2·log2(n) requests, rounded up."""
    bad = frozenset([data.draw(st.sampled_from(SCOPES[:count]))])
    found, asked = solve(SCOPES[:count], bad, singly=False, limit=REQUESTS_MAX)
    assert (frozenset(found.refused), found.unasked) == (bad, ())
    assert asked <= 2 * math.ceil(math.log2(count))


def test_a_realm_that_does_not_say_leaves_scopes_unasked() -> None:
    """A group without a clear answer is neither granted nor refused."""
    flow = halving(SCOPES[:2])
    next(flow)
    with pytest.raises(StopIteration) as end:
        flow.send((None, True))
    assert end.value.value == Halved(granted=SCOPES[1:2], unasked=SCOPES[:1])


@given(st.lists(st.text("ab-/", min_size=1, max_size=200), unique=True))
def test_batches_keep_all_sources_and_fit_into_a_url(names: list[str]) -> None:
    """Every source is in one batch, in order, and no batch of several is too long for a URL of 2 kB."""
    sources = [Scope("repository", name, ("pull",)) for name in names]
    made = batches(sources)
    assert [scope for group in made for scope in group] == sources
    assert all(len(group) == 1 or sum(len(str(scope)) for scope in group) < 1200 for group in made)


def test_a_mount_is_requested_with_the_sources_of_its_batch() -> None:
    """A token for one source covers its batch without refused ones; one for dest alone covers the first batch."""
    mounts = MountScopes(lambda: 0.0)
    mounts.announce("team/app", SCOPES[:3])
    assert mounts.widened(Wanted((DEST,), SCOPES[1:2])).optional == (SCOPES[1], SCOPES[0], SCOPES[2])
    mounts.deny("team/app", SCOPES[:1])
    assert mounts.widened(Wanted((DEST,))).optional == SCOPES[1:3]
    assert mounts.widened(Wanted((Scope("repository", "other", ("pull",)),))).optional == ()
    mounts.one_source = True
    assert mounts.widened(Wanted((DEST,), SCOPES[1:2])).optional == SCOPES[1:2]


def test_a_denial_ends_and_is_for_one_destination() -> None:
    """A refused source is not asked for again for an hour, for the destination that it was refused for."""
    now = 0.0
    mounts = MountScopes(lambda: now)
    mounts.deny("team/app", SCOPES[:1])
    assert mounts.denied("team/app") == {SCOPES[0]}
    assert mounts.denied("team/other") == frozenset()
    now = 3601.0
    assert mounts.denied("team/app") == frozenset()


async def test_only_a_few_sources_are_asked_for_on_their_own_in_vain() -> None:
    """A realm that silently grants less is asked for two sources alone; one success means all of them."""
    mounts = MountScopes(lambda: 0.0)
    asked = []
    for scope in SCOPES[:5]:
        asked.append(await mounts.probe(scope))
        mounts.deny("team/app", [scope])
    assert asked == [True, True, False, False, False]
    other = MountScopes(lambda: 0.0)
    assert await other.probe(SCOPES[0])
    other.note_mountable(SCOPES[0], sources=SCOPES[:1])
    assert other.one_source
    assert await other.probe(SCOPES[1])
