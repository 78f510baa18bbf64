"""The API reference is made from the docstrings by one command, without warnings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import crossmount

TOP = Path(__file__).parents[2]


def test_the_reference_has_every_public_name(tmp_path: Path) -> None:
    """The pages of both flavours have a section for each public name, and the builder warns of nothing."""
    line = [sys.executable, "-W", "error", str(TOP / "deploy" / "reference.py"), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for page in ("crossmount.html", "crossmount/asyncio.html"):
        sections = set(re.findall(r'<section id="(\w+)"', (tmp_path / page).read_text()))
        assert set(dir(crossmount)) - {"__version__"} <= sections, page
    assert (tmp_path / "crossmount" / "testing.html").is_file()


def test_the_reference_names_its_argument(tmp_path: Path) -> None:
    """Without a folder the command says how it is called."""
    line = [sys.executable, str(TOP / "deploy" / "reference.py")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (1, "usage: python deploy/reference.py FOLDER\n")
