"""`crossmount._dataclass` makes the classes that the standard library would make, without their methods."""

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import KW_ONLY, InitVar, field
from typing import Any, ClassVar

import pytest

from crossmount import _dataclass

Decorator = Callable[..., Any]
OURS: Decorator = _dataclass.dataclass
STANDARD: Decorator = dataclasses.dataclass


def plain(dataclass: Decorator) -> Any:
    """Make a frozen class with each kind of field."""

    @dataclass(frozen=True, slots=True)
    class Value:
        kind: ClassVar[str] = "value"
        name: str
        size: int = 3
        tags: tuple[str, ...] = ()
        extra: dict[str, int] = field(default_factory=dict, hash=False)
        secret: str = field(default="", repr=False, compare=False)
        _: KW_ONLY
        limit: float | None = None

    return Value


def mutable(dataclass: Decorator) -> Any:
    """Make a class whose fields change, some of which are not parameters."""

    @dataclass(slots=True)
    class State:
        name: str
        seen: list[str] = field(default_factory=list)
        count: int = field(default=0, init=False)
        places: set[str] = field(default_factory=set, init=False)

    return State


def checked(dataclass: Decorator) -> Any:
    """Make a class that checks its fields, and converts an old parameter."""

    @dataclass(frozen=True)
    class Checked:
        size: int
        old: InitVar[int | None] = None

        def __post_init__(self, old: int | None) -> None:
            if old is not None:
                object.__setattr__(self, "size", old)
            if self.size < 0:
                raise ValueError("below 0")

    return Checked


def derived(dataclass: Decorator) -> Any:
    """Make a class of a class, with all fields by name."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Base:
        name: str
        size: int = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Derived(Base):
        tag: str

    return Derived


def ordered(dataclass: Decorator) -> Any:
    """Make a class whose values are sorted."""

    @dataclass(frozen=True, slots=True, order=True)
    class Version:
        major: int
        minor: int = 0

    return Version


def own(dataclass: Decorator) -> Any:
    """Make a class that has methods of its own."""

    @dataclass(slots=True)
    class Own:
        name: str

        def __init__(self) -> None:
            self.name = "own"

        def __repr__(self) -> str:
            return "<own>"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

        def __hash__(self) -> int:
            return 5

    return Own


def by_identity(dataclass: Decorator) -> Any:
    """Make a class whose instances are equal only to themselves."""

    @dataclass(slots=True, eq=False, weakref_slot=True)
    class Thing:
        name: str = "a"

    return Thing


def single(dataclass: Decorator) -> Any:
    """Make a class of one field."""

    @dataclass(frozen=True, slots=True)
    class One:
        value: int

    return One


def empty(dataclass: Decorator) -> Any:
    """Make a class without fields."""

    @dataclass(frozen=True, slots=True)
    class Nothing:
        """Nothing."""

    return Nothing


def outcome(function: Callable[[], Any]) -> Any:
    """Return what a function returns, or its error."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001 compared below
        return type(error), str(error)


CALLS: dict[Callable[[Decorator], Any], list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    plain: [
        (("a",), {}),
        (("a", 4, ("x",)), {"limit": 2.0, "secret": "s"}),
        (("a", 4), {"extra": {"k": 1}}),
        ((), {}),
        (("a",), {"other": 1}),
        (("a", 1, (), {}, "s", 2.0), {}),
    ],
    mutable: [(("a",), {}), (("a", ["b"]), {}), (("a",), {"count": 1})],
    checked: [((3,), {}), ((3,), {"old": 4}), ((-1,), {})],
    derived: [((), {"name": "n", "tag": "t"}), (("n",), {"tag": "t"})],
    ordered: [((1,), {}), ((1, 2), {}), ((2,), {})],
    own: [((), {})],
    by_identity: [((), {}), (("b",), {})],
    single: [((1,), {}), ((), {})],
    empty: [((), {})],
}


def observed(make: Callable[[Decorator], Any], dataclass: Decorator) -> list[Any]:
    """Return all that can be seen of a class and of its instances."""
    kind = make(dataclass)
    seen: list[Any] = [
        inspect.signature(kind),
        inspect.get_annotations(kind.__init__),
        kind.__init__.__qualname__,
        kind.__match_args__,
        [(each.name, each.type, each.default) for each in dataclasses.fields(kind)],
        getattr(kind, "__slots__", None),
    ]
    made = [outcome(lambda args=args, more=more: kind(*args, **more)) for args, more in CALLS[make]]  # type: ignore[misc]
    instances = [each for each in made if dataclasses.is_dataclass(each)]
    seen += [repr(each) if each in instances else each for each in made]
    for one in instances:
        has_hash = outcome(lambda one=one: hash(one))  # type: ignore[misc]
        seen += [has_hash if make is not by_identity else None, one == object()]
        for name in ("name", "count"):
            seen.append(outcome(lambda one=one, name=name: dataclasses.replace(one, **{name: "x"})))  # type: ignore[misc]
        seen += [copy.copy(one) == one, copy.deepcopy(one) == one]
        seen += [one == other for other in made]
        seen += [outcome(lambda one=one, other=other: one < other) for other in made]  # type: ignore[misc]
    for one in instances:
        for name in [each.name for each in dataclasses.fields(kind)]:
            seen.append(outcome(lambda one=one, name=name: setattr(one, name, "x")))  # type: ignore[misc]
            seen.append(outcome(lambda one=one, name=name: delattr(one, name)))  # type: ignore[misc]
    return [str(each) for each in seen]


@pytest.mark.parametrize("make", CALLS)
def test_a_class_is_as_the_standard_library_makes_it(make: Callable[[Decorator], Any]) -> None:
    """A class has the same parameters, values, order, errors and text as with `dataclasses.dataclass`."""
    assert observed(make, OURS) == observed(make, STANDARD)


@_dataclass.dataclass(frozen=True, slots=True)
class Pickled:
    """A class that `pickle` can find."""

    name: str
    size: int = field(default=1, kw_only=True)


def test_a_frozen_value_survives_pickle() -> None:
    """A frozen value with slots is equal to itself after it was pickled."""
    value = Pickled("a", size=2)
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 our own bytes


def test_a_frozen_class_protects_its_fields_in_a_class_below() -> None:
    """A class below a frozen one has attributes of its own, and cannot change the fields."""

    class Below(Pickled):
        pass

    below: Any = Below("a")
    below.more = 1
    del below.more
    with pytest.raises(dataclasses.FrozenInstanceError):
        below.name = "b"
    with pytest.raises(dataclasses.FrozenInstanceError):
        del below.name


def test_no_method_is_compiled_before_it_is_used() -> None:
    """A class that is never called has no compiled `__init__`."""
    kind = plain(OURS)
    assert not inspect.isfunction(inspect.getattr_static(kind, "__init__"))
    kind("a")
    assert inspect.isfunction(inspect.getattr_static(kind, "__init__"))
