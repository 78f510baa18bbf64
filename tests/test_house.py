"""House rules: one name has one meaning in the package, and files have a size that can be read."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import crossmount

ROOT = Path(crossmount.__file__).parent
MODULES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}

FLAVOURS = {"blocking.py", "asyncio.py", "index/blocking.py"}
"""The public APIs: a class has the same name in the blocking and in the async one."""

LINES_MIN, LINES_MAX = 40, 320

SHORT = {
    "_signals.py": "the command and the proxy share it, and neither loads the other",
}
"""Modules with fewer lines than `LINES_MIN`, and why each is a module of its own."""

HELPER_FILES_MAX = 7
"""In how many modules a function at module level may have the same name."""


def definitions(path: Path) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the classes and functions at the level of a module."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_two_public_classes_share_a_name() -> None:
    """A class name means one class, the two flavours of a public class aside."""
    where: dict[str, list[str]] = defaultdict(list)
    for name, path in MODULES.items():
        for node in definitions(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and name not in FLAVOURS:
                where[node.name].append(name)
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


def test_no_helper_name_stands_in_many_modules() -> None:
    """A function's name says what it does there: it is not one that many modules have."""
    where: dict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        for node in definitions(path):
            if not isinstance(node, ast.ClassDef):
                where[node.name].add(name)
    assert {name: modules for name, modules in where.items() if len(modules) > HELPER_FILES_MAX} == {}


def test_no_module_is_too_long() -> None:
    """A module can be read in one sitting."""
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_no_module_is_a_sliver() -> None:
    """A module has an idea of its own; a few lines belong to the module that uses them."""
    short = {
        name
        for name, path in MODULES.items()
        if name not in FLAVOURS
        and path.stem not in {"__init__", "__main__"}
        and len(path.read_text().splitlines()) < LINES_MIN
    }
    assert short == set(SHORT)


def test_every_module_uses_the_packages_own_dataclass() -> None:
    """Only `_dataclass` uses the standard library's decorator, which costs half a millisecond a class."""
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and node.module == "dataclasses"
        and "dataclass" in {alias.name for alias in node.names}
    }
    assert users == {"_dataclass.py"}
