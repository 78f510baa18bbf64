"""What both ways of making a blocking flavour share, and the simpler way: driving what never suspends.

A coroutine over a blocking link (`crossmount.redis.link.BlockingLink`) runs from its start to its end without
an event loop. So the index needs no thread and no loop to be used blocking: a thread pool, a fork and a running
loop can each call it.
"""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends and return its result.

    Raises:
        RuntimeError: it wanted to suspend, which is a defect: something below it needs an event loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} wanted to wait, and there is no event loop to wait on")


class Bridge(Generic[P, T]):
    """A method of an asynchronous class as a blocking one, with its parameters and its docstring."""

    def __init__(self, bind: Callable[..., Callable[P, T]], function: Callable[..., Any]) -> None:
        self._bind = bind
        functools.update_wrapper(cast("Any", self), function)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, T]: ...
    def __get__(self, instance: object | None, owner: type) -> Self | Callable[P, T]:
        return self if instance is None else self._bind(instance)


class Driven(Generic[A]):
    """The blocking twin of an asynchronous object whose coroutines never suspend."""

    def __init__(self, asynchronous: A) -> None:
        self.asynchronous = asynchronous


def driven(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Bridge[P, T]:
    """Make the coroutine method of this name, of whatever a `Driven` drives, a plain one."""

    def bind(instance: object) -> Callable[P, T]:
        coroutine_function = getattr(cast("Driven[Any]", instance).asynchronous, function.__name__)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return run_now(cast("Coroutine[Any, Any, T]", coroutine_function(*args, **kwargs)))

        return call

    return Bridge(bind, function)
