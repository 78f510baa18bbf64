"""`dataclass`, without the cost of methods that are not used.

The decorator of the standard library writes and compiles six functions for each class. For the classes of
`crossmount push`, nearly two hundred, that took 70 of the 150 ms in which its modules are imported. Here the
standard library still collects the fields and makes the slots, but `__init__` is compiled when it is first looked
up, and the other methods are functions that read the fields by name. Type checkers see the standard decorator.
"""

import dataclasses
import operator
from collections.abc import Callable
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
            made.__shown__ = tuple(field.name for field in fields if field.repr)
            methods = dict[str, Any](
                _FROZEN if frozen else {}, __init__=_Init(made, frozen=frozen), __repr__=_repr
            )
            if frozen:
                made.__frozen__ = tuple(field.name for field in fields)
                methods |= _PICKLED if slots else {}
            if eq:
                made.__compared__ = _reader([field.name for field in fields if field.compare])
                made.__hashed__ = _reader([f.name for f in fields if (f.compare if f.hash is None else f.hash)])
                methods |= {"__eq__": _equal, **(_ORDERED if order else {})}
                if own.get("__hash__") is None and ("__hash__" not in own or "__eq__" in own):
                    made.__hash__ = _hash if frozen else None
            for name, method in methods.items():
                if name not in own:
                    setattr(made, name, method)
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
    return staticmethod(lambda self: tuple(getattr(self, name) for name in names))


# Methods of all classes. They find the names of the fields in attributes of the class.


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__shown__)
    return f"{self.__class__.__qualname__}({shown})"


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = self.__compared__
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(self.__hashed__(self))


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return compare(self.__compared__(self), self.__compared__(other))

    return method


_ORDERED = {f"__{name}__": _comparison(getattr(operator, f"__{name}__")) for name in ("lt", "le", "gt", "ge")}


def _set_attribute(self: Any, name: str, value: Any) -> None:
    if name in self.__frozen__ or "__frozen__" in type(self).__dict__:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
    object.__setattr__(self, name, value)


def _delete_attribute(self: Any, name: str) -> None:
    if name in self.__frozen__ or "__frozen__" in type(self).__dict__:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
    object.__delattr__(self, name)


_FROZEN = {"__setattr__": _set_attribute, "__delattr__": _delete_attribute}


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__frozen__]


def _set_state(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__frozen__, state, strict=True):
        object.__setattr__(self, name, value)


_PICKLED = {"__getstate__": _get_state, "__setstate__": _set_state}
"""`pickle` and `copy` would assign to the fields, which a frozen class with slots refuses."""
