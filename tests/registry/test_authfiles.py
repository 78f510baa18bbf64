import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import CredentialsError
from crossmount.registry.credentials.authfiles import AuthFile, Credential

HUB = "docker.io"


def auth(pair: str) -> dict[str, str]:
    """Return an entry for `name:password`."""
    return {"auth": base64.b64encode(pair.encode()).decode()}


def parse(document: Any) -> AuthFile:
    """Return the credential file with this document."""
    return AuthFile.parse(json.dumps(document), "config.json")


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("registry.example.org", "registry.example.org"),
        ("REGISTRY.example.org:443", "registry.example.org"),
        ("https://registry.example.org/v1/", "registry.example.org"),
        ("http://registry.example.org/v2", "registry.example.org"),
        ("registry.example.org/v2/", "registry.example.org"),
        ("localhost:5000", "localhost:5000"),
        ("https://index.docker.io/v1/", HUB),
        ("registry-1.docker.io", HUB),
        ("docker.io", HUB),
    ],
)
def test_a_key_names_a_registry_in_any_of_its_spellings(key: str, registry: str) -> None:
    """A key's scheme, docker's path, case, default port and Docker Hub's other names make no difference."""
    found = parse({"auths": {key: auth("user:pass:word")}}).credential(registry, "team/app")
    assert found == Credential("user", "pass:word")
    assert found is not None
    assert found.origin == f"config.json: auths: {registry}"


def test_the_most_specific_path_wins() -> None:
    """Of podman's keys with a path, the longest that is a prefix of the repository is used."""
    file = parse({"auths": {"r.io": auth("r:1"), "r.io/a": auth("a:2"), "r.io/a/b": auth("b:3")}})
    names = ["x", "a", "a/b", "a/b/c", "ab", ""]
    assert [getattr(file.credential("r.io", name), "username", None) for name in names] == list("rabbrr")
    assert file.credential("other.io", "a") is None


def test_the_kinds_of_secrets() -> None:
    """Every kind of entry is read: identity token, registry token, user `<token>`, plain fields, an empty mark."""
    file = parse(
        {
            "auths": {
                "identity.io": {**auth("u:p"), "identitytoken": "refresh"},
                "registry.io": {"registrytoken": "bearer"},
                "angle.io": auth("<token>:refresh"),
                "fields.io": {"username": "u", "password": "p"},
                "empty.io": {},
                "null.io": None,
            }
        }
    )
    assert file.credential("identity.io", "") == Credential("u", "refresh", "identity")
    assert file.credential("registry.io", "") == Credential("", "bearer", "registry")
    assert file.credential("angle.io", "") == Credential("", "refresh", "identity")
    assert file.credential("fields.io", "") == Credential("u", "p")
    assert file.credential("empty.io", "") is None
    assert file.credential("null.io", "") is None


def test_helpers_by_registry_come_before_the_store() -> None:
    """A registry's own helper is used before the store; a value of a wrong type names no helper."""
    file = parse({"credsStore": "store", "credHelpers": {"https://one.io": "ecr-login", "two.io": 7, "@": "x"}})
    assert file.helper("one.io") == "ecr-login"
    assert file.helper("two.io") == "store"
    assert parse({"credsStore": 1}).helper("one.io") is None


def test_keys_that_name_no_registry_are_skipped() -> None:
    """A key that names no registry does not make the file invalid."""
    assert parse({"auths": {"ftp://r.io": auth("a:b"), "": {}, "é": {}}}).auths == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"auths": []}', "auths is not a JSON object"),
        ('{"credHelpers": "x"}', "credHelpers is not a JSON object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(content: str, words: str) -> None:
    """The error names the file and its fault on one line."""
    with pytest.raises(CredentialsError, match=words) as caught:
        AuthFile.parse(content, "/home/u/.docker/config.json")
    assert str(caught.value).startswith("/home/u/.docker/config.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("secret", ["hunter2%", base64.b64encode(b"hunter2").decode(), "/w=="])
def test_a_broken_entry_is_named_without_its_secret(secret: str) -> None:
    """The error names the broken entry and does not show its secret."""
    with pytest.raises(CredentialsError, match=r"auths: r\.io: its auth") as caught:
        parse({"auths": {"r.io": {"auth": secret}}}).credential("r.io", "")
    assert secret not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_credential_hides_its_secret() -> None:
    """The secret is in no repr, neither of the credential nor of the file."""
    file = parse({"auths": {"r.io": {"username": "u", "password": "hunter2"}}})
    assert "hunter2" not in repr(file)
    assert "hunter2" not in repr(file.credential("r.io", ""))


KEYS = st.sampled_from(["auths", "credHelpers", "credsStore", "r.io", "auth", "username"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
)


@given(DOCUMENTS)
def test_any_json_is_read_or_refused(document: Any) -> None:
    """Any JSON in the file gives a credential, no credential or a CredentialsError."""
    words = "config.json"
    try:
        file = parse(document)
        file.helper("r.io")
        file.credential("r.io", "a/b")
    except CredentialsError as error:
        words = str(error)
    assert words.startswith("config.json")
