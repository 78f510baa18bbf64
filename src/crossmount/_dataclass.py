"""`dataclass`, without the cost of methods that are not used.

The decorator of the standard library writes and compiles six functions for each class. For the classes of
`crossmount push`, nearly two hundred, that took 70 of the 150 ms in which its modules are imported. Here the
standard library still collects the fields and makes the slots, but `__init__` is compiled when it is first looked
up, and the other methods are functions that read the fields by name. Type checkers see the standard decorator.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 type checkers export it only so
else:

    def dataclass(
        *,
        frozen: bool = False,
        eq: bool = True,
        order: bool = False,
        slots: bool = False,
        kw_only: bool = False,
        weakref_slot: bool = False,
    ) -> Callable[[type[T]], type[T]]:
        """Return a decorator with the effect of `dataclasses.dataclass` with the same arguments."""
        collect = dataclasses.dataclass(
            init=False, repr=False, eq=False, slots=slots, kw_only=kw_only, weakref_slot=weakref_slot
        )

        def decorate(cls: type[T]) -> type[T]:
            own = cls.__dict__
            if cls.__doc__ is None:
                cls.__doc__ = cls.__name__  # the standard library would compute a signature for it
            made = collect(cls)
            fields = dataclasses.fields(made)
            if "__init__" not in own:
                made.__init__ = _Init(made, frozen=frozen)
            if "__repr__" not in own:
                made.__repr__ = _repr_of([field.name for field in fields if field.repr])
            if frozen:
                _freeze(made, [field.name for field in fields], slots=slots)
            if eq:
                _compare(made, own, frozen=frozen, order=order)
            return made

        return decorate


class _Init:
    """Stands for a class's `__init__` until that is looked up for the first time."""

    def __init__(self, cls: type, *, frozen: bool) -> None:
        self._cls = cls
        self._frozen = frozen

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Compile `__init__`, put it into the class, and return it."""
        made = _compiled_init(self._cls, frozen=self._frozen)
        self._cls.__init__ = made  # type: ignore[misc]
        return made.__get__(instance, owner)


class _Factory:
    """The default of a parameter whose value is made for each call, as signatures show it."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _compiled_init(cls: Any, *, frozen: bool) -> Any:
    """Return `__init__` as the standard library would write it."""
    stored = {field.name for field in dataclasses.fields(cls)}
    names: dict[str, Any] = {"_set": object.__setattr__, "_factory": _FACTORY}
    types: dict[str, Any] = {}
    positional: list[str] = []
    by_name: list[str] = []
    body, passed = [], []
    for name, field in cls.__dataclass_fields__.items():
        if name not in stored and not isinstance(field.type, dataclasses.InitVar):
            continue  # a ClassVar
        default, value = "", name
        if field.default is not dataclasses.MISSING:
            names[f"_default_{name}"], default = field.default, f"=_default_{name}"
            value = name if field.init else f"_default_{name}"
        elif field.default_factory is not dataclasses.MISSING:
            names[f"_make_{name}"], default = field.default_factory, "=_factory"
            value = f"_make_{name}() if {name} is _factory else {name}" if field.init else f"_make_{name}()"
        if field.init:
            (by_name if field.kw_only else positional).append(name + default)
            types[name] = field.type
        if name not in stored:
            passed.append(name)
        elif field.init or value != name:
            body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append(f"self.__post_init__({', '.join(passed)})")
    parameters = ", ".join(["self", *positional, *(["*"] if by_name else []), *by_name])
    exec(f"def __init__({parameters}):\n  " + "\n  ".join(body or ["pass"]), names)  # noqa: S102 names of fields
    made = names["__init__"]
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    made.__annotations__ = {**types, "return": None}
    return made


def _reader(names: list[str]) -> Callable[[Any], Any]:
    """Return a function that returns the values of some fields, in a form that compares and hashes as a tuple."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _compare(cls: Any, own: Mapping[str, Any], *, frozen: bool, order: bool) -> None:
    """Add the methods that compare, and the hash; `own` is what the class defines itself."""
    fields = dataclasses.fields(cls)
    compared = _reader([field.name for field in fields if field.compare])
    hashed = _reader([field.name for field in fields if (field.compare if field.hash is None else field.hash)])
    has_hash = own.get("__hash__") is not None or ("__hash__" in own and "__eq__" not in own)
    if "__eq__" not in own:
        cls.__eq__ = _comparison("__eq__", operator.eq, compared)
    if not has_hash:
        cls.__hash__ = (lambda self: hash(hashed(self))) if frozen else None
    for name in ("__lt__", "__le__", "__gt__", "__ge__") if order else ():
        setattr(cls, name, _comparison(name, getattr(operator, name), compared))


def _comparison(
    name: str, compare: Callable[[Any, Any], Any], values: Callable[[Any], Any]
) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        return compare(values(self), values(other)) if other.__class__ is self.__class__ else NotImplemented

    method.__name__ = name
    return method


def _repr_of(names: list[str]) -> Callable[[Any], str]:
    @recursive_repr()
    def __repr__(self: Any) -> str:  # noqa: N807 the method
        return f"{self.__class__.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _freeze(cls: Any, names: list[str], *, slots: bool) -> None:
    """Make assignments to the fields fail."""
    own = frozenset(names)

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807 the method
        if type(self) is cls or name in own:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807 the method
        if type(self) is cls or name in own:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    cls.__setattr__, cls.__delattr__ = __setattr__, __delattr__
    if slots:  # `pickle` and `copy` would assign to the fields

        def __setstate__(self: Any, state: list[Any]) -> None:  # noqa: N807 the method
            for name, value in zip(names, state, strict=True):
                object.__setattr__(self, name, value)

        cls.__getstate__ = lambda self: [getattr(self, name) for name in names]
        cls.__setstate__ = __setstate__
