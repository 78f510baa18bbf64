"""Checks of what a program passes to a function: an argument of a wrong kind is our error, with what to pass."""

from types import UnionType
from typing import Any

from crossmount.errors import InvalidInputError

_BLOCKING = ("crossmount.blocking", "crossmount.index.blocking")


def kind_of(value: object) -> str:
    """Return the kind of a value for a message: `an int`, `a blocking Registries`."""
    kind = type(value)
    if kind.__module__ in _BLOCKING:
        return f"a blocking {kind.__name__}"
    article = "an" if kind.__name__[:1].lower() in set("aeiou") else "a"
    return f"{article} {kind.__name__}"


def check_kind(name: str, value: object, kind: type[Any] | UnionType, give: str) -> None:
    """Check that an argument is an instance of a class.

    Raises:
        InvalidInputError: it is not.
    """
    if not isinstance(value, kind):
        raise InvalidInputError(f"{name}: {kind_of(value)}: give {give}")


def check_names(name: str, values: object, give: str) -> None:
    """Check that an argument is a list of texts, and not one text, whose letters would count one by one.

    Raises:
        InvalidInputError: it is something else.
    """
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise InvalidInputError(f"{name}: {kind_of(values)}: give a list, such as {give}")


def check_observer(observer: object) -> None:
    """Check that an observer can be called.

    Raises:
        InvalidInputError: it cannot.
    """
    if not callable(observer):
        raise InvalidInputError(f"observer: {kind_of(observer)}: give a function that takes an event")
