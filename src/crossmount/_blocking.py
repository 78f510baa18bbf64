"""Coroutines that never suspend, run without an event loop; and the base of what `with` closes.

An index is written once, as coroutines. Over a blocking link (`crossmount.redis.link.BlockingLink`) they run from
their start to their end in the thread that calls them, so the blocking flavour of an index needs no event loop:
threads, forks and running loops can each call it.
"""

import functools
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
C = TypeVar("C", bound=Callable[..., object])

_ARGUMENT = re.compile(r"    \*{0,2}(\w+): ")


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends and return its result.

    Raises:
        RuntimeError: it suspends, which is a defect: something below it needs an event loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} wanted to wait, and there is no event loop to wait on")


class BlockingClosing(ABC):
    """Base class: `with` returns the object, and closes it at the end of the block."""

    @abstractmethod
    def close(self) -> None:
        """Close connections and end tasks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Driven(Generic[A]):
    """The blocking twin of an asynchronous object whose coroutines never suspend."""

    def __init__(self, asynchronous: A) -> None:
        self.asynchronous = asynchronous


def driven(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a blocking method of a `Driven`, with the name, the parameters and the docstring of its twin's."""
    name = function.__name__

    @functools.wraps(function)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run_now(cast("Coroutine[Any, Any, T]", getattr(self.asynchronous, name)(*args, **kwargs)))

    return call


def documented_as(asynchronous: Callable[..., object]) -> Callable[[C], C]:
    """Return a decorator that gives a function or a class the docstring of its asynchronous counterpart.

    Arguments that the blocking one does not have are left out.
    """

    def decorate(blocking: C) -> C:
        names = inspect.signature(blocking).parameters
        blocking.__doc__ = without_arguments(inspect.getdoc(asynchronous) or "", set(names))
        return blocking

    return decorate


def without_arguments(text: str, known: set[str]) -> str:
    """Return a docstring without the arguments that are not known."""
    kept, in_arguments, is_shown = [], False, True
    for line in text.splitlines():
        if not line.startswith(" ") and line.strip():
            in_arguments, is_shown = line == "Args:", True
        elif in_arguments and (argument := _ARGUMENT.match(line)) is not None:
            is_shown = argument[1] in known
        if is_shown or not line.strip():
            kept.append(line)
    return "\n".join(kept)
