"""Registries under several names."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import InvalidInputError
from crossmount.index import MountIndex, RegistryTraits, Sighting
from crossmount.index.aliases import SameRegistries, registry_names_of
from crossmount.index.registries import forget_traits, recorded_traits
from crossmount.oci import Repository
from support.index_kit import layer, repo

ONE = layer(1)
INSIDE, OUTSIDE = repo("registry.local:5000/team/a"), repo("localhost.example:5000/team/b")
PAIR = f"{OUTSIDE.registry}={INSIDE.registry}"
registries = st.sampled_from(["a.example", "b.example", "c.example:5000", "localhost:5000"])
pairs = st.lists(st.tuples(registries, registries).map("=".join), max_size=6)


def test_a_registry_is_kept_under_the_name_on_the_right() -> None:
    """All names of a chain are kept under its last name, and any other name stays alone."""
    same = SameRegistries.parse(["a.example=b.example, B.example:443=c.example"])
    assert {same.canonical(f"{name}.example") for name in "abc"} == {"c.example"}
    assert same.names("a.example") == ("c.example", "a.example", "b.example")
    assert same.names("d.example") == ("d.example",)


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(texts: list[str], rng: random.Random) -> None:
    """Circles and contradictions too have one answer, the same for all names, whatever the order."""
    shuffled = list(texts)
    rng.shuffle(shuffled)
    one, other = SameRegistries.parse(texts), SameRegistries.parse(shuffled)
    for text in texts:
        left, right = text.split("=")
        assert one.canonical(left) == one.canonical(right) == other.canonical(left)
        assert one.canonical(one.canonical(left)) == one.canonical(left)


@pytest.mark.parametrize(
    "text", ["a.example", "=b.example", "a.example=", "a b=c.example", "http://a=b", "a.example=b/c"]
)
def test_other_texts_are_no_pairs(text: str) -> None:
    """Text that is not two names of registries is an error of the caller."""
    with pytest.raises(InvalidInputError):
        SameRegistries.parse([text])


def test_the_users_own_pairs_win() -> None:
    """A shared pair that contradicts an own one is ignored; the others add to them."""
    own = SameRegistries.parse(["a.example=b.example", "x.example=x.example"])
    shared = SameRegistries.parse(
        ["a.example=evil.example", "b.example=a.example", "x.example=evil.example", "c.example=a.example"]
    )
    both = own.over(shared)
    assert both.names("a.example") == ("b.example", "a.example", "c.example")
    assert both.names("x.example") == ("x.example",)


async def use(index: MountIndex, *texts: str) -> None:
    """Let an index know pairs as if they were shared."""
    registry_names_of(index).learn(dict(text.encode().split(b"=") for text in texts), time.time())


async def test_a_source_under_one_name_is_one_under_the_other(index: MountIndex) -> None:
    """A layer recorded under a name is found under the other, by the name that is asked for, and forgotten so."""
    await use(index, PAIR)
    await index.record([Sighting(ONE, OUTSIDE, 5)])
    inside = (await index.look_up([ONE], INSIDE)).of(ONE)
    assert inside.sources == (Repository(INSIDE.registry, OUTSIDE.name),)
    outside = (await index.look_up([ONE], OUTSIDE)).of(ONE)
    assert (outside.in_dest, outside.sources, outside.elsewhere) == (True, (), ())
    await index.record([Sighting(ONE, INSIDE, 5)])
    assert await index.sources(ONE, OUTSIDE) == (Repository(OUTSIDE.registry, INSIDE.name),)
    elsewhere = (await index.look_up([ONE], repo("r.example/x"))).of(ONE).elsewhere
    assert elsewhere == (INSIDE.registry,)
    await index.forget(ONE, Repository(INSIDE.registry, OUTSIDE.name))
    assert await index.sources(ONE, INSIDE) == ()


async def test_what_was_recorded_before_the_pair_counts(index: MountIndex) -> None:
    """Sources and traits under a name that was not yet another's are found under both."""
    await index.record([Sighting(ONE, OUTSIDE, 5)])
    await index.record_traits(OUTSIDE.registry, RegistryTraits(mounts=True))
    await use(index, PAIR)
    knowledge = await index.look_up([ONE], INSIDE)
    assert knowledge.traits.mounts is True
    assert knowledge.of(ONE).sources == (Repository(INSIDE.registry, OUTSIDE.name),)
    assert knowledge.of(ONE).elsewhere == ()
    await index.forget(ONE, OUTSIDE)
    assert await index.sources(ONE, INSIDE) == ()


async def test_traits_are_those_of_the_registry_under_any_name(index: MountIndex) -> None:
    """Traits recorded under one name are known under the other, and are forgotten under both."""
    await use(index, PAIR)
    await index.record_traits(OUTSIDE.registry, RegistryTraits(mounts=False))
    assert (await recorded_traits(index, INSIDE.registry)).traits.mounts is False
    await forget_traits(index, OUTSIDE.registry)
    assert (await index.look_up([], INSIDE)).traits == RegistryTraits()
