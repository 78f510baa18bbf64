"""A program that uses the library passes a strict type checker."""

import json
import subprocess
import sys
from pathlib import Path

from support.waiting import PATIENCE

PROGRAM = """
import asyncio
from pathlib import Path

import httpx
import redis.asyncio
import tenacity

import crossmount
from crossmount import asyncio as aio
from crossmount import events
import redis


def observe(event: events.Event) -> None:
    match event:
        case crossmount.BlobFinished(digest=digest, outcome=outcome):
            print(digest.encoded, outcome)
        case crossmount.IndexDegraded(cause=cause):
            print(cause)
        case _:
            pass


def blocking(image: crossmount.Image | Path, where: crossmount.Located) -> dict[str, int]:
    options = crossmount.ClientOptions(
        credentials=("ann", "word"),
        proxy="http://proxy.example:3128",
        retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(3)),
        timeout=httpx.Timeout(10.0, connect=3.0),
    )
    by_name = crossmount.ClientOptions(credentials={"r.example": crossmount.Credential("ann", "word")})
    with crossmount.open_index(redis.Redis()) as index, crossmount.Registries(by_name) as registries:
        index.add_source("sha256:" + "0" * 64, "r.example/team/app", must_mount=True)
        known: crossmount.Knowledge = index.look_up(["sha256:" + "0" * 64], where)
        print(known.traits.mounts)
        report: crossmount.PushReport = crossmount.push(
            image, "r.example/team/app:1", index=index, options=options, observer=observe
        )
        why: str | None = report.index_reason
        print(why, report.count("mounted"))
        try:
            crossmount.copy("r.example/team/app:1", "s.example/team/app", registries=registries)
        except crossmount.CrossmountError as error:
            print(error.registry, error.repository, error.digest, error.status, error.codes, error.url)
        return crossmount.locality("r.example/team/app:1", ["r.example"], index=index)


async def waiting() -> int | None:
    async with (
        aio.open_index(redis.asyncio.Redis()) as index,
        aio.RegistryClient("r.example", credentials=("ann", "word")) as client,
    ):
        guarded: aio.MountIndex = aio.GuardedIndex(index)
        result: aio.MountResult = await aio.Mounter(client, guarded).mount("sha256:" + "0" * 64, "r.example/a")
        print(result.status is aio.MountStatus.MOUNTED)
        async with client.stream_blob("r.example/a", "sha256:" + "0" * 64) as stream:
            async for part in stream:
                print(len(part))
        return await client.head_blob("r.example/a", "sha256:" + "0" * 64)


if __name__ == "__main__":
    blocking(Path("image"), crossmount.Repository("r.example", "a"))
    asyncio.run(waiting())
"""


def test_a_program_passes_pyright(tmp_path: Path) -> None:
    """The same program has no error under basedpyright, in pyright's own strict mode."""
    (tmp_path / "program.py").write_text(PROGRAM)
    rules = {"typeCheckingMode": "strict", "venvPath": str(Path(sys.prefix).parent), "venv": Path(sys.prefix).name}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(rules))
    command = (sys.executable, "-m", "basedpyright", "--outputjson", "program.py")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=PATIENCE)
    assert json.loads(done.stdout)["generalDiagnostics"] == []
    assert done.returncode == 0


def test_a_program_passes_mypy_strict(tmp_path: Path) -> None:
    """A sample program of both flavours has no error under mypy --strict."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    command = (sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(file))
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout
