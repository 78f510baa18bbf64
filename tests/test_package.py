import ast
import functools
import importlib.metadata
import inspect
import os
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import crossmount
import crossmount.asyncio
import crossmount.blocking


def exported(module: ModuleType) -> list[str]:
    """Return the names that `from module import *` imports."""
    return list(module.__all__)


def seen_by_type_checkers(module: ModuleType) -> set[str]:
    """Return the names that a module exports to type checkers: `import X as X`, `import *`, definitions."""
    names: set[str] = set()
    for node in ast.parse(Path(module.__file__ or "").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            names |= seen_by_type_checkers(import_module(node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


def test_both_flavours_export_the_same_names() -> None:
    """A name that can be imported from one flavour can be imported from the other, also by type checkers."""
    names = set(exported(crossmount.asyncio))
    assert set(exported(crossmount.blocking)) == names
    assert set(dir(crossmount)) == set(exported(crossmount)) == names | {"__version__"}
    assert seen_by_type_checkers(crossmount.asyncio) == seen_by_type_checkers(crossmount.blocking) == names


def test_every_exported_name_is_defined_by_crossmount() -> None:
    """Each exported name can be imported from both flavours, and none belongs to another library."""
    for name in exported(crossmount.asyncio):
        assert getattr(crossmount, name) is getattr(crossmount.blocking, name)
        for flavour in (crossmount.asyncio, crossmount.blocking):
            assert getattr(flavour, name).__module__.startswith("crossmount")


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    """Neither what the flavours import for themselves nor an unknown name is an attribute; a submodule is."""
    for name in ("Path", "threaded", "nonsense", "_nonsense"):
        assert not hasattr(crossmount, name)
    code = "from crossmount import events; events.Event"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_there_is_one_version() -> None:
    """The package and its metadata have the same version."""
    assert importlib.metadata.version("crossmount") == crossmount.__version__


def test_importing_all_names_loads_no_library_of_connections() -> None:
    """Importing all names loads neither h11 nor httpcore."""
    code = "import sys; from crossmount import *; sys.exit('httpcore' in sys.modules or 'h11' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_package_loads_neither_redis_nor_httpx() -> None:
    """A command that needs neither starts without them."""
    code = "import sys, crossmount; sys.exit('redis' in sys.modules or 'httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_built_wheel_is_what_is_tested_when_it_should_be() -> None:
    """Under .ci/run's last step nothing is imported from the tree."""
    installed = os.environ.get("CROSSMOUNT_INSTALLED")
    if installed:
        assert Path(crossmount.__file__).is_relative_to(installed)
    assert (Path(crossmount.__file__).parent / "py.typed").is_file()


def test_help_of_the_package_is_an_overview() -> None:
    """`help(crossmount)` fits into 400 lines, and names every public name."""
    text = pydoc.TextDoc().docmodule(crossmount)
    assert len(text.splitlines()) < 400
    assert [name for name in exported(crossmount.asyncio) if name not in text] == []


def test_events_and_errors_need_no_import_of_their_own() -> None:
    """`crossmount.events` and `crossmount.errors` are there after `import crossmount`."""
    code = "import crossmount; crossmount.events.Event, crossmount.errors.CrossmountError"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_function_documents_its_arguments() -> None:
    """The docstring of each public function names each of its parameters and no other, in both flavours."""
    for flavour in (crossmount, crossmount.asyncio):
        for name in exported(crossmount.asyncio):
            function = getattr(flavour, name)
            if not inspect.isfunction(function):
                continue
            arguments = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
            documented = {line.strip().partition(":")[0] for line in arguments.splitlines() if line[4:5].strip()}
            assert documented == set(inspect.signature(function).parameters), name


def test_no_public_docstring_points_elsewhere() -> None:
    """The docstrings of the blocking flavour are complete: none refers to the other flavour."""
    for name in exported(crossmount.asyncio):
        public = getattr(crossmount, name)
        texts = [inspect.getdoc(public)] + [
            inspect.getdoc(value) for value in vars(public).values() if callable(value)
        ]
        assert not [text for text in texts if text and ("crossmount.asyncio" in text or "see `" in text)], name


def test_every_blocking_method_has_a_signature_and_a_docstring() -> None:
    """Each public method of each public class has parameters by name and a docstring of its own."""
    for name in exported(crossmount.asyncio):
        for flavour in (crossmount, crossmount.asyncio):
            public = getattr(flavour, name)
            if not inspect.isclass(public):
                continue
            for method, value in inspect.getmembers(public, inspect.isfunction):
                if method.startswith("_") or not value.__module__.startswith("crossmount"):
                    continue
                parameters = inspect.signature(value).parameters
                assert not {"args", "kwargs"} & set(parameters), f"{name}.{method}"
                assert inspect.getdoc(value), f"{name}.{method}"


def test_a_public_member_is_no_cached_property() -> None:
    """No public member of a public class is a cached property: `help()` and `inspect` know no signature of one."""
    found = []
    for name in exported(crossmount.asyncio):
        for kind in (getattr(crossmount, name), getattr(crossmount.asyncio, name)):
            for member in dir(kind) if inspect.isclass(kind) else ():
                value = inspect.getattr_static(kind, member)
                if not member.startswith("_") and isinstance(value, functools.cached_property):
                    found.append(f"{kind.__module__}.{name}.{member}")
    assert not found
