"""Digests by the image specification's grammar."""

import contextlib
import copy
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import InvalidDigestError
from crossmount.oci import Digest

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digest_is_its_own_text() -> None:
    """A digest compares, hashes and prints as a string, and has its parts as properties."""
    digest = Digest(EMPTY)
    assert digest == EMPTY
    assert f"{digest}" == EMPTY
    assert (digest.algorithm, digest.encoded) == ("sha256", EMPTY[7:])
    assert {digest: 1}[Digest(EMPTY)] == 1


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_both_registered_algorithms(algorithm: str) -> None:
    """Bytes can be hashed by both algorithms, at once and piece by piece."""
    digest = Digest.of(b"content", algorithm=algorithm)
    assert digest.encoded == hashlib.new(algorithm, b"content").hexdigest()
    hasher = digest.hasher()
    hasher.update(b"con")
    assert not digest.matches(hasher)
    hasher.update(b"tent")
    assert digest.matches(hasher)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        EMPTY[7:],
        EMPTY.upper(),
        EMPTY[:-1],
        EMPTY + "0",
        EMPTY + "\n",
        " " + EMPTY,
        "sha512:" + EMPTY[7:],
        "sha256+b64:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:" + "٣" * 64,
        "sha256:../../" + "a" * 58,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Any other text is refused, so that it reaches no URL, key or path."""
    with pytest.raises(InvalidDigestError, match="not a digest"):
        Digest(text)


def test_long_text_is_not_repeated() -> None:
    """The error for a long text shows its beginning on one line."""
    with pytest.raises(InvalidDigestError) as caught:
        Digest("x\n" * 5000)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@given(st.text())
def test_no_text_crashes(text: str) -> None:
    """Any text is a digest or an InvalidDigestError."""
    with contextlib.suppress(InvalidDigestError):
        assert Digest(text) == text


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_digest_survives_pickling(data: bytes, algorithm: str) -> None:
    """A pickled digest is a digest again."""
    digest = Digest.of(data, algorithm=algorithm)
    for other in (pickle.loads(pickle.dumps(digest)), copy.deepcopy(digest)):  # noqa: S301 our own bytes
        assert other == digest
        assert type(other) is Digest
