"""Where the `crossmount` command begins. Nothing but the standard library is needed to get here."""

import gc
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("click", "rich")
"""What the extra `cli` brings."""


def main() -> None:
    """Run the command line of this process and exit with its status."""
    if sys.stderr is None:  # closed by whoever started us: then nobody wants to be told
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 it lasts as long as we
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"crossmount: the command needs {' and '.join(missing)}, not installed here: "
            "pip install 'crossmount[cli]'\n"
        )
        sys.exit(1)
    gc.disable()  # until the command is loaded: that makes much, and none of it is garbage
    try:
        status = import_module("crossmount.cli.run").run(sys.argv[1:])
    except KeyboardInterrupt:  # before or after there is anything that could be put away
        sys.stderr.write("crossmount: interrupted\n")
        status = 130
    finally:
        gc.freeze()  # what is left ends with the process: looking for garbage in it took a fifth of a short run
        gc.enable()
    sys.exit(status)
