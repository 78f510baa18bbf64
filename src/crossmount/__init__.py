"""crossmount: a shared index of mount sources for OCI registries, and pushes that use it.

The names here block; `crossmount.asyncio` has the same names for an event loop. `_shared` and `asyncio` list them.
They are loaded on first use, so that `import crossmount`, and a command that needs none of them, starts at once.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from crossmount.blocking import *
else:

    def __getattr__(name: str) -> Any:
        """Load a public name. The import system asks here for a submodule too, before it imports it."""
        if name == "__all__" or not (name.startswith("_") or find_spec(f"crossmount.{name}")):
            blocking = import_module("crossmount.blocking")
            if name == "__all__":
                return ["__version__", *blocking.__all__]
            if name in blocking.__all__:
                return getattr(blocking, name)
        raise AttributeError(f"module 'crossmount' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return __getattr__("__all__")
