from hypothesis import given
from hypothesis import strategies as st

from crossmount.oci import Repository
from crossmount.registry.auth.scope import CATALOG, Scope, Wanted, covers, merge, parse_scopes, pull, push

DEST, ONE, TWO = (Repository("r.example", name) for name in ("dest", "one", "two"))
SCOPES = st.builds(
    Scope,
    st.just("repository"),
    st.sampled_from(["a", "b/c", "d"]),
    st.lists(st.sampled_from(["pull", "push", "delete"]), min_size=1).map(tuple),
)


def test_a_scope_is_written_as_the_specification_says() -> None:
    """A scope is written as kind, name and actions, with colons and commas."""
    assert str(push(DEST)) == "repository:dest:pull,push"
    assert str(CATALOG) == "registry:catalog:*"


def test_what_was_challenged_for_comes_first_and_dest_before_sources() -> None:
    """A token is requested for challenge, destination and sources, in this order, each scope once."""
    wanted = Wanted((push(DEST),), (pull(ONE), pull(TWO)))
    assert [str(scope) for scope in wanted.all] == [
        "repository:dest:pull,push",
        "repository:one:pull",
        "repository:two:pull",
    ]
    other = Scope("repository", "renamed", ("pull",))
    assert wanted.challenged_for([other]).all[0] == other


def test_a_challenge_for_a_source_leaves_it_optional() -> None:
    """The scope of a source stays optional after a challenge for it."""
    wanted = Wanted((push(DEST),), (pull(ONE), pull(TWO))).challenged_for([pull(TWO)])
    assert wanted == Wanted((push(DEST),), (pull(TWO), pull(ONE)))


def test_an_optional_scope_that_is_needed_anyway_is_not_repeated() -> None:
    """A mount within one repository requests its scope once."""
    both = Wanted((push(DEST),)) | Wanted((), (pull(DEST), pull(ONE)))
    assert both == Wanted((push(DEST),), (pull(ONE),))


def test_scopes_of_names_with_ports_are_read() -> None:
    """A colon in a name is no separator."""
    assert parse_scopes("repository:host:5000/x:pull repository(plugin):y:pull nonsense") == (
        Scope("repository", "host:5000/x", ("pull",)),
        Scope("repository(plugin)", "y", ("pull",)),
    )


@given(st.lists(SCOPES, max_size=6), st.lists(SCOPES, max_size=6))
def test_merging_keeps_every_action_and_each_resource_once(one: list[Scope], two: list[Scope]) -> None:
    """A merged list covers both lists, with each resource once."""
    merged = merge(one, two)
    assert covers(merged, one)
    assert covers(merged, two)
    assert len({scope.resource for scope in merged}) == len(merged)
    assert parse_scopes(" ".join(map(str, merged))) == merged


def test_a_star_covers_every_action() -> None:
    """The action `*` covers all others."""
    assert covers([Scope("repository", "a", ("*",))], [Scope("repository", "a", ("delete",))])
    assert not covers([Scope("repository", "a", ("pull",))], [Scope("repository", "a", ("pull", "push"))])
