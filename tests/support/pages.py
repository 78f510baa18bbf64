"""Runs the commands and programs of a page of the documentation, as a reader would who copies them in order.

A block's language says what happens to it:

    sh        is run by a shell; variables that it exports stay, programs that it starts with `&` run on
    console   each line after `$ ` is run, and its output must be what the page shows, numbers and digests aside
    python    is run; blocks of one page share their names
    yaml, toml, json, ini
              is parsed
    text, mermaid
              is only read by people

A block of any language whose first line is `# NAME` is the file NAME in the reader's folder, not run itself.
The servers in the pages have names of examples, which stand for servers of the test. With `WRITE_DOCS=1` what
commands print replaces what a page shows.
"""

import configparser
import json
import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from sybil.region import Lexeme

from support.waiting import PATIENCE

RUN = ("sh", "console", "python")
PARSED = ("yaml", "toml", "json", "ini")
READ = ("text", "mermaid")

STAND_INS = {
    "docker": 'case "$1" in save) cat "$IMAGE_TAR";; buildx) cp "$IMAGE_TAR" app.tar;; esac',
    "helm": ":",
    "kubectl": ":",
    "aws": ":",
    "pip": ":",
    "pipx": ":",
    "cosign": ":",
}
"""Programs that need an engine, a cluster, an account or the package on PyPI: scripts stand in for them."""

_FILE = re.compile(r"# (?P<name>[\w./-]+\.\w+)\n")
_NOT_RUN = re.compile(r"(?m)^sh deploy/(?:try|test)\.sh.*\n")
"""`.ci/run` runs the second of them, and this test with it."""
_SECONDS = PATIENCE


@dataclass(slots=True)
class Reader:
    """Somebody who follows the pages.

    Attributes:
        folder: where the commands run.
        env: the environment at the start.
        servers: what stands in the pages, and the address that it stands for.
        sessions: the processes that were started, which may have left others behind.
    """

    folder: Path
    env: Mapping[str, str]
    servers: Mapping[str, str]
    sessions: list[int] = field(default_factory=list)

    def follow(self, page: Path) -> int:
        """Run all blocks of a page in order, and return how many were run."""
        blocks = 0
        for example in self._sybil().parse(page).examples():
            example.evaluate()
            blocks += 1
        return blocks

    def close(self) -> None:
        """End what the commands left running."""
        for session in self.sessions:
            with suppress(ProcessLookupError):
                os.killpg(session, signal.SIGTERM)
        for session in self.sessions:
            with suppress(ChildProcessError):
                os.waitpid(session, 0)

    def _sybil(self) -> Sybil:
        evaluators: dict[str, Callable[[Example], str | None]] = {
            "sh": self._shell,
            "console": self._transcript,
            "python": self._python,
            **dict.fromkeys(PARSED, self._parse),
            **dict.fromkeys(READ, self._parse),
        }
        return Sybil([CodeBlockParser(name, self._or_write(call)) for name, call in evaluators.items()])

    def _or_write(self, evaluate: Callable[[Example], str | None]) -> Callable[[Example], str | None]:
        def write_or_evaluate(example: Example) -> str | None:
            text = self.localise(str(example.parsed))
            if (name := _FILE.match(text)) is not None:
                path = self.folder / name["name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            example.parsed = Lexeme(text, 0, 0)
            return None if name is not None and example.region.lexemes["arguments"] in RUN else evaluate(example)

        return write_or_evaluate

    def localise(self, text: str) -> str:
        """Return a text with the addresses of the test's servers."""
        for name, address in self.servers.items():
            text = text.replace(name, address)
        return text

    def delocalise(self, text: str) -> str:
        """Return an output with the names that the pages use."""
        for name, address in self.servers.items():
            if "://" not in name:
                text = text.replace(address, name)
        return text

    def _run(self, script: str) -> tuple[int, str]:
        """Run a script with the variables that earlier ones exported; return its status and all its output."""
        state, out = self.folder / ".variables", self.folder / ".output"
        whole = f'[ ! -e "{state}" ] || . "{state}"\ntrap \'export -p >"{state}"\' EXIT\nset -eu\n{script}'
        with out.open("wb") as file:
            process = subprocess.Popen(
                ["sh", "-c", whole],
                cwd=self.folder,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.sessions.append(process.pid)
        try:
            status = process.wait(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return status, out.read_text()

    def _shell(self, example: Example) -> str | None:
        script = _NOT_RUN.sub("", str(example.parsed))
        status, output = self._run(script)
        return f"{where(example)}: status {status}\n{script}\n{output}" if status else None

    def _transcript(self, example: Example) -> str | None:
        for part in re.split(r"(?m)^\$ ", str(example.parsed))[1:]:
            command, expected = split_command(part)
            _, output = self._run(command)
            expected, output = self.delocalise(expected), self.delocalise(output)
            if normalise(output) == normalise(expected):
                continue
            if not os.environ.get("WRITE_DOCS"):
                return f"{where(example)}: {command}\nexpected {expected}\nprinted {output}"
            page, start = Path(example.path), f"$ {self.delocalise(command)}\n"
            page.write_text(page.read_text().replace(start + expected, start + output))
        return None

    def _python(self, example: Example) -> str | None:
        PythonEvaluator()(example)
        return None

    def _parse(self, example: Example) -> str | None:
        text = str(example.parsed)
        match str(example.region.lexemes["arguments"]):
            case "yaml":
                list(yaml.safe_load_all(text))
            case "toml":
                tomllib.loads(text)
            case "json":
                for line in text.splitlines() if text.startswith("{") and text.count("\n{") else [text]:
                    json.loads(line)
            case "ini":
                configparser.RawConfigParser(strict=False).read_string(text)
        return None


def where(example: Example) -> str:
    """Return a block's page and line."""
    return f"{Path(example.path).name}:{example.line}"


def split_command(part: str) -> tuple[str, str]:
    """Return the command of a transcript, with its continued lines, and the output after it."""
    lines = part.split("\n")
    length = 1
    while lines[length - 1].endswith("\\"):
        length += 1
    return "\n".join(lines[:length]), "\n".join(lines[length:])


def normalise(output: str) -> str:
    """Return an output without what differs from run to run: digests, numbers, columns, the order of lines."""
    output = re.sub(r"\b(?:sha256:)?[0-9a-f]{64}\b", "DIGEST", output)
    output = re.sub(r"\b[0-9a-f]{12}\b", "SHORT", output)
    output = re.sub(r"\d+(?:\.\d+)?(?: (?:[kMG]?B|ms|s|min)\b)?", "N", output)
    return "\n".join(sorted(" ".join(line.split()) for line in output.splitlines() if line.strip()))


def languages(page: Path) -> set[str]:
    """Return the languages of a page's blocks."""
    fences = re.findall(r"(?m)^```(.*)$", page.read_text())
    return set(fences[::2])


def write_stand_ins(folder: Path, image: Path) -> Path:
    """Write the stand-ins into a folder for PATH, and return the folder."""
    folder.mkdir()
    for name, body in STAND_INS.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\nIMAGE_TAR='{image}'\n{body}\n")
        script.chmod(0o755)
    return folder


def parse(page: Path, languages: Sequence[str]) -> Document:
    """Return a page's blocks of these languages, not to be run."""
    return Sybil([CodeBlockParser(name, lambda _: None) for name in languages]).parse(page)
