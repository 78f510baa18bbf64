"""`crossmount proxy` as a process."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def proxy_process(
    upstream: str, index: str, folder: Path, *more: str, within: Sequence[str] = ()
) -> Iterator[str]:
    """Run `crossmount proxy` until the block ends, and stop it as an operator would; gives its `host:port`.

    Args:
        upstream: the registry's URL.
        index: the index's URL.
        folder: for its spool and its log.
        more: more of its options.
        within: a command that runs it: `prlimit` …
    """
    line = [
        *within,
        sys.executable,
        "-m",
        "crossmount",
        "proxy",
        "--upstream",
        upstream,
        "--listen",
        "127.0.0.1:0",
    ]
    line += ["--index", index, "--spool", str(folder / "spool"), "--no-access-log", *more]
    log = folder / "proxy.log"
    with log.open("wb") as err:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=err, text=True)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert "http" in said, log.read_text()
        yield said.split()[2].partition("://")[2]
    finally:
        process.terminate()
        code = process.wait(timeout=20)
        process.stdout.close()
    assert code == 0, log.read_text()
