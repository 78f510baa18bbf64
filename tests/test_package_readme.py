"""src/crossmount/README.md, which explains the package to contributors, matches the code."""

import ast
import re
from pathlib import Path

import crossmount
from test_arrows import PACKAGES

ROOT = Path(crossmount.__file__).parent
TOP = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

FUNCTIONS = re.findall(r"`([\w/.-]+\.py):([\w.]+)`", README)
PATHS = re.findall(r"`([\w./-]*/|[\w./-]+\.\w+|\.ci/\w+)`", README)


def resolve(path: str) -> Path:
    """Return the file or folder that the README means by a path."""
    return (TOP if path.startswith(("tests/", "deploy/", ".ci/")) else ROOT) / path


def defined_in(path: Path) -> set[str]:
    """Return the functions, classes and methods that a file defines, methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{part.name}"
                for part in node.body
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names


def test_every_file_that_it_names_exists() -> None:
    """Every file and folder that the README names exists."""
    named = sorted(set(PATHS))
    assert named
    assert [
        path for path in named if not (resolve(path).is_dir() if path.endswith("/") else resolve(path).is_file())
    ] == []


def test_every_function_that_it_names_exists() -> None:
    """Every function that a call path goes through is defined in the file that stands before it."""
    named = sorted(set(FUNCTIONS))
    assert named
    assert [f"{path}:{function}" for path, function in named if function not in defined_in(resolve(path))] == []


def test_it_describes_every_package() -> None:
    """The table of packages has a row for each package, and no other."""
    rows = set(re.findall(r"^\| `(\w+)/` \|", README, flags=re.MULTILINE))
    assert rows == {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_its_picture_has_the_arrows_of_the_test() -> None:
    """The arrows of the picture, followed to their ends, reach all that `test_arrows` allows, and nothing else."""
    (picture,) = re.findall(r"```mermaid\n(.*?)```", README, flags=re.DOTALL)
    arrows = re.findall(r"(\w+) --> (\w+)", picture)
    packages = {name for arrow in arrows for name in arrow}
    reached: dict[str, set[str]] = {name: set() for name in packages}
    for _ in packages:
        for above, below in arrows:
            reached[above] |= {below} | reached[below]
    for name in packages:
        assert PACKAGES[name] & packages <= reached[name], name
        undrawn = {below for above, below in arrows if above == name} - PACKAGES[name]
        assert not undrawn, name
