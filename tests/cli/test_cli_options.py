from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from crossmount.cli import command
from crossmount.cli.access import client_options
from crossmount.cli.command import Command, LazyGroup
from crossmount.cli.entry import LazyCommand
from crossmount.cli.options import upload_options
from crossmount.cli.settings import Invocation, Settings, common_options, settings_of
from crossmount.registry import ClientOptions
from support.commands import Here

COMMANDS = (
    "push",
    "copy",
    "scan",
    "events",
    "sources",
    "locate",
    "add",
    "forget",
    "must-mount",
    "fleet",
    "savings",
    "dashboard",
    "index",
    "doctor",
    "proxy",
    "demo",
    "config",
    "completion",
    "help",
)
DETAILED = (*(name for name in COMMANDS if name not in {"index", "help"}), "index status", "index stop")


@dataclass(slots=True)
class Seen:
    """The settings of the last run of the command under test."""

    settings: Settings | None = None


seen = Seen()


@click.command(cls=Command)
@click.pass_context
def show(ctx: click.Context) -> None:
    """Store the settings."""
    seen.settings = settings_of(ctx)


@click.command(cls=LazyGroup, lazy={"show": LazyCommand(__name__, "show", "Keep the settings.")})
def group() -> None:
    """Replace the root command."""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    seen.settings = None
    yield
    seen.settings = None


def settings_after(*arguments: str) -> Settings:
    """Return the settings that a command gets."""
    group.main(list(arguments), standalone_mode=False, obj=Invocation())
    assert seen.settings is not None
    return seen.settings


@pytest.mark.usefixtures("here")
def test_nothing_given_is_the_embedded_index_and_https() -> None:
    """Without options the settings have their defaults."""
    assert settings_after("show") == Settings()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "env", "chunk_size", "commit_timeout"),
    [
        ((), {}, None, 600.0),
        (("--chunk-size", "5MiB", "--commit-timeout", "900"), {}, 5 << 20, 900.0),
        ((), {"CROSSMOUNT_CHUNK_SIZE": "100K", "CROSSMOUNT_COMMIT_TIMEOUT": "1.5"}, 100 << 10, 1.5),
        (("--chunk-size", "7"), {"CROSSMOUNT_CHUNK_SIZE": "100K"}, 7, 600.0),
    ],
)
def test_options_of_uploads_reach_the_registrys_client(
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    env: dict[str, str],
    chunk_size: int | None,
    commit_timeout: float,
) -> None:
    """`--chunk-size` and `--commit-timeout`, or their variables, become options of the client."""
    found: list[Settings] = []

    @click.command(cls=Command)
    @upload_options
    @click.pass_context
    def uploading(ctx: click.Context) -> None:
        found.append(settings_of(ctx))

    for name, value in env.items():
        monkeypatch.setenv(name, value)
    uploading.main(list(arguments), standalone_mode=False)
    options = client_options(found[0])
    assert (options.chunk_size, options.commit_timeout) == (chunk_size, commit_timeout)


def test_common_options_stand_before_and_after_the_command(tmp_path: Path) -> None:
    """Common options may stand before and after the command, and the later one counts."""
    file = tmp_path / "file"
    file.touch()
    options = [
        *("--index", "redis://x", "--namespace", "ci", "--plain-http", "--insecure", "--ca-file", str(file)),
        *("--cert-file", str(file), "--key-file", str(file)),
        *("--authfile", str(file), "--trusted-realm", "a", "--trusted-realm", "b", "-vv"),
    ]
    expected = Settings(
        index="redis://x",
        namespace="ci",
        client={
            "plain_http": True,
            "insecure": True,
            "ca_file": file,
            "cert_file": file,
            "key_file": file,
            "authfile": file,
            "trusted_realms": ("a", "b"),
        },
        verbose=2,
    )
    assert settings_after("show", *options) == expected
    assert client_options(expected) == ClientOptions(
        plain_http=True,
        insecure=True,
        ca_file=file,
        cert_file=file,
        key_file=file,
        authfile=file,
        trusted_realms=("a", "b"),
    )
    assert settings_after(*options, "show") == expected
    assert settings_after("--index", "off", "-v", "show", "--index", "redis://x", "-v") == Settings(
        index="redis://x", verbose=2
    )
    added = settings_after("--trusted-realm", "a", "show", "--trusted-realm", "b")
    assert client_options(added).trusted_realms == ("a", "b")


@pytest.mark.usefixtures("here")
def test_environment_stands_for_options_and_yields_to_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each option has a variable, and an option overrides it in both places."""
    file = tmp_path / "file"
    file.touch()
    for name, value in {
        "INDEX": "redis://env",
        "NAMESPACE": "env",
        "PLAIN_HTTP": "1",
        "INSECURE": "true",
        "CA_FILE": str(file),
        "CERT_FILE": str(file),
        "KEY_FILE": str(file),
        "AUTHFILE": str(file),
        "TRUSTED_REALMS": "a b",
        "VERBOSE": "1",
    }.items():
        monkeypatch.setenv(f"CROSSMOUNT_{name}", value)
    from_env = settings_after("show")
    assert from_env == Settings(
        index="redis://env",
        namespace="env",
        client={
            "plain_http": True,
            "insecure": True,
            "ca_file": file,
            "cert_file": file,
            "key_file": file,
            "authfile": file,
            "trusted_realms": ("a", "b"),
        },
        verbose=1,
    )
    assert settings_after("--index", "off", "show").index == "off"
    assert settings_after("show", "--index", "off").index == "off"
    monkeypatch.setenv("CROSSMOUNT_INDEX", "")
    assert settings_after("show").index is None


@pytest.mark.parametrize("name", DETAILED)
def test_every_option_of_every_command_has_help_and_the_common_ones_are_folded(here: Here, name: str) -> None:
    """Every option has help, the common ones are named alone, and the help fits eighty columns."""
    done = here(*name.split(), "--help")
    assert done.status == 0
    assert done.err == ""
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert "Common options:\n  --index  --namespace" in done.out
    assert "crossmount help options" in done.out
    group, _, leaf = name.partition(" ")
    found = command.crossmount.get_command(click.Context(command.crossmount), group)
    if leaf and isinstance(found, LazyGroup):
        found = found.get_command(click.Context(found), leaf)
    assert found is not None
    assert [param.name for param in found.params if isinstance(param, click.Option) and not param.help] == []
    assert found.name == name.rpartition(" ")[2]


def test_the_common_options_are_explained_once(here: Here) -> None:
    """`crossmount help options` has every common option with its help and its variable, in eighty columns."""
    done = here("help", "options")
    assert (done.status, done.err) == (0, "")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    for option in common_options():
        assert isinstance(option, click.Option)
        assert f"  {', '.join(option.opts)}" in done.out
        assert str(option.envvar) in done.out
    assert "\n  options " in here("help", "topics").out


def test_the_list_of_commands_is_whole(here: Here) -> None:
    """The help lists every command in one line each, and all can be loaded."""
    done = here("--help")
    assert done.status == 0
    listed = done.out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    context = click.Context(command.crossmount)
    assert command.crossmount.list_commands(context) == list(COMMANDS)
    assert command.crossmount.get_command(context, "pull") is None


def test_push_has_examples(here: Here) -> None:
    """The help of push has examples."""
    assert "crossmount push app.tar registry.example/team/app:1" in here("push", "-h").out


@pytest.mark.parametrize("arguments", [(), ("index",)])
def test_no_command_is_a_question_for_help(here: Here, arguments: tuple[str, ...]) -> None:
    """Without a command the help goes to standard error, and the status is 2."""
    done = here(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert "Commands:" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pusch",), "no command 'pusch': did you mean push?: see crossmount --help"),
        (
            ("index", "xyzzy"),
            "no command 'xyzzy': the commands are status, info, registry, same-registry, prune, export, import, ",
        ),
        (("push",), "give SOURCE and DEST, or --from FILE: see crossmount push --help"),
        (("push", "a", "b", "c"), "got unexpected extra argument (c): see crossmount push --help"),
        (("--ca-file", "/absent", "demo"), "invalid value for '--ca-file'"),
        (("push", "a", "b", "--uploads", "0"), "'0': give a whole number from 1 to 64"),
        (("push", "a", "b", "--chunk-size", "0"), "give a size above 0: see crossmount push --help"),
        (("push", "a", "b", "--uploads", "lots"), "'lots': give a whole number from 1 to 64"),
        (("push", "a", "b", "--wait", "-1"), "'-1': give a number of at least 0"),
        (("push", "a", "b", "--wait", "nan"), "'nan': give a number of at least 0"),
        (("copy", "a", "b", "--commit-timeout", "0"), "'0': give a number above 0"),
        (("index", "prune", "--sample", "101"), "'101': give a number above 0 and at most 100"),
        (("push", "a", "r.io/UPPER"), "invalid value for 'DEST': not a reference: 'r.io/UPPER'"),
        (("push", "a", "x@sha256:1"), "invalid value for 'DEST': not a digest: 'sha256:1'"),
        (("locate", "sha256:1"), "invalid value for 'LAYER|IMAGE': not a digest: 'sha256:1'"),
        (("--nonsense",), "no such option"),
    ],
)
def test_wrong_usage_is_one_line_and_status_two(here: Here, arguments: tuple[str, ...], words: str) -> None:
    """A usage error is one line that names the help."""
    done = here(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert words in done.complaint


def test_a_ctrl_c_outside_of_the_event_loop_ends_like_one_inside(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C outside the event loop is one line and status 130."""

    def interrupted(name: str) -> None:
        raise KeyboardInterrupt(name)

    monkeypatch.setattr(command, "import_module", interrupted)
    done = here("doctor")
    assert done.status == 130
    assert done.complaint == "interrupted"


def test_the_version_is_one_line(here: Here) -> None:
    """`--version` prints the version only."""
    done = here("--version")
    assert (done.status, done.out, done.err) == (0, f"crossmount {version('crossmount')}\n", "")
