import math
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from crossmount.mount.ranking import cover, plan, rank, spares
from crossmount.oci import Digest, Repository

WORDS = st.sampled_from(["team", "app", "base", "web", "api"])
REPOSITORIES = st.lists(WORDS, min_size=1, max_size=3).map(lambda words: Repository("r.example", "/".join(words)))
DEST = Repository("r.example", "team/web/app")
LAYERS = [Digest.of(bytes([number])) for number in range(4)]
KNOWN = st.dictionaries(st.sampled_from(LAYERS), st.lists(REPOSITORIES, unique=True, max_size=4))


def repository(name: str) -> Repository:
    """Return a repository of the registry."""
    return Repository("r.example", name)


def test_the_longest_shared_path_comes_first() -> None:
    """A repository of the same team comes before others, since it is more likely readable."""
    ranked = rank([repository("other/app"), repository("team/x"), repository("team/web/y")], dest=DEST)
    assert [source.name for source in ranked] == ["team/web/y", "team/x", "other/app"]


@given(st.lists(REPOSITORIES, unique=True), st.randoms())
def test_the_order_is_total(sources: list[Repository], random: object) -> None:
    """The result does not depend on the order of the sources."""
    shuffled = list(sources)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert rank(shuffled, dest=DEST) == rank(sources, dest=DEST)


def test_equals_are_spread_over_destinations() -> None:
    """Different destinations try different sources first."""
    sources = [repository(f"source-{number}") for number in range(8)]
    firsts = {rank(sources, dest=repository(f"dest-{number}"))[0] for number in range(40)}
    assert len(firsts) > 4


def test_a_proven_source_comes_first() -> None:
    """A source that has just mounted comes before nearer ones, and needs no company."""
    far, near = repository("other/app"), repository("team/web/y")
    assert rank([near, far], dest=DEST, proven={far}) == [far, near]
    assert plan({LAYERS[0]: [near, far]}, dest=DEST, proven={far}) == {LAYERS[0]: (far, near)}
    assert cover({LAYERS[0]: (near, far)}, dest=DEST, proven={far}) == (far,)


def test_one_repository_that_has_all_layers_comes_before_many_nearer_ones() -> None:
    """A layer that others share a source with comes from there; without tokens the nearest one comes first."""
    base = repository("base/all")
    sources = {layer: [base, repository(f"team/web/{number}")] for number, layer in enumerate(LAYERS)}
    assert {candidates[0] for candidates in plan(sources, dest=DEST).values()} == {base}
    assert base not in {candidates[0] for candidates in plan(sources, dest=DEST, few=False).values()}


@given(KNOWN, st.booleans(), st.sets(REPOSITORIES))
def test_a_plan_leaves_no_source_out(
    sources: dict[Digest, list[Repository]], few: bool, proven: set[Repository]
) -> None:
    """Every layer that has sources keeps all of them, each once."""
    chosen = plan(sources, dest=DEST, few=few, proven=proven)
    assert {layer: set(each) for layer, each in chosen.items()} == {
        layer: set(each) for layer, each in sources.items() if each
    }
    assert all(len(candidates) == len(set(candidates)) for candidates in chosen.values())


@given(KNOWN)
def test_a_cover_serves_every_layer_with_few_repositories(sources: dict[Digest, list[Repository]]) -> None:
    """Every layer has a source in a cover, which is at most ln(n) + 1 times the smallest by brute force."""
    ranked = {layer: tuple(each) for layer, each in sources.items() if each}
    chosen = cover(ranked, dest=DEST)
    assert all(not set(each).isdisjoint(chosen) for each in ranked.values())
    least = next(
        count
        for count in range(len(ranked) + 1)
        for some in combinations(sorted({source for each in ranked.values() for source in each}), count)
        if all(not set(each).isdisjoint(some) for each in ranked.values())
    )
    assert least <= len(chosen) <= least * (math.log(max(1, len(ranked))) + 1)


@given(KNOWN, st.randoms())
def test_a_cover_is_the_same_for_every_caller(sources: dict[Digest, list[Repository]], random: object) -> None:
    """The cover does not depend on the order of layers or sources."""
    shuffled = list(sources.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    others = {layer: tuple(reversed(each)) for layer, each in shuffled}
    first = cover({layer: tuple(each) for layer, each in sources.items()}, dest=DEST)
    assert cover(others, dest=DEST) == first


@given(KNOWN, st.integers(1, 6))
def test_spares_are_enough_or_all(sources: dict[Digest, list[Repository]], count: int) -> None:
    """Spares are at least so many as asked for, or all that are left."""
    ranked = {layer: tuple(each) for layer, each in sources.items()}
    everything = {source for each in sources.values() for source in each}
    chosen = spares(ranked, dest=DEST, count=count)
    assert len(chosen) == len(set(chosen))
    assert len(chosen) >= count or set(chosen) == everything
