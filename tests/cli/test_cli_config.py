"""Options from files: the order of what counts, what `crossmount config` shows, and mistakes in a file."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from crossmount.cli import command as root
from crossmount.cli import config_file
from crossmount.cli.command import LazyGroup
from crossmount.cli.config_file import OPTION_NAMES, is_settable, option_name
from crossmount.testing import ScriptedRegistry
from support.commands import Here, Shell
from support.images import MadeImage


@pytest.fixture
def user_file(here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the path of the user's file, whose folder exists; the system's file is in another folder."""
    del here
    monkeypatch.setattr(config_file, "SYSTEM_FILE", tmp_path / "system.toml")
    folder = tmp_path / "home" / ".config" / "crossmount"
    folder.mkdir(parents=True)
    return folder / "config.toml"


def shown(here: Here, *arguments: str) -> dict[str, tuple[str, str]]:
    """Return what `crossmount config` says about each option: its value, and where that is from."""
    done = here("config", "--json", *arguments)
    assert done.status == 0, done.err
    return {
        " ".join(filter(None, (each["command"], each["name"]))): (each["value"], each["from"])
        for each in done.document["options"]
    }


def test_a_file_counts_less_than_the_environment_and_that_less_than_an_option(
    here: Here, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's file, the user's, the environment, the command line: each overrides the one before it."""
    config_file.SYSTEM_FILE.write_text('namespace = "system"\nindex = "memory://"\n')
    assert shown(here)["namespace"] == ("system", f"{config_file.SYSTEM_FILE}:1")
    user_file.write_text('\nnamespace = "user"\n')
    assert shown(here)["namespace"] == ("user", f"{user_file}:2")
    assert shown(here)["index"] == ("memory://", f"{config_file.SYSTEM_FILE}:2")
    monkeypatch.setenv("CROSSMOUNT_NAMESPACE", "env")
    assert shown(here)["namespace"] == ("env", "environment: CROSSMOUNT_NAMESPACE")
    assert shown(here, "--namespace", "option")["namespace"] == ("option", "the command line")
    monkeypatch.setenv("CROSSMOUNT_CONFIG", "")
    monkeypatch.delenv("CROSSMOUNT_NAMESPACE")
    assert shown(here)["namespace"] == ("default", "default")


def test_a_command_uses_what_the_file_says(
    here: Here, user_file: Path, image: MadeImage, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """Common options, options of all commands that have them, and those of one command's table take effect."""
    login = tmp_path / "login.json"
    login.write_text("{}")
    lines = ("plain-http = true", 'index = "off"', f'authfile = "{login}"', "[push]", 'tag = ["1", "latest"]')
    user_file.write_text("\n".join(lines))
    done = here("push", str(image.path), f"{registry.address}/a:1.2", "--json")
    assert done.status == 0, done.err
    assert done.document["index"] == "off"
    assert set(registry.holdings.find("a").tags) == {"1.2", "1", "latest"}


def test_config_names_files_commands_and_places_without_secrets(
    here: Here, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option of a command that is given has its line; a password is masked in both outputs."""
    user_file.write_text(
        'index = "redis://me:hush@x.example"\nuploads = 3\n[copy]\nuploads = 4\n["index prune"]\nrate = 5\n'
    )
    monkeypatch.setenv("CROSSMOUNT_REQUESTS", "7")
    found = shown(here)
    assert found["index"][0] == "redis://***@x.example"
    assert found["push uploads"] == ("3", f"{user_file}:2")
    assert found["copy uploads"] == ("4", f"{user_file}:4")
    assert found["index prune rate"] == ("5", f"{user_file}:6")
    assert found["push requests"] == ("7", "environment: CROSSMOUNT_REQUESTS")
    lines = here("config").out
    assert "hush" not in lines
    assert lines.startswith(f"{config_file.SYSTEM_FILE}: not there\n{user_file}: read\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("index = ", ":1: not TOML: "),
        ('indx = "off"', ":1: indx: no such option: did you mean index?"),
        ("xyzzy = 1", "crossmount config --help says what a file may have"),
        ("[pusch]\n", ":1: pusch: no such option: did you mean push?"),
        ("[doctor]\nuploads = 1", ":2: uploads: no such option of doctor"),
        ("\n[doctor]\nindex = 'off'", ":3: index: put it at the top of the file"),
        ("json = true", ":1: json: it says what to do now: give it on the command line"),
        ("plain-http = 'yes'", ":1: plain-http: give true or false, not a text"),
        ("verbose = true", ":1: verbose: give a whole number, not true or false"),
        ("namespace = ['a']", ":1: namespace: give a text or a number, not a list"),
        ("trusted-realm = 1", ":1: trusted-realm: give a list of texts"),
        ("ca-file = '/absent'", ":1: ca-file: File '/absent' does not exist"),
    ],
)
def test_a_mistake_names_file_line_and_key(here: Here, user_file: Path, text: str, words: str) -> None:
    """A wrong key, type or value is one line with the place, the key, and what to write; the help still works."""
    user_file.write_text(text)
    done = here("doctor", "--index", "memory://")
    assert done.status == 2
    assert done.complaint.startswith(f"{user_file}")
    assert words in done.complaint
    assert here("doctor", "--help").status == here("help").status == here("--version").status == 0


def test_a_value_out_of_range_is_found_by_config_too(here: Here, user_file: Path) -> None:
    """A value that an option does not take fails its command and `crossmount config`, and no other one."""
    user_file.write_text("[push]\nuploads = 99\n")
    for command in (("push", "a", "localhost/b"), ("config",)):
        done = here(*command)
        assert (done.status, done.complaint) == (
            2,
            f"{user_file}:2: uploads: '99': give a whole number from 1 to 64",
        )
    assert here("doctor", "--index", "memory://").status == 0


def test_a_file_that_is_named_must_be_there(here: Here, user_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CROSSMOUNT_CONFIG` names the only file: an absent or unreadable one is an error."""
    user_file.write_text("nonsense")
    named = user_file.with_name("named.toml")
    monkeypatch.setenv("CROSSMOUNT_CONFIG", str(named))
    assert here("doctor").complaint.startswith(f"CROSSMOUNT_CONFIG names {named}, which is not there")
    named.mkdir()
    assert here("doctor").complaint == f"{named}: cannot be read: Is a directory"
    named.rmdir()
    named.write_text("verbose = 0")
    assert json.loads(here("config", "--json").out)["files"] == [{"path": str(named), "read": True}]


def test_the_names_that_a_file_may_have_are_those_of_the_options() -> None:
    """The list that is known without loading the commands has each option of each command, and no other name."""

    def options(command: click.Command) -> set[str]:
        found = {option_name(param) for param in command.params if is_settable(param)}
        if isinstance(command, LazyGroup):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                found |= options(child)
        return found

    assert options(root.crossmount) == OPTION_NAMES


def test_without_a_file_nothing_is_loaded_for_it(shell: Shell) -> None:
    """The TOML parser is loaded only if there is a file."""
    code = (
        "import sys\nfrom crossmount.cli.command import run\nrun(['index', 'status', '--index', 'off'])\n"
        "sys.exit('tomllib' in sys.modules)"
    )
    env = {**shell.env, "XDG_CONFIG_HOME": "/nowhere"}
    env.pop("COVERAGE_PROCESS_START", None)  # coverage loads it to read its own settings
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False, capture_output=True).returncode == 0
