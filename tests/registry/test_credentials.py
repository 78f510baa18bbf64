import asyncio
import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from crossmount.errors import CredentialsError
from crossmount.registry import Credential, GivenCredentials, NoCredentials, StoredCredentials
from crossmount.registry.credentials.helpers import ask_helper
from support.waiting import until

REGISTRY = "r.example.org"


def written(path: Path, user: str, **more: object) -> Path:
    """Write a file with one entry; return its path."""
    auth = base64.b64encode(f"{user}:pw".encode()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {REGISTRY: {"auth": auth}}, **more}))
    return path


def helper(folder: Path, name: str, script: str) -> dict[str, str]:
    """Write an executable helper; return the environment that finds it."""
    folder.mkdir(exist_ok=True)
    file = folder / f"docker-credential-{name}"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


async def user_of(source: StoredCredentials, name: str = "a/b") -> str | None:
    """Return the user name of the found credential."""
    found = await source.find(REGISTRY, name)
    return None if found is None else found.username


async def test_places_are_searched_in_their_order(tmp_path: Path) -> None:
    """DOCKER_AUTH_CONFIG, docker's file and podman's two files are searched in this order."""
    home = tmp_path / "home"
    env = {
        "DOCKER_AUTH_CONFIG": written(tmp_path / "content", "environment").read_text(),
        "DOCKER_CONFIG": str(written(tmp_path / "docker/config.json", "docker").parent),
        "XDG_RUNTIME_DIR": str(written(tmp_path / "run/containers/auth.json", "runtime").parents[1]),
        "XDG_CONFIG_HOME": str(written(tmp_path / "conf/containers/auth.json", "config").parents[1]),
    }
    written(home / ".docker/config.json", "home")
    written(home / ".config/containers/auth.json", "home-podman")
    found = []
    for gone in (
        None,
        *env,
    ):
        if gone:
            env = {key: value for key, value in env.items() if key != gone}
        found.append(await user_of(StoredCredentials(env=env, home=home)))
    assert found == ["environment", "docker", "home", "home", "home"]
    (home / ".docker/config.json").unlink()
    assert await user_of(StoredCredentials(env={}, home=home)) == "home-podman"
    env = {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "XDG_CONFIG_HOME": str(tmp_path / "conf")}
    assert await user_of(StoredCredentials(env=env, home=home)) == "runtime"
    del env["XDG_RUNTIME_DIR"]
    assert await user_of(StoredCredentials(env=env, home=home)) == "config"


async def test_a_named_file_replaces_the_search(tmp_path: Path) -> None:
    """REGISTRY_AUTH_FILE replaces the usual files, and `authfile` replaces that one."""
    home = tmp_path / "home"
    written(home / ".docker/config.json", "home")
    env = {
        "REGISTRY_AUTH_FILE": str(written(tmp_path / "named.json", "named")),
        "DOCKER_AUTH_CONFIG": written(tmp_path / "content", "environment").read_text(),
    }
    assert await user_of(StoredCredentials(env=env, home=home)) == "named"
    given = written(tmp_path / "given.json", "given")
    assert await user_of(StoredCredentials(authfile=given, env=env, home=home)) == "given"
    given.write_text("{}")
    assert await user_of(StoredCredentials(authfile=given, env=env, home=home)) is None


async def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """A missing file is an error if the user named it, and no error if it is a usual one."""
    with pytest.raises(CredentialsError, match=r"absent\.json: no such credential file"):
        await StoredCredentials(authfile=tmp_path / "absent.json", env={}).find(REGISTRY)
    assert await StoredCredentials(env={}, home=tmp_path).find(REGISTRY) is None


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The error for a directory or broken JSON names the path."""
    (tmp_path / ".docker/config.json").mkdir(parents=True)
    with pytest.raises(CredentialsError, match=r"config\.json: cannot be read"):
        await StoredCredentials(env={}, home=tmp_path).find(REGISTRY)
    with pytest.raises(CredentialsError, match=r"^DOCKER_AUTH_CONFIG \(environment\): not JSON"):
        await StoredCredentials(env={"DOCKER_AUTH_CONFIG": "{"}, home=tmp_path).find(REGISTRY)


async def test_an_empty_file_is_no_file(tmp_path: Path) -> None:
    """An empty file, which podman leaves after a logout, has no credentials and is no error."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text("\n")
    assert await StoredCredentials(env={}, home=tmp_path).find(REGISTRY) is None


async def test_a_helper_comes_before_the_file_and_a_helper_without_an_answer_does_not(tmp_path: Path) -> None:
    """Helpers are asked before `auths` is read, and `auths` is read if a helper finds nothing."""
    answer = 'cat > "$OUT"; echo \'{"Username":"helped","Secret":"s3cret"}\''
    env = helper(tmp_path / "bin", "good", answer) | {"OUT": str(tmp_path / "asked")}
    helper(tmp_path / "bin", "empty", "echo credentials not found in native keychain; exit 1")
    written(tmp_path / ".docker/config.json", "file", credsStore="empty", credHelpers={REGISTRY: "good"})
    found = await StoredCredentials(env=env, home=tmp_path).find(REGISTRY)
    assert found == Credential("helped", "s3cret")
    assert found is not None
    assert "docker-credential-good" in found.origin
    assert (tmp_path / "asked").read_text() == REGISTRY
    written(tmp_path / ".docker/config.json", "file", credsStore="empty")
    assert await user_of(StoredCredentials(env=env, home=tmp_path)) == "file"


async def test_docker_hub_is_asked_for_by_its_old_name(tmp_path: Path) -> None:
    """A helper is asked for Docker Hub by its key https://index.docker.io/v1/."""
    answer = """echo '{"Username":"<token>","Secret":"t"}'"""
    script = f'read -r server || true; [ "$server" = https://index.docker.io/v1/ ] && {answer}'
    env = helper(tmp_path, "hub", script)
    found = await ask_helper("hub", "docker.io", env=env, named_by="config.json")
    assert found == Credential("", "t", "identity")


async def test_an_answer_without_name_and_secret_is_none(tmp_path: Path) -> None:
    """A helper's answer with empty strings is no credential."""
    env = helper(tmp_path, "blank", """cat >/dev/null; echo '{"Username":"","Secret":""}'""")
    assert await ask_helper("blank", REGISTRY, env=env, named_by="config.json") is None


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "-x", "a b", "x" * 100, "a\\b", "."])
async def test_a_helpers_name_is_checked(name: str) -> None:
    """A helper's name that could leave the PATH is refused before the PATH is searched."""
    with pytest.raises(CredentialsError, match="no helper's name"):
        await ask_helper(name, REGISTRY, env={}, named_by="config.json")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo hunter2; echo hunter2 >&2; exit 3", "exit status 3"),
        ("echo hunter2", "not a JSON object"),
        ("echo '[\"hunter2\"]'", "not a JSON object"),
        ('echo \'{"Username": "hunter2"}\'', "lacks Username or Secret"),
        ("head -c 100000 /dev/zero", "not a JSON object"),
    ],
)
async def test_a_failing_helper_is_named_and_not_quoted(
    tmp_path: Path, script: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error names the helper and the file, and shows none of the helper's output."""
    env = helper(tmp_path, "bad", f"cat >/dev/null; {script}")
    with pytest.raises(CredentialsError, match=words) as caught:
        await ask_helper("bad", REGISTRY, env=env, named_by="/x/config.json")
    assert "docker-credential-bad" in str(caught.value)
    assert "/x/config.json" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in "".join(capfd.readouterr())


async def test_a_missing_or_unusable_helper_is_named(tmp_path: Path) -> None:
    """The error says that a helper is not on the PATH or is no program."""
    with pytest.raises(CredentialsError, match="docker-credential-none, named by c, is not on the PATH"):
        await ask_helper("none", REGISTRY, env={"PATH": str(tmp_path)}, named_by="c")
    file = tmp_path / "docker-credential-junk"
    file.write_bytes(b"\x00\x01junk")
    file.chmod(0o755)
    with pytest.raises(CredentialsError, match="cannot be run: Exec format error"):
        await ask_helper("junk", REGISTRY, env={"PATH": str(tmp_path)}, named_by="c")


async def test_a_silent_helper_has_a_deadline(tmp_path: Path) -> None:
    """A helper that does not answer within its deadline is an error that names it."""
    env = helper(tmp_path, "slow", "sleep 1000")
    with pytest.raises(
        CredentialsError, match=r"docker-credential-slow, named by c, gave no answer within 0\.05 s"
    ):
        await ask_helper("slow", REGISTRY, env=env, named_by="c", deadline=0.05)


async def test_a_cancelled_helper_is_killed_with_its_children(tmp_path: Path) -> None:
    """A cancelled helper and its children are killed."""
    file = tmp_path / "child"
    env = helper(tmp_path, "slow", f"sleep 1000 & echo $! > {file}.new; mv {file}.new {file}; wait")
    asking = asyncio.create_task(ask_helper("slow", REGISTRY, env=env, named_by="c"))
    await until(file.exists)
    command = Path("/proc") / file.read_text().strip() / "cmdline"
    await until(lambda: b"sleep" in command.read_bytes())  # before its exec the child is the shell
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    def is_dead() -> bool:
        try:
            return b"sleep" not in command.read_bytes()  # a zombie has none
        except (FileNotFoundError, ProcessLookupError):
            return True

    await until(is_dead)


async def test_a_helper_cancelled_while_it_starts_is_killed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper that is cancelled while it starts is killed with its children, without a wait."""
    file = tmp_path / "child"
    env = helper(tmp_path, "slow", f"sleep 1000 & echo $! > {file}.new; mv {file}.new {file}; wait")
    real, started, known = asyncio.create_subprocess_exec, asyncio.Event(), asyncio.Event()

    async def slowly(*arguments: Any, **details: Any) -> Any:
        process = await real(*arguments, **details)
        started.set()
        await known.wait()
        return process

    monkeypatch.setattr("crossmount.registry.credentials.helpers.asyncio.create_subprocess_exec", slowly)
    asking = asyncio.create_task(ask_helper("slow", REGISTRY, env=env, named_by="c"))
    await started.wait()
    await until(file.exists)
    command = Path("/proc") / file.read_text().strip() / "cmdline"
    asking.cancel()
    await asyncio.sleep(0)
    known.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: not command.exists() or b"sleep" not in command.read_bytes())


async def test_a_helper_leaves_the_event_loop_free(tmp_path: Path) -> None:
    """Other tasks run while a helper runs; here one of them lets the helper end."""
    gate = tmp_path / "gate"
    env = helper(
        tmp_path, "wait", f"""while [ ! -e {gate} ]; do sleep 0.01; done; echo '{{"Username":"u","Secret":"s"}}'"""
    )
    asking = asyncio.create_task(ask_helper("wait", REGISTRY, env=env, named_by="c"))
    await asyncio.sleep(0)
    gate.touch()
    assert await asking == Credential("u", "s")


async def test_given_and_no_credentials() -> None:
    """A given credential is used for its own registry only."""
    source = GivenCredentials("R.example.org:443", Credential("u", "s"))
    assert await source.find(REGISTRY, "a") == Credential("u", "s")
    assert await source.find("other.example.org", "a") is None
    assert await NoCredentials().find(REGISTRY) is None
