"""What somebody meets who has just installed the command, or runs it in a CI job for the first time."""

import subprocess
import sys

import pytest

from crossmount import __version__
from crossmount.testing import BasicAuth, RegistryOptions, ScriptedRegistry, running_registry
from support.commands import Here, Shell, plain
from support.images import MadeImage

_HIDDEN = "import sys; sys.modules['click'] = None; from crossmount.cli.entry import main; main()"


@pytest.mark.parametrize("word", ["--version", "-V", "version", "--help", "-h", "help"])
def test_version_and_help_need_no_extra(shell: Shell, word: str) -> None:
    """Without the extra the command prints its version and its commands."""
    done = subprocess.run(
        [sys.executable, "-c", _HIDDEN, word], capture_output=True, text=True, env=dict(shell.env), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    if "V" in word or "version" in word:
        assert done.stdout == f"crossmount {__version__}\n"
    else:
        assert "\n  push " in done.stdout
        assert "crossmount[cli]" in done.stdout
        assert "crossmount help topics" in done.stdout


def test_version_has_three_spellings(here: Here) -> None:
    """`-V` and `version` are `--version`."""
    assert here("-V").out == here("version").out == here("--version").out == f"crossmount {__version__}\n"


def test_login_names_the_commands_that_log_in(here: Here) -> None:
    """`crossmount login HOST` is no command, and the error is the command to run; a password is not repeated."""
    done = here("login", "ghcr.io")
    assert done.status == 2
    assert "docker login ghcr.io" in done.complaint
    assert "hush" not in here("login", "ghcr.io", "-p", "hush").complaint
    assert "docker logout" in here("logout").complaint


def test_status_is_that_of_the_index(here: Here) -> None:
    """`crossmount status` is `crossmount index status`."""
    assert here("status", "--index", "memory://").out == here("index", "status", "--index", "memory://").out


@pytest.mark.parametrize(
    ("ci", "index", "warned"),
    [
        ("true", None, True),
        ("1", None, True),
        ("false", None, False),
        ("", None, False),
        ("true", "off", False),
        ("true", "memory://", False),
        ("true", "embedded:", False),
    ],
)
def test_a_job_without_a_shared_index_is_warned(
    here: Here, image: MadeImage, monkeypatch: pytest.MonkeyPatch, ci: str, index: str | None, warned: bool
) -> None:
    """In a CI job without a chosen index one line says that nobody else shares it, and what to set."""
    monkeypatch.setenv("CI", ci)
    if index is not None:
        monkeypatch.setenv("CROSSMOUNT_INDEX", index)
    with running_registry() as registry:
        done = here("push", f"oci:{image.path}", *plain(registry, "a:1"), "--json")
    lines = [line for line in done.err.splitlines() if "CROSSMOUNT_INDEX" in line and "no other host" in line]
    assert (done.status, len(lines)) == (0, int(warned)), done.err
    assert done.document["index"] == ("off" if index == "off" else "ok")


@pytest.mark.parametrize(("ci", "is_running"), [("true", False), ("", True)])
def test_a_job_with_a_folder_of_its_own_leaves_no_server(
    here: Here, image: MadeImage, monkeypatch: pytest.MonkeyPatch, ci: str, is_running: bool
) -> None:
    """In a CI job, the embedded index in a folder that CROSSMOUNT_STATE_DIR names ends with its last command."""
    monkeypatch.setenv("CI", ci)
    with running_registry() as registry:
        for name in ("a", "b"):
            done = here("push", f"oci:{image.path}", *plain(registry, f"{name}:1"), "--json")
            assert (done.status, done.document["index"]) == (0, "ok")
            assert here("index", "status", "--json").document["running"] is is_running
        assert done.document["blobs"][0]["outcome"] == "mounted"  # its data is on disk


def test_vv_is_a_trace_without_secrets(here: Here, image: MadeImage) -> None:
    """-vv names the index without its secret, each request with its status, and where logins were looked for."""
    with running_registry() as registry:
        arguments = ("push", f"oci:{image.path}", *plain(registry, "a:1"))
        done = here(*arguments, "-vv", "--index", "redis://me:hush@127.0.0.1:1")
        assert "hush" not in done.err
        assert "index: redis://127.0.0.1:1/0, namespace default" in done.err
        assert f"PUT http://{registry.address}/v2/a/manifests/1: 201, " in done.err
        assert f"credentials for {registry.address}: none; looked before in: " in done.err
        assert sum(" ms" in line for line in done.err.splitlines()) == len(registry.requests)
        assert " ms" not in here(*arguments, "-v", "--index", "off").err


def test_the_embedded_index_is_called_that(here: Here, image: MadeImage) -> None:
    """The last line of a push says that the embedded index serves this host only."""
    with running_registry() as registry:
        done = here("push", f"oci:{image.path}", *plain(registry, "a:1"))
    assert done.out.endswith("index: ok (embedded, this host only)\n")


@pytest.mark.parametrize("source", ["alpine:3", "docker.io/library/alpine:3"])
def test_an_image_by_its_name_is_no_source(here: Here, source: str) -> None:
    """An image that is named as docker names it gets the commands that make it a source."""
    complaint = here("push", source, "localhost:1/a:1").complaint
    assert f"docker save {source} | crossmount push -" in complaint
    assert f"skopeo copy docker://{source}" in complaint


def test_a_failure_is_a_document_too(here: Here, image: MadeImage) -> None:
    """With --json a failed command prints one document with the error, its kind and the exit status."""
    with running_registry(RegistryOptions(auth=BasicAuth(users={"ann": "word"}))) as registry:
        done = here("push", f"oci:{image.path}", *plain(registry, "a:1"), "--json", "--index", "off")
    assert done.status == 4
    error = done.document["error"]
    assert error["kind"] == "AccessDeniedError"
    assert error["exit_status"] == 4
    assert error["message"] == done.complaint


@pytest.mark.parametrize("arguments", [("push", "--json"), ("push", "--json", "--nonsense", "a", "b/c")])
def test_wrong_usage_is_a_document_too(here: Here, arguments: tuple[str, ...]) -> None:
    """With --json an error of the command line is a document as well."""
    done = here(*arguments)
    assert (done.status, done.document["error"]["exit_status"]) == (2, 2)


def test_a_failed_copy_prints_one_document(here: Here, registry: ScriptedRegistry) -> None:
    """A copy that failed has printed its report, and prints no second document."""
    done = here(
        "copy",
        f"{registry.address}/no/such:1",
        f"{registry.address}/to/app",
        "--plain-http",
        "--json",
        "--index",
        "off",
    )
    assert done.status == 1
    assert "images" in done.document or "error" in done.document
