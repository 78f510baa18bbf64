from hypothesis import given
from hypothesis import strategies as st

from crossmount.registry.auth.challenge import Basic, Bearer, Challenge, choose, parse_challenges
from crossmount.registry.auth.scope import Scope

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
CHALLENGES = st.lists(
    st.builds(
        Challenge,
        st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=10),
        st.dictionaries(NAMES, VALUES, min_size=1, max_size=5),
    ),
    max_size=4,
)


def written(challenge: Challenge) -> str:
    """Return a challenge as a header has it."""

    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"')

    return f"{challenge.scheme} " + ", ".join(f'{k}="{quoted(v)}"' for k, v in challenge.parameters.items())


@given(CHALLENGES)
def test_what_is_written_by_the_grammar_is_read_back(challenges: list[Challenge]) -> None:
    """Several challenges in one header, with quotes and escapes, are parsed to the same values."""
    assert parse_challenges(", ".join(map(written, challenges))) == challenges


@given(st.text(max_size=300))
def test_no_header_breaks_the_parser(text: str) -> None:
    """Any text gives a list of challenges."""
    for challenge in parse_challenges(text):
        assert challenge.scheme == challenge.scheme.lower()


def test_docker_hub() -> None:
    """Docker Hub's challenge is parsed."""
    header = (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
        'scope="repository:library/alpine:pull,push",error="insufficient_scope"'
    )
    bearer = choose([header])
    assert bearer == Bearer("https://auth.docker.io/token", "registry.docker.io")
    assert isinstance(bearer, Bearer)
    assert bearer.scopes == (Scope("repository", "library/alpine", ("pull", "push")),)
    assert bearer.error == "insufficient_scope"


def test_harbor_names_two_scopes() -> None:
    """A scope parameter may have two scopes with a space between them."""
    bearer = choose(
        ['Bearer realm="https://h/service/token",scope="repository:a/b:pull,push repository:c/d:pull"']
    )
    assert isinstance(bearer, Bearer)
    assert [str(scope) for scope in bearer.scopes] == ["repository:a/b:pull,push", "repository:c/d:pull"]


def test_values_without_quotes_are_read() -> None:
    """A challenge without quotes is parsed."""
    assert choose(["bearer realm=https://r.example/token,service=r"]) == Bearer("https://r.example/token", "r")


def test_a_token_is_preferred_to_a_password() -> None:
    """Of Basic and Bearer, in any order and header, Bearer is chosen."""
    assert isinstance(choose(['Basic realm="x", Bearer realm="https://r/t"']), Bearer)
    assert isinstance(choose(['Basic realm="x"', 'Bearer realm="https://r/t"']), Bearer)
    assert choose(['Bearer service="no realm", Basic realm="x"']) == Basic()


def test_an_unknown_scheme_is_skipped() -> None:
    """Negotiate with its bare value, and no header at all, give no choice."""
    assert choose(["Negotiate YWJjZA=="]) is None
    assert choose([]) is None
    assert choose(["Negotiate YWJjZA==, Basic realm=x"]) == Basic()
    assert parse_challenges('realm="before any scheme"') == []


def test_the_first_of_a_repeated_parameter_counts() -> None:
    """A second realm in one challenge does not replace the first."""
    assert choose(['Bearer realm="https://a/t", realm="https://evil/t"']) == Bearer("https://a/t", "")


def test_an_unfinished_quote_ends_nothing_else() -> None:
    """The text after a broken parameter is still parsed."""
    assert choose(['Bearer realm="https://a/t", scope="never closed, Basic realm=x']) is not None
