"""What a push loads before it begins."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from crossmount.testing import ScriptedRegistry, running_registry
from support.commands import Shell
from support.images import MadeImage

OWN_MAX = 152
"""How many modules of crossmount a push may load; each costs about 0.4 ms, and more for what it imports."""

UNUSED = (
    "crossmount.blocking",
    "crossmount.transfer.copy",
    "crossmount.transfer.cache",
    "crossmount.embedded.lifecycle",
    "crossmount.redis.cluster",
    "crossmount.discovery",
    "crossmount.maintenance",
    "crossmount.proxy",
    "httpx._main",
    "opentelemetry",
    "rich",
    "pygments",
    "difflib",
    "statistics",
    "tracemalloc",
)
"""Modules that a push without bars does not need."""

RUN = """
import json, sys
from crossmount.cli.entry import main
try:
    main()
except SystemExit as ended:
    print(json.dumps([ended.code, *(name for name, module in sys.modules.items() if module is not None)]))
"""


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """Run a registry."""
    with running_registry() as running:
        yield running


@pytest.mark.parametrize("index", ["off", "memory://"])
def test_a_push_loads_only_what_it_needs(
    shell: Shell, registry: ScriptedRegistry, image: MadeImage, index: str
) -> None:
    """`crossmount push` loads neither other commands nor what httpx and redis-py have for terminals."""
    arguments = ("push", str(image.path), f"{registry.address}/app:1", "--plain-http", "--index", index)
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, env=dict(shell.env), check=False
    )
    status, *loaded = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    assert [name for name in UNUSED if name in loaded] == []
    assert sum(name.partition(".")[0] == "crossmount" for name in loaded) <= OWN_MAX
