"""The rooms import one way only."""

import ast
from pathlib import Path

import pytest

import crossmount

ROOT = Path(crossmount.__file__).parent

BASE = {"errors", "events", "oci", "_foreign", "_closing"}
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "_foreign": set(),
    "_closing": set(),
    "oci": {"errors"},
    "events": {"errors", "oci"},
    "redis": BASE | {"_blocking"},
    "embedded": BASE | {"redis", "_blocking"},
    "index": BASE | {"redis", "embedded", "_blocking"},
    "registry": BASE,
    "mount": BASE | {"index", "registry"},
    "fleet": BASE | {"redis", "index", "_blocking"},
    "transfer": BASE | {"index", "registry", "mount", "fleet"},
    "testing": {"errors", "oci"},
    "discovery": BASE | {"redis", "index", "registry", "mount", "fleet", "transfer"},
    "maintenance": BASE | {"redis", "index", "registry", "mount", "transfer", "_blocking"},
    "proxy": BASE | {"index", "registry", "mount", "fleet", "transfer", "discovery"},
    "cli": BASE
    | {
        "redis",
        "embedded",
        "index",
        "registry",
        "mount",
        "fleet",
        "transfer",
        "discovery",
        "maintenance",
        "proxy",
    },
}
"""What each room may import of the others."""

EXCEPTIONS = {"cli/demo/registry.py": {"testing"}}
"""The demo alone brings a registry of its own."""

FLAVOURS = {"__init__", "__main__", "asyncio", "blocking", "_blocking", "_portal"}
"""Modules at the root that make the two flavours; only they import everything."""


def imported_rooms(module: Path) -> set[str]:
    """Return the rooms that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            if node.module == "crossmount":
                names.update(f"crossmount.{alias.name}" for alias in node.names)
            else:
                names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("crossmount.")}


def modules_of(room: str) -> list[Path]:
    """Return the modules of a room."""
    folder = ROOT / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_lies_before_it(room: str) -> None:
    """No module imports against the arrows, inside functions included."""
    for module in modules_of(room):
        where = module.relative_to(ROOT).as_posix()
        allowed = ROOMS[room] | {room} | EXCEPTIONS.get(where, set())
        assert imported_rooms(module) <= allowed, f"{where} imports against the arrows"


def test_every_room_has_its_arrows() -> None:
    """A new room must say what it may import."""
    entries = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert entries - {"__pycache__", "py"} <= set(ROOMS) | FLAVOURS
