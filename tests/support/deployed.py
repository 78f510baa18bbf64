"""The files of deploy/, read and started in the way of the tools that they are for."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from crossmount.cli.commands.proxy import proxy as proxy_command
from crossmount.cli.settings import common_options
from support.certificates import self_signed
from support.running_proxy import crossmount_process

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"

VARIABLES = {str(param.envvar) for param in [*proxy_command.params, *common_options()] if param.envvar is not None}
"""Every environment variable that `crossmount proxy` reads."""

_FOREIGN = ("CROSSMOUNT_", "DOCKER_", "REGISTRY_", "XDG_")


def documents(path: Path) -> list[Any]:
    """Return the YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def document(path: Path) -> Any:
    """Return the one YAML document of a file."""
    (only,) = documents(path)
    return only


def schema_errors(name: str, path: Path, *more: str) -> str:
    """Return what a JSON schema that check-jsonschema ships finds wrong with a file; empty if it is valid."""
    line = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}", *more, str(path)]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Dockerfile.

    Attributes:
        word: in capitals.
        text: the rest, its lines joined.
    """

    word: str
    text: str

    @property
    def words(self) -> list[str]:
        """The rest as words, from a JSON list or shell syntax."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


@dataclass(frozen=True, slots=True)
class Image:
    """The image of deploy/Dockerfile, according to its text."""

    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[Instruction]:
        """Return the instructions of a kind, of all stages."""
        return [given for given in self.instructions if given.word == word]

    def last(self, word: str) -> Instruction:
        """Return the last instruction of a kind, which is the effective one."""
        return self.all(word)[-1]

    @property
    def environment(self) -> dict[str, str]:
        """The image's environment variables."""
        return dict(word.split("=", 1) for word in self.last("ENV").words)


def image() -> Image:
    """Read deploy/Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    return Image(tuple(Instruction(word.upper(), rest.strip()) for word, rest in pairs))


@contextmanager
def started(
    folder: Path,
    *,
    upstream: str,
    index: str = "memory://",
    arguments: list[str] | None = None,
    environment: Mapping[str, str],
) -> Iterator[str]:
    """Start the image's program as a manifest does, but with local addresses and paths; yield its URL.

    Args:
        folder: contains its spool, certificate and log.
        upstream: the registry's URL, instead of the manifest's.
        index: the index's URL, instead of the manifest's.
        arguments: those of the manifest; None uses the image's.
        environment: that of the manifest; added to the image's.
    """
    made = image()
    given = {**made.environment, **environment}
    strange = {name for name in given if name.startswith("CROSSMOUNT_")} - VARIABLES
    assert not strange, f"crossmount does not read {strange}"
    assert {"CROSSMOUNT_PROXY_UPSTREAM", "CROSSMOUNT_INDEX", "CROSSMOUNT_PROXY_SPOOL"} <= given.keys()
    host = given["CROSSMOUNT_PROXY_LISTEN"].rpartition(":")[0]
    given |= {
        "CROSSMOUNT_PROXY_LISTEN": f"{host}:0",
        "CROSSMOUNT_PROXY_UPSTREAM": upstream,
        "CROSSMOUNT_PROXY_SPOOL": str(folder / "spool"),
        "CROSSMOUNT_INDEX": index,
        "HOME": str(folder / "home"),
    }
    if "CROSSMOUNT_PROXY_TLS_CERT" in given:
        _, certificate = self_signed(folder)
        given |= {
            "CROSSMOUNT_PROXY_TLS_CERT": str(certificate),
            "CROSSMOUNT_PROXY_TLS_KEY": str(folder / "key.pem"),
        }
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    entry = made.last("ENTRYPOINT").words
    assert entry == ["crossmount"]
    line = made.last("CMD").words if arguments is None else arguments
    with crossmount_process(line, folder, environment={**ours, **given, "PATH": ours["PATH"]}) as url:
        yield url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 the address to listen on is not the address to call


def names_secret(value: str) -> bool:
    """Return whether a value looks like a secret, not like a reference to one."""
    return bool(re.search(r"://[^/\s:@]*:[^$@\s{]+@", value))
