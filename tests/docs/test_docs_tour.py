"""The tour of the documentation: a stranger's terminal, from an empty machine to the second runner's mounts.

The transcript in `docs/tour.md` is made here: with `WRITE_DOCS=1` what the commands printed goes into
the page. Without it they must print what the page shows, numbers and digests aside.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.pages import normalise
from support.programs import needs
from support.servers import free_port
from support.waiting import PATIENCE

TOP = Path(__file__).parents[2]
PAGE = TOP / "src" / "crossmount" / "docs" / "tour.md"
COLUMNS = 80
SECONDS = PATIENCE

INSTALL = [
    "python3 -m venv venv",
    "venv/bin/pip install --quiet './crossmount[all]'",
    "export PATH=$PWD/venv/bin:$PATH",
    "crossmount --version",
]
SERVERS = [
    "redis-server --port 6379 --save '' --daemonize yes >/dev/null",
    "python -m crossmount.testing --port 5000 >/dev/null &",
    "curl --silent --retry 20 --retry-connrefused localhost:5000/v2/",
]
IMAGES = [
    "mkdir runtime api web",
    "head -c 24000000 /dev/urandom > runtime/runtime",
    r"printf 'FROM scratch\nCOPY runtime /\n' > runtime/Dockerfile",
    r"printf 'FROM runtime\nCOPY Dockerfile /api\n' > api/Dockerfile",
    r"printf 'FROM runtime\nCOPY Dockerfile /web\n' > web/Dockerfile",
    "for name in runtime api web; do buildah build -q -t $name $name; done",
    "buildah push --quiet api oci-archive:api.tar",
    "buildah push --quiet web oci-archive:web.tar",
]
FIRST = [
    "export CROSSMOUNT_INDEX=redis://localhost:6379 CROSSMOUNT_PLAIN_HTTP=1",
    "crossmount push api.tar localhost:5000/team/api:1",
]
SECOND = [
    "export CROSSMOUNT_INDEX=redis://localhost:6379 CROSSMOUNT_PLAIN_HTTP=1",
    "crossmount push web.tar localhost:5000/team/web:1",
    "crossmount locate localhost:5000/team/web:1",
]
PARTS = {"host": INSTALL, "servers": SERVERS, "build": IMAGES, "runner-1": FIRST, "runner-2": SECOND}
"""The commands at each prompt. Prompts are different shells; the two runners have homes of their own."""


@dataclass(slots=True)
class Stranger:
    """A new user of an empty machine."""

    folder: Path
    ports: dict[str, str]
    sessions: list[int] = field(default_factory=list)

    def type(self, prompt: str, commands: list[str]) -> Iterator[str]:
        """Run commands in one shell and yield the lines of the terminal."""
        own = self.folder / prompt
        own.mkdir(exist_ok=True)
        home = own if prompt.startswith("runner") else self.folder
        script = "set -eu\n" + "".join(
            f"echo '\x01{number}'\n{command}\n" for number, command in enumerate(commands)
        )
        for name, port in self.ports.items():
            script = script.replace(name, port)
        out = own / "screen"
        with out.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=self._environment(home),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.sessions.append(process.pid)
        status = process.wait(timeout=SECONDS)
        screen = out.read_text()
        assert status == 0, screen
        for name, port in self.ports.items():
            screen = screen.replace(port, name)
        for part in screen.split("\x01")[1:]:
            number, _, output = part.partition("\n")
            yield f"{prompt}$ {commands[int(number)]}"
            yield from output.splitlines()

    def close(self) -> None:
        """End the servers that the commands started."""
        for session in self.sessions:
            with suppress(ProcessLookupError):
                os.killpg(session, signal.SIGTERM)
        subprocess.run(
            ["redis-cli", "-p", self.ports["6379"], "shutdown", "nosave"], check=False, capture_output=True
        )

    def _environment(self, home: Path) -> dict[str, str]:
        storage = self.folder / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.folder}/images"\nrunroot = "{self.folder}/run"\n'
        )
        return {
            "PATH": os.pathsep.join([f"{self.folder}/venv/bin", f"{sys.base_prefix}/bin", "/usr/bin", "/bin"]),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "COLUMNS": str(COLUMNS),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(storage),
            **{
                name: value
                for name, value in os.environ.items()
                if name.startswith(("PIP_", "HTTPS_PROXY", "SSL_"))
            },
        }


@pytest.mark.timeout(900)
def test_the_tour_is_what_happens(tmp_path: Path) -> None:
    """The commands of the tour, run on an empty machine, print what the page shows, in lines of 80 columns."""
    for program in ("redis-server", "buildah"):
        needs(program)
    (tmp_path / "crossmount").symlink_to(TOP)
    stranger = Stranger(tmp_path, {"6379": str(free_port()), "5000": str(free_port())})
    happened: dict[str, list[str]] = {}
    try:
        for prompt, commands in PARTS.items():
            happened[prompt] = list(stranger.type(prompt, commands))
    finally:
        stranger.close()
    text = PAGE.read_text()
    if os.environ.get("WRITE_DOCS"):
        for prompt, lines in happened.items():
            start = text.index(f"```text\n{prompt}$")
            end = text.index("\n```\n", start)
            text = text[:start] + "```text\n" + "\n".join(lines) + text[end:]
        PAGE.write_text(text)
    blocks = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert [line for block in blocks for line in block.splitlines() if len(line) > COLUMNS] == []
    assert [normalise(block) for block in blocks] == [normalise("\n".join(lines)) for lines in happened.values()]
