import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount import _formatting as text


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_400, "999 kB"),
        (999_600, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (5 * 10**20, "500 EB"),
    ],
)
def test_sizes_have_three_digits(count: int, words: str) -> None:
    """A size has three digits and a decimal unit."""
    assert text.size(count) == words


@given(st.integers(0, 2**63))
def test_a_size_is_short(count: int) -> None:
    """A size has at most eight characters."""
    assert len(text.size(count)) <= 8


def test_one_of_a_thing_has_no_plural() -> None:
    """A count of one has a singular noun."""
    assert [text.count(n, "blob") for n in (0, 1, 2)] == ["0 blobs", "1 blob", "2 blobs"]
    assert text.count(3, "push", "pushes") == "3 pushes"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (119, "119.0 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_durations_have_the_unit_that_fits(seconds: float, words: str) -> None:
    """A duration has the largest unit of which there are two."""
    assert text.duration(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.00041, "0.4 ms"), (0.0234, "23 ms")])
def test_round_trips_are_in_milliseconds(seconds: float, words: str) -> None:
    """A round trip has a decimal place below ten milliseconds."""
    assert text.milliseconds(seconds) == words


@given(st.text())
def test_a_line_is_one_line_that_no_terminal_obeys(words: str) -> None:
    """A line has no line breaks and no control characters."""
    line = text.one_line(words)
    assert line.isprintable()
    assert line == line.strip()


def test_a_digest_is_shortened() -> None:
    """A short digest has twelve digits and no algorithm."""
    assert text.short("sha256:0123456789abcdef") == "0123456789ab"


def test_a_message_on_a_terminal_breaks_between_words() -> None:
    """A message is folded at the width of the terminal, and a long word stays whole."""
    words = "crossmount: it does not speak TLS (https://registry.example.com:5000/v2/a/b/c): use --plain-http"
    assert text.wrapped(words, None) == words
    assert text.wrapped(words, 200) == words
    assert text.wrapped(words, 40).splitlines() == [
        "crossmount: it does not speak TLS",
        "  (https://registry.example.com:5000/v2/a/b/c):",
        "  use --plain-http",
    ]
