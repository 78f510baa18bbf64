"""crossmount: a shared index of mount sources for OCI registries, and the push that uses it.

The names here block; `crossmount.asyncio` has the same names for an event loop. They are loaded when first
used, so that a command which needs none of them starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossmount.blocking import *  # noqa: F403 the names are pinned in crossmount.blocking.__all__

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    blocking = import_module("crossmount.blocking")
    if name == "__all__":
        return [*blocking.__all__, "__version__"]
    if name in blocking.__all__:
        return getattr(blocking, name)
    raise AttributeError(f"module 'crossmount' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*import_module("crossmount.blocking").__all__, "__version__"]
