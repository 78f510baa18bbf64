"""A push without the index is counted by the next push of the same user and host."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crossmount.cli.uncounted import KEPT_MAX, carried_over
from crossmount.index import MemoryMountIndex, RedisMountIndex, open_index
from crossmount.savings import LayerIncrement, Tally, read_savings
from crossmount.testing import ScriptedRegistry
from support.commands import Here
from support.images import MadeImage
from support.index_kit import FourMethods, layer
from support.links import async_link
from support.savings import entry
from support.servers import Server, StartServer


def counted(url: str) -> Tally:
    """Return what an index has counted lately."""

    async def read() -> Tally:
        async with open_index(url) as index:
            today = datetime.now(UTC).date()
            days = timedelta(days=1)
            return (await read_savings(index, since=today - days, until=today + days)).total

    return asyncio.run(read())


def test_the_next_push_counts_the_one_without_the_index(
    here: Here, image: MadeImage, registry: ScriptedRegistry, start_server: StartServer, tmp_path: Path
) -> None:
    """A push while the index is down leaves a private file, and the next push counts it, once."""
    server = start_server()
    line = ("push", f"oci:{image.path}", "--plain-http", "--index", server.url)
    server.stop()
    assert here(*line, f"{registry.address}/team/one:1").status == 0
    (file,) = tmp_path.rglob("uncounted/*")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    server.restart()
    assert here(*line, f"{registry.address}/team/two:1").status == 0
    assert list(tmp_path.rglob("uncounted/*")) == []
    assert here(*line, f"{registry.address}/team/three:1").status == 0
    total = counted(server.url)
    assert (total.pushes, total.pushes_without_index) == (3, 1)


def test_it_is_for_the_same_index_and_namespace_alone(tmp_path: Path) -> None:
    """What could not be counted in one index is not counted in another."""
    env = {"CROSSMOUNT_STATE_DIR": str(tmp_path)}
    down = RedisMountIndex(async_link("redis://127.0.0.1:1"))
    with carried_over(down, "redis://one", "default", env=env):
        down.account(entry(1, pushes=1, layers=[LayerIncrement(layer(1), 7, "gone")]))
    for url, namespace in (("redis://two", "default"), ("redis://one", "other")):
        with carried_over(MemoryMountIndex(), url, namespace, env=env):
            pass
    index = RedisMountIndex(async_link("redis://127.0.0.1:1"))
    with carried_over(index, "redis://one", "default", env=env):
        assert list(index.take_unwritten()) == [entry(1, pushes=1, layers=[LayerIncrement(layer(1), 7, "gone")])]


def test_pushes_that_stay_uncounted_are_kept_on(tmp_path: Path) -> None:
    """Through a long outage pushes add up, the newest of too many stay, and each is there once."""
    env = {"CROSSMOUNT_STATE_DIR": str(tmp_path)}
    for number in range(KEPT_MAX + 5):
        index = RedisMountIndex(async_link("redis://127.0.0.1:1"))
        with carried_over(index, "redis://one", "default", env=env):
            index.account(entry(number, pushes=1))
    (file,) = tmp_path.rglob("uncounted/*")
    ids = [each["id"] for each in json.loads(file.read_text())]
    assert ids == [f"{number:08d}" for number in range(5, KEPT_MAX + 5)]


GOOD = {"id": "00000001", "day": "2026-11-20", "registry": "r.example", "prefix": "team"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no JSON",
        "[" * 100_000,
        "{}",
        "[1, null, []]",
        json.dumps([{**GOOD, "numbers": [-1], "layers": []}]),
        json.dumps([{**GOOD, "numbers": [1.5], "layers": []}]),
        json.dumps([{**GOOD, "numbers": [10**20], "layers": []}]),
        json.dumps([{**GOOD, "numbers": [True], "layers": []}]),
        json.dumps([{**GOOD, "numbers": [1], "layers": [["sha256:0", 1, "gone"]]}]),
        json.dumps([{**GOOD, "numbers": [1], "layers": [[layer(1), 1, "stolen"]]}]),
        json.dumps([{**GOOD, "numbers": [1], "layers": [[layer(1), -1, "gone"]]}]),
        json.dumps([{**GOOD, "numbers": [1], "layers": [], "id": "a b"}]),
        json.dumps([{**GOOD, "numbers": [1], "layers": [], "day": "today"}]),
        json.dumps([{**GOOD, "numbers": [1], "layers": [], "prefix": "<b>"}]),
        json.dumps([{**GOOD, "numbers": [1], "layers": [], "registry": "%"}]),
    ],
)
def test_a_damaged_file_counts_nothing(tmp_path: Path, content: str) -> None:
    """A file that is damaged or hostile never fails a push, and is not counted."""
    env = {"CROSSMOUNT_STATE_DIR": str(tmp_path)}
    index = RedisMountIndex(async_link("redis://127.0.0.1:1"))
    with carried_over(index, "redis://one", "default", env=env):
        index.account(entry(1))
    (file,) = tmp_path.rglob("uncounted/*")
    file.write_text(content)
    with carried_over(index, "redis://one", "default", env=env):
        assert index.take_unwritten() == []


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    """Where nothing can be kept, the push is not counted."""
    (tmp_path / "uncounted").write_text("a file in place of the folder")
    index = RedisMountIndex(async_link("redis://127.0.0.1:1"))
    for _ in range(2):
        with carried_over(index, "redis://one", "default", env={"CROSSMOUNT_STATE_DIR": str(tmp_path)}):
            index.account(entry(1))


def test_an_index_without_accounts_keeps_nothing(tmp_path: Path, valkey: Server) -> None:
    """No file is made for a push without an index, or with one that counts at once."""
    del valkey
    for index in (None, FourMethods(), MemoryMountIndex()):
        with carried_over(index, "off", "default", env={"CROSSMOUNT_STATE_DIR": str(tmp_path)}):
            pass
    assert list(tmp_path.iterdir()) == []
