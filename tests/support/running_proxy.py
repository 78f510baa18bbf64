"""`crossmount proxy` as a process."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.waiting import PATIENCE


@contextmanager
def proxy_process(
    upstream: str, index: str, folder: Path, *more: str, within: Sequence[str] = ()
) -> Iterator[str]:
    """Run `crossmount proxy` until the block ends, and stop it with SIGTERM; yield its `host:port`.

    Args:
        upstream: the registry's URL.
        index: the index's URL.
        folder: contains its spool and its log.
        more: more of its options.
        within: a command that starts it, such as `prlimit`.
    """
    line = ["proxy", "--upstream", upstream, "--listen", "127.0.0.1:0"]
    line += ["--index", index, "--spool", str(folder / "spool"), "--no-access-log", *more]
    with crossmount_process(line, folder, within=within) as url:
        yield url.partition("://")[2]


@contextmanager
def crossmount_process(
    arguments: list[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Iterator[str]:
    """Run `crossmount ARGUMENTS`, which must be a proxy, until the block ends; yield the URL that it prints.

    Args:
        arguments: its command line.
        folder: for its log.
        environment: its whole environment; None is that of the tests.
        within: a command that runs it.
    """
    log = folder / "proxy.log"
    with log.open("wb") as err:
        process = subprocess.Popen(
            [*within, sys.executable, "-m", "crossmount", *arguments],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=environment,
        )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert "http" in said, log.read_text()
        yield str(json.loads(said)["url"])
    finally:
        process.terminate()
        code = process.wait(timeout=PATIENCE)
        process.stdout.close()
    assert code == 0, log.read_text()
