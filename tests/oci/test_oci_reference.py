"""Registries, repositories and references: all spellings of one give one value."""

import pickle
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crossmount.errors import InvalidDigestError, InvalidInputError, InvalidReferenceError
from crossmount.oci import Digest, Reference, Repository
from crossmount.oci.reference import is_repository_name, is_tag, normalise_registry

DIGEST = Digest.of(b"")

WORDS = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map("/".join).filter(lambda name: len(name) <= 200)
TAGS = st.from_regex(r"\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
LABELS = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=2, max_size=4).map(".".join),
    st.just("localhost"),
    st.sampled_from(["docker.io", "index.docker.io", "Registry-1.Docker.io"]),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address.exploded}]"),
)
PORTS = st.one_of(st.just(""), st.sampled_from([":80", ":443", ":5000"]), st.integers(1, 65535).map(":{}".format))
REGISTRIES = st.builds("{}{}".format, HOSTS, PORTS)
REFERENCES = st.builds(
    Reference,
    st.builds(Repository, REGISTRIES, NAMES),
    st.none() | TAGS,
    st.none() | st.binary().map(Digest.of),
)


@pytest.mark.parametrize(
    ("text", "registry", "address", "name", "tag"),
    [
        ("alpine", "docker.io", "registry-1.docker.io", "library/alpine", None),
        ("alpine:3.20", "docker.io", "registry-1.docker.io", "library/alpine", "3.20"),
        ("bitnami/redis", "docker.io", "registry-1.docker.io", "bitnami/redis", None),
        ("docker.io/alpine", "docker.io", "registry-1.docker.io", "library/alpine", None),
        ("index.docker.io/library/alpine", "docker.io", "registry-1.docker.io", "library/alpine", None),
        ("registry-1.docker.io:443/alpine", "docker.io", "registry-1.docker.io", "library/alpine", None),
        ("index.docker.io:80/alpine", "docker.io", "index.docker.io:80", "library/alpine", None),
        ("index.docker.io:5000/alpine", "index.docker.io:5000", "index.docker.io:5000", "alpine", None),
        ("localhost/app", "localhost", "localhost", "app", None),
        ("LOCALHOST/app", "localhost", "localhost", "app", None),
        ("localhost:5000/a/b:v1", "localhost:5000", "localhost:5000", "a/b", "v1"),
        ("GHCR.io/o/a", "ghcr.io", "ghcr.io", "o/a", None),
        ("reg.example:443/a", "reg.example", "reg.example:443", "a", None),
        ("reg.example:80/a", "reg.example", "reg.example:80", "a", None),
        ("reg.example:05000/a", "reg.example:5000", "reg.example:5000", "a", None),
        ("127.0.0.1:5000/a", "127.0.0.1:5000", "127.0.0.1:5000", "a", None),
        ("[::1]/a", "[::1]", "[::1]", "a", None),
        ("[0:0::0001]:5000/a:t", "[::1]:5000", "[::1]:5000", "a", "t"),
        ("[2001:DB8::1]:443/a", "[2001:db8::1]", "[2001:db8::1]:443", "a", None),
        ("[::ffff:1.2.3.4]/a", "[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", "a", None),
        ("[::ffff:102:304]/a", "[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", "a", None),
    ],
)
def test_spelling_of_a_reference(text: str, registry: str, address: str, name: str, tag: str | None) -> None:
    """A reference has the parts that all clients find in it."""
    found = Reference.parse(text)
    assert (found.registry, found.repository.address, found.name, found.tag) == (registry, address, name, tag)
    assert Reference.parse(f"{text}@{DIGEST}") == Reference(found.repository, tag, DIGEST)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "/",
        "a/",
        "/a",
        "reg.example:5000",
        "Registry/app",
        "localhost:5000",
        "https://reg.example/a",
        "reg.example/",
        "docker.io/",
        "reg.example//a",
        "reg.example/A",
        "reg.example/a..b",
        "reg.example/a/../b",
        "reg.example/a___b",
        "reg.example/a-",
        "reg.example/.a",
        "reg.example/a%2f",
        "reg.example/a?x=y",
        "reg.example/a\n",
        "reg.example/" + "a" * 256,
        "reg.example/a:",
        "reg.example/a:-t",
        "reg.example/a:.t",
        "reg.example/a:t:t",
        "reg.example/a:" + "t" * 129,
        "reg.example:/a",
        "reg.example:0/a",
        "reg.example:65536/a",
        "reg.example:٣/a",
        "reg_x.example/a",
        "-reg.example/a",
        "reg-.example/a",
        "reg..example/a",
        "user@reg.example/a",
        "\u212abc.example/a",
        "b\u00fccher.example/a",
        "[::1/a",
        "[::1]x/a",
        "[]/a",
        "[1.2.3.4]/a",
        "[fe80::1%eth0]/a",
        "[:::1]/a",
        "x" * 300 + ".example/a",
        "a" * 5000,
    ],
)
def test_what_breaks_the_grammar_is_refused(text: str) -> None:
    """A text that breaks the grammar is refused in one line of limited length."""
    with pytest.raises((InvalidReferenceError, InvalidDigestError)) as caught:
        Reference.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_wrong_digest_is_refused() -> None:
    """The text after @ must be a digest."""
    with pytest.raises(InvalidDigestError):
        Reference.parse("reg.example/a@sha256:12")


def test_target_prefers_the_digest() -> None:
    """The target of a reference is its digest, else its tag, else None."""
    assert Reference.parse(f"a:t@{DIGEST}").target == DIGEST
    assert Reference.parse("a:t").target == "t"
    assert Reference.parse("a").target is None
    assert Reference.parse("a").with_tag("t") == Reference.parse("a:t")


def test_repository_is_a_reference_without_tag_and_digest() -> None:
    """A repository is parsed like a reference, and refuses a tag or a digest."""
    assert (
        Repository.parse("alpine")
        == Repository("docker.io", "library/alpine")
        == Repository("docker.io", "alpine")
    )
    assert str(Repository.parse("Reg.Example:443/a/b")) == "reg.example/a/b"
    for text in ("a:t", f"a@{DIGEST}"):
        with pytest.raises(InvalidReferenceError, match="give the repository alone"):
            Repository.parse(text)


def test_address_is_kept_and_not_compared() -> None:
    """Two addresses of one registry are equal repositories, and each keeps its own address."""
    one, two = Repository.parse("reg.example:443/a"), Repository.parse("reg.example/a")
    assert one == two
    assert hash(one) == hash(two)
    assert (one.address, two.address) == ("reg.example:443", "reg.example")
    assert one.repository is one


def test_address_of_another_registry_is_refused() -> None:
    """A repository cannot have the address of another registry."""
    with pytest.raises(InvalidReferenceError, match="is not of registry"):
        Repository("reg.example", "a", "evil.example")


@given(REFERENCES)
def test_text_and_pickle_give_the_same_value(reference: Reference) -> None:
    """The text of a reference, and its pickle, give the same reference."""
    assert Reference.parse(str(reference)) == reference
    assert pickle.loads(pickle.dumps(reference)) == reference  # noqa: S301 our own bytes


@given(REGISTRIES)
def test_normalising_is_done_once(registry: str) -> None:
    """A normalised registry stays the same when it is normalised again, and case does not matter."""
    normal = normalise_registry(registry)
    assert normalise_registry(normal) == normal
    assert normalise_registry(registry.swapcase()) == normal
    assert Repository(registry, "a/b") == Repository(normal, "a/b")


@given(st.text() | st.text(alphabet=string.ascii_letters + string.digits + ":/@.[]-_%", max_size=60))
@example("[::1%25eth0]:80/a")
@example("İ.example/a")
def test_no_text_crashes(text: str) -> None:
    """Any text is a reference that survives its text, or one of our errors."""
    try:
        reference = Reference.parse(text)
    except InvalidInputError:
        return
    assert Reference.parse(str(reference)) == reference
    assert reference.registry == normalise_registry(reference.registry)
    assert is_repository_name(reference.name)


@given(st.text(max_size=300))
def test_tags_are_ascii_and_short(text: str) -> None:
    """A tag has at most 128 characters of a small set."""
    if is_tag(text):
        assert text.isascii()
        assert len(text) <= 128
        assert not set(text) - set(string.ascii_letters + string.digits + "._-")


def test_a_reference_that_names_nothing_is_latest() -> None:
    """A reference without tag and digest gets the tag `latest`; others stay the same."""
    for text in ("r.example/a:1", f"r.example/a@{DIGEST}"):
        assert Reference.parse(text).or_latest() == Reference.parse(text)
    assert str(Reference.parse("r.example/a").or_latest()) == "r.example/a:latest"


def test_a_registry_by_its_name_or_a_repository() -> None:
    """A registry can be given by its name, a repository or a reference."""
    reference = Reference.parse("r.example:80/a:1")
    assert Repository.on(reference) is reference.repository
    named = Repository.on("R.example:80")
    assert (named.registry, named.address) == ("r.example", "r.example:80")
