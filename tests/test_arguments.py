from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crossmount
from crossmount import asyncio as crossmount_async
from crossmount._arguments import kind_of
from support.images import make_layers, make_layout

DEST = "127.0.0.1:1/team/app:1"

WRONG: dict[str, tuple[Any, str]] = {
    "options": (3, "options: an int: give a crossmount.ClientOptions"),
    "registries": ("r.example", "registries: a str: give a crossmount"),
    "client": (object(), "client: an object: give a crossmount"),
    "fleet": (True, "fleet: a bool: give a crossmount"),
    "index": ("redis://r.example", "not an index: str: give what open_index"),
    "limits": (4, "limits: an int: give a crossmount.Limits"),
    "patience": (600, "patience: an int: give a crossmount.Patience"),
    "observer": ("print", "observer: a str: give a function that takes an event"),
    "tags": ("latest", "tags: a str: give a list, such as"),
    "platforms": ("linux/amd64", "platforms: a str: give a list, such as"),
    "origins": ("r.example", "origins: a str: give a list, such as"),
    "spool_limit": ("8GiB", "spool_limit: a str: give a number of bytes"),
}


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Return an image."""
    make_layout(tmp_path / "image", make_layers(1))
    return f"oci:{tmp_path / 'image'}"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_of_a_push_is_our_error(source: str, name: str) -> None:
    """It names the argument, what was given and what to give, before anything is sent; one text is no list."""
    value, words = WRONG[name]
    with pytest.raises(crossmount.InvalidInputError) as caught:
        crossmount.push(source, DEST, **{name: value})
    assert words in str(caught.value)


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_argument_is_the_same_error_for_both(source: str, name: str) -> None:
    """The async function says the same."""
    value, words = WRONG[name]
    with pytest.raises(crossmount.InvalidInputError) as caught:
        await crossmount_async.push(source, DEST, **{name: value})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "make"),
    [("registries", crossmount.Registries), ("index", lambda: crossmount.open_index("memory://"))],
)
async def test_blocking_parts_are_refused_on_an_event_loop(
    source: str, name: str, make: Callable[[], Any]
) -> None:
    """What the blocking names made does not fit the async ones, and the error says which name to use."""
    with make() as part, pytest.raises(crossmount.InvalidInputError, match=r"a blocking .*crossmount\.asyncio\."):
        await crossmount_async.push(source, DEST, **{name: part})


@pytest.mark.parametrize("name", ["options", "registries", "limits", "patience", "platforms", "prefer", "cache"])
def test_a_wrong_argument_of_a_copy_is_our_error(name: str) -> None:
    """A copy checks what it is given in the same way."""
    with pytest.raises(crossmount.InvalidInputError, match=f"^{name}: a str: give "):
        crossmount.copy("127.0.0.1:1/a:1", "127.0.0.1:1/b:1", **{name: "x"})  # type: ignore[arg-type]


def test_a_kind_has_its_article() -> None:
    """`an int`, `a str`."""
    assert [kind_of(1), kind_of("")] == ["an int", "a str"]
