"""Run the OCI conformance suites straight and through the proxy, and print which tests end worse through it.

Started by `run.sh`, which builds the suites. Each registry starts empty. The suites run on it straight, then
through a proxy whose index is empty, then once more through the same proxy in other repositories, when the index
knows what the first run pushed.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WAYS = ("straight", "fresh index", "warmed index")
RANKS = ("failed", "skipped", "passed")
READY_SECONDS = 30.0
SUITE_SECONDS = 600

Results = dict[str, str]


@dataclass(frozen=True, slots=True)
class Suite:
    """A conformance program.

    Attributes:
        name: the name of its generation.
        program: where it is.
    """

    name: str
    program: Path

    def run(self, address: str, repository: str, folder: Path) -> Results:
        """Run it on the registry at `host:port`, and return how each of its tests ended."""
        folder.mkdir(parents=True)
        environment = os.environ | self._variables(address, repository, folder)
        with (folder / "log").open("wb") as log:
            subprocess.run(
                [self.program],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                timeout=SUITE_SECONDS,
                check=False,
            )
        return read_report(folder / "junit.xml") | read_summary(folder / "results.yaml")

    def _variables(self, address: str, repository: str, folder: Path) -> Mapping[str, str]:
        first, second = f"{repository}/one", f"{repository}/two"
        if self.name == "new":
            both = {"OCI_REPO1": first, "OCI_REPO2": second, "OCI_RESULTS_DIR": str(folder)}
            return both | {"OCI_TLS": "disabled", "OCI_REGISTRY": address, "OCI_VERSION": "1.1"}
        tested = ("PULL", "PUSH", "CONTENT_DISCOVERY", "CONTENT_MANAGEMENT")
        return {
            "OCI_ROOT_URL": f"http://{address}",
            "OCI_NAMESPACE": first,
            "OCI_CROSSMOUNT_NAMESPACE": second,
            "OCI_REPORT_DIR": str(folder),
            "OCI_HIDE_SKIPPED_WORKFLOWS": "0",
        } | {f"OCI_TEST_{name}": "1" for name in tested}


def read_report(path: Path) -> Results:
    """Return how each test in a report ended; a test that comes more than once gets a number."""
    if not path.exists():
        return {}
    ends: dict[str, list[str]] = {}
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 the suite's own report
        name = f"{case.get('classname', '')} {case.get('name', '')}".strip()
        end = case.get("status", "")
        ends.setdefault(name, []).append(end if end in RANKS else "failed")
    return {
        f"{name} ({number})": end
        for name, found in ends.items()  # the suite makes its tests in no certain order
        for number, end in enumerate(sorted(found, key=RANKS.index), 1)
    }


def read_summary(path: Path) -> Results:
    """Return the summary of the new suite, by API and by kind of data; nothing of the old one, which has none."""
    text = path.read_text() if path.exists() else ""
    lines = re.findall(r"^  ([A-Z][^:\n]*): (Pass|Skip|FAIL)$", text, re.MULTILINE)
    ends = {"Pass": "passed", "Skip": "skipped", "FAIL": "failed"}
    return {f"summary of {name}": ends[end] for name, end in lines}


def worse(straight: Results, through: Results) -> list[str]:
    """Return the tests that end worse through the proxy.

    The new suite has tests that it makes only if others fail, so a test that is absent counts only in the summary.
    """
    return [name for name, end in straight.items() if RANKS.index(through.get(name, end)) < RANKS.index(end)]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[str]:
    """Run a server until the block ends; yield its `host:port`."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{command[0]} does not serve: {log.read_text()[-2000:]}")
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def _registry(program: str, folder: Path) -> Iterator[str]:
    """Run a registry: `scripted`, or a program of the distribution project."""
    port = _free_port()
    if program == "scripted":
        command = [sys.executable, "-m", "crossmount.testing", "--port", str(port)]
    else:
        config = folder / "config.yml"
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'}}\n"
        )
        command = [program, "serve", str(config)]
    with _running(command, port, folder / "registry.log") as address:
        yield address


@contextmanager
def _proxy(upstream: str, folder: Path) -> Iterator[str]:
    port = _free_port()
    options = ["--upstream", f"http://{upstream}", "--listen", f"127.0.0.1:{port}", "--index", "memory://"]
    command = [sys.executable, "-m", "crossmount", "proxy", *options, "--spool", str(folder / "spool")]
    with _running(command, port, folder / "proxy.log") as address:
        yield address


def compare(program: str, suites: list[Suite], folder: Path) -> int:
    """Run the suites on one registry in all ways, print the difference, and return how many tests are worse."""
    folder.mkdir()
    count, name = 0, Path(program).name
    with _registry(program, folder) as straight, _proxy(straight, folder) as through:
        for suite in suites:
            found: dict[str, Results] = {}
            for way, address in zip(WAYS, (straight, through, through), strict=True):
                where = way.replace(" ", "-")
                found[way] = suite.run(address, f"conf/{suite.name}/{where}", folder / suite.name / where)
                passed = sum(status == "passed" for status in found[way].values())
                _say(f"{name}, {suite.name} suite, {way}: {passed} of {len(found[way])} passed")
            for way in WAYS[1:]:
                names = worse(found["straight"], found[way])
                count += len(names)
                for each in names:
                    _say(f"  worse with a {way}: {each}: {found[way].get(each, 'absent')}")
            for way in WAYS:
                if not found[way]:
                    _say(f"  no report, {way}: {folder / suite.name}")
                    count += 1
    return count


def main() -> int:
    """Run the command and return its exit status: 1 if any test ends worse through the proxy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--new", type=Path, required=True, help="the conformance program of 2026")
    parser.add_argument("--old", type=Path, required=True, help="the suite before it, a Go test program")
    parser.add_argument("--keep", type=Path, help="an absent folder for logs and reports")
    parser.add_argument("registries", nargs="+", help="'scripted', or a program of the distribution project")
    given = parser.parse_args()
    suites = [Suite("new", given.new.absolute()), Suite("old", given.old.absolute())]
    with tempfile.TemporaryDirectory(prefix="conformance-") as temporary:
        folder = given.keep or Path(temporary) / "runs"
        folder.mkdir(parents=True)
        count = sum(
            compare(program, suites, folder / f"{number}-{Path(program).name}")
            for number, program in enumerate(given.registries)
        )
    _say(f"{count} tests are worse through the proxy than straight")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
