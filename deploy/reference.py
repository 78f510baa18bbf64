"""Makes the API reference from the docstrings, as a folder of HTML files: python deploy/reference.py FOLDER."""

import sys
from importlib import import_module
from pathlib import Path

import pdoc
import pdoc.render

MODULES = ("crossmount", "crossmount.asyncio", "crossmount.events", "crossmount.errors", "crossmount.testing")


def main(folder: Path) -> None:
    """Write the reference of the public modules into a folder."""
    for name in MODULES:
        module = import_module(name)
        # pdoc looks into modules without their `__getattr__`, which loads names on first use
        vars(module).update({member: getattr(module, member) for member in getattr(module, "__all__", ())})
    pdoc.render.configure(docformat="google", footer_text="crossmount", search=True)
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python deploy/reference.py FOLDER")
    main(Path(sys.argv[1]))
