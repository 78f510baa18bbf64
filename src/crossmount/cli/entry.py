"""The entry point of the `crossmount` command. It needs the standard library only."""

import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from crossmount.cli.table import answer_without_extra

NEEDED = ("click", "rich")
"""The libraries of the extra `cli`."""


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
            f"crossmount: the command needs {' and '.join(missing)}, not installed here: "
            "pip install 'crossmount[cli]'\n"
        )
        sys.exit(1)
    gc.disable()  # loading modules allocates much and frees nothing
    # httpx would load its own command line, and with it all of rich and pygments: a sixth of the time of a push
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # the import system's mark for "absent"
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
