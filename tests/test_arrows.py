"""Packages import one way only."""

import ast
from pathlib import Path

import pytest

import crossmount

ROOT = Path(crossmount.__file__).parent

BASE = {
    "errors",
    "events",
    "oci",
    "_arguments",
    "_dataclass",
    "_parsing",
    "_secrets",
    "_tasks",
    "_expiring",
    "_signals",
    "__version__",
}
PACKAGES: dict[str, set[str]] = {
    "errors": set(),
    "_arguments": {"errors"},
    "_dataclass": set(),
    "_parsing": set(),
    "_secrets": set(),
    "_tasks": {"errors"},
    "_expiring": set(),
    "_formatting": {"_parsing"},
    "_signals": {"_dataclass"},
    "oci": {"_arguments", "errors", "_dataclass", "_secrets"},
    "events": {"_arguments", "errors", "oci", "_dataclass"},
    "redis": BASE | {"_blocking"},
    "embedded": BASE | {"redis", "_blocking"},
    "savings": BASE,
    "index": BASE | {"redis", "embedded", "savings", "_blocking"},
    "registry": BASE,
    "mount": BASE | {"index", "registry"},
    "fleet": BASE | {"redis", "index", "_blocking"},
    "transfer": BASE | {"savings", "index", "registry", "mount", "fleet"},
    "testing": {"errors", "oci", "_dataclass"},
    "discovery": BASE | {"redis", "index", "registry", "mount", "fleet", "transfer"},
    "maintenance": BASE | {"redis", "index", "registry", "mount", "transfer", "_blocking"},
    "proxy": BASE | {"savings", "index", "registry", "mount", "fleet", "transfer", "discovery"},
    "dashboard": BASE | {"_formatting", "redis", "index", "savings", "registry", "fleet", "maintenance"},
    "cli": BASE
    | {
        "_formatting",
        "redis",
        "embedded",
        "savings",
        "index",
        "registry",
        "mount",
        "fleet",
        "transfer",
        "discovery",
        "maintenance",
        "proxy",
        "dashboard",
    },
}
"""The packages and top-level modules that each package may import."""

_ABOVE_UPLOADS = {
    "proxy/event_receiver",
    "proxy/own_endpoints",
    "proxy/app",
    "proxy/server",
    "proxy/assembly",
    "proxy/gateway",
    "proxy/shared",
    "proxy/files",
}
_ABOVE_AUTH = {"proxy/ledger", "proxy/recorder", "proxy/telemetry"}
FORBIDDEN: dict[str, set[str]] = {
    "registry/credentials": {"registry/http", "registry/auth"},
    "proxy/http": {"proxy/auth", "proxy/uploads", *_ABOVE_AUTH, *_ABOVE_UPLOADS},
    "proxy/auth": {"proxy/uploads", *_ABOVE_AUTH, *_ABOVE_UPLOADS},
    "proxy/uploads": _ABOVE_UPLOADS,
    "cli/progress": {"cli/commands", "cli/demo"},
    "cli/demo": {"cli/commands"},
}
"""The sub-packages and modules of the same package that a sub-package may not import."""

EXCEPTIONS = {"cli/demo/registry.py": {"testing"}}
"""Modules that may import more than their package: the demo runs a registry of its own."""

FLAVOURS = {"__init__", "__main__", "_shared", "asyncio", "blocking", "_blocking", "_portal"}
"""Top-level modules that make the blocking and the async API; they may import everything."""


def imported_modules(module: Path) -> set[str]:
    """Return the modules of crossmount that a module imports, as paths below the package, without suffix."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.partition(".")[2].replace(".", "/") for name in names if name.startswith("crossmount.")}


def modules_of(package: str) -> list[Path]:
    """Return the modules of a package, those of its sub-packages included."""
    folder = ROOT / package
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    """No module of a package imports a package that is not in its row, not even inside a function."""
    for module in modules_of(package):
        where = module.relative_to(ROOT).as_posix()
        allowed = PACKAGES[package] | {package} | EXCEPTIONS.get(where, set())
        imported = {name.partition("/")[0] for name in imported_modules(module)}
        assert imported <= allowed, f"{where} imports against the arrows"


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_sub_package_does_not_import_what_it_must_not(package: str) -> None:
    """No module of a sub-package imports a sub-package that its row forbids."""
    modules = modules_of(package)
    assert modules
    for module in modules:
        imported = {"/".join(name.split("/")[:2]) for name in imported_modules(module)}
        assert not imported & FORBIDDEN[package], f"{module.relative_to(ROOT)} imports against the arrows"


def test_every_package_has_a_row() -> None:
    """A new package or top-level module must say what it may import."""
    entries = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert entries - {"__pycache__", "py", "docs"} <= set(PACKAGES) | FLAVOURS
