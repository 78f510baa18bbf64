"""The entry point of the `crossmount` command, its table of commands, and what it can say without the extra `cli`.

It needs the standard library only.
"""

import gc
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from crossmount import __version__
from crossmount._dataclass import dataclass


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command that is imported on first use.

    Attributes:
        module: the module that defines it.
        name: its name in that module.
        help: its line in the list of commands.
    """

    module: str
    name: str
    help: str


COMMANDS = {
    "push": LazyCommand(
        "crossmount.cli.commands.push",
        "push",
        "Push an image: mount what the registry has, upload the rest.",
    ),
    "copy": LazyCommand(
        "crossmount.cli.commands.copy", "copy", "Copy images between registries, each layer once."
    ),
    "scan": LazyCommand(
        "crossmount.cli.commands.scan", "scan", "Record in the index which layers a registry has."
    ),
    "events": LazyCommand(
        "crossmount.cli.commands.scan", "events", "Update the index from the events that a registry sends."
    ),
    "sources": LazyCommand(
        "crossmount.cli.commands.layers", "sources", "List the repositories that a layer could be mounted from."
    ),
    "locate": LazyCommand(
        "crossmount.cli.commands.layers", "locate", "Show which registries have a layer, or how much of an image."
    ),
    "add": LazyCommand(
        "crossmount.cli.commands.layers", "add", "Add a repository to the index as a source of a layer."
    ),
    "forget": LazyCommand(
        "crossmount.cli.commands.layers", "forget", "Remove a repository from the index as a source of a layer."
    ),
    "must-mount": LazyCommand(
        "crossmount.cli.commands.layers", "must_mount", "Show or clear a layer's must-mount flag."
    ),
    "fleet": LazyCommand(
        "crossmount.cli.commands.fleet",
        "fleet",
        "Show the uploads in progress, and the pushers that wait.",
    ),
    "savings": LazyCommand(
        "crossmount.cli.commands.savings", "savings", "Show how many bytes and how much time pushes saved."
    ),
    "dashboard": LazyCommand(
        "crossmount.cli.commands.fleet",
        "dashboard",
        "Show in a browser what was saved, and what is uploaded now.",
    ),
    "index": LazyCommand("crossmount.cli.commands.index", "index", "Inspect and maintain the index."),
    "doctor": LazyCommand(
        "crossmount.cli.commands.doctor",
        "doctor",
        "Check the index, the registry, the credentials and mounts.",
    ),
    "proxy": LazyCommand(
        "crossmount.cli.commands.proxy", "proxy", "Run a proxy that mounts layers for any client."
    ),
    "demo": LazyCommand(
        "crossmount.cli.demo.command", "demo", "Push eight images that share layers, and count the bytes."
    ),
    "config": LazyCommand(
        "crossmount.cli.commands.config", "config", "Show which options count, and where each is from."
    ),
    "completion": LazyCommand(
        "crossmount.cli.commands.help", "completion", "Complete commands and options in your shell."
    ),
    "help": LazyCommand(
        "crossmount.cli.commands.help", "help_command", "Read the documentation: crossmount help TOPIC."
    ),
}

_VERSION_WORDS = (["--version"], ["-V"], ["version"])
_HELP_WORDS = (["--help"], ["-h"], ["help"])


def version_line() -> str:
    """Return what `crossmount --version` prints."""
    return f"crossmount {__version__}"


def answer_without_extra(arguments: Sequence[str]) -> str | None:
    """Return what the command prints if the extra `cli` is not installed; None if it needs the extra.

    Args:
        arguments: the command line, without the program's name.
    """
    if list(arguments) in _VERSION_WORDS:
        return f"{version_line()}\n"
    from crossmount.cli import topics  # noqa: PLC0415 `--version` needs no topics

    match list(arguments):
        case ["help", "topics"]:
            return topics.overview()
        case ["help", name] | ["help", name, "--page"] if name in topics.names():
            return topics.read(name)
        case words if words not in _HELP_WORDS:
            return None
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "Usage: crossmount [OPTIONS] COMMAND [ARGS]...",
            "",
            "Push each layer once per fleet: layers that the registry already has are",
            "mounted, not uploaded.",
            "",
            "The commands need more than the base install: pip install 'crossmount[cli]',",
            "or 'crossmount[all]'.",
            "",
            "Commands:",
            *(f"  {name:<{width}}  {entry.help}" for name, entry in COMMANDS.items()),
            "",
            "Documentation, readable without extras: crossmount help topics",
            "",
        ]
    )


NEEDED = ("click", "rich")
"""The libraries of the extra `cli`."""


UNUSED = ("httpx._main", "opentelemetry")
"""Modules that libraries load if they are there, and that no command uses: httpx its own command line, and with it
all of rich and pygments, a sixth of the time of a push; redis-py metrics that are off, an eighth of a start."""


def main() -> None:
    """Run the command line of this process and exit with its status."""
    if sys.stderr is None:  # the parent closed it, so nobody reads it
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 open until the process ends
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        if answer := answer_without_extra(sys.argv[1:]):
            sys.stdout.write(answer)
            sys.exit(0)
        sys.stderr.write(
            f"crossmount: {' and '.join(missing)} not installed here: pip install 'crossmount[cli]'\n"
        )
        sys.exit(1)
    gc.disable()  # loading modules allocates much and frees nothing
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # the import system's mark for "absent"
    try:
        from crossmount.cli.command import run  # noqa: PLC0415 it needs the libraries of the extra

        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the command is loaded, or after it ended
        sys.stderr.write("crossmount: interrupted\n")
        status = 130
    finally:
        gc.freeze()  # the process ends: a last collection took a fifth of a short run
        gc.enable()
    sys.exit(status)
