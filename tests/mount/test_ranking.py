from hypothesis import given
from hypothesis import strategies as st

from crossmount.mount.ranking import attempts_for, plan, rank
from crossmount.oci import Digest, Repository

WORDS = st.sampled_from(["team", "app", "base", "web", "api"])
REPOSITORIES = st.lists(WORDS, min_size=1, max_size=3).map(lambda words: Repository("r.example", "/".join(words)))
DEST = Repository("r.example", "team/web/app")
LAYERS = [Digest.of(bytes([number])) for number in range(4)]
MIB = 1024 * 1024


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


def test_the_larger_the_layer_the_more_attempts() -> None:
    """More sources are tried for larger layers."""
    assert attempts_for(10) < attempts_for(MIB) < attempts_for(100 * MIB)
    assert attempts_for(None) == attempts_for(MIB)


@given(st.dictionaries(st.sampled_from(LAYERS), st.lists(REPOSITORIES, unique=True)), st.integers(0, 3))
def test_a_plan_stays_within_one_token(sources: dict[Digest, list[Repository]], limit: int) -> None:
    """The candidates of an image name at most as many repositories as one token covers."""
    chosen = plan(sources, {}, dest=DEST, repositories=limit)
    assert len({source for candidates in chosen.values() for source in candidates}) <= limit
    assert all(set(candidates) <= set(sources[layer]) for layer, candidates in chosen.items())


@given(st.dictionaries(st.sampled_from(LAYERS), st.lists(REPOSITORIES, unique=True, min_size=1)))
def test_every_layer_gets_its_best_before_any_gets_its_second(sources: dict[Digest, list[Repository]]) -> None:
    """With room for one repository a layer, every layer with sources has a candidate."""
    assert set(plan(sources, {}, dest=DEST, repositories=len(LAYERS))) == set(sources)
