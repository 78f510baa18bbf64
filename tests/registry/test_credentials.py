import asyncio
import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from crossmount.errors import CredentialsError
from crossmount.registry import Credential, GivenCredentials, NoCredentials, StoredCredentials
from crossmount.registry.credentials.authfiles import AuthFile
from crossmount.registry.credentials.helpers import ask_helper
from crossmount.registry.credentials.lookup import search_path
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


@pytest.mark.parametrize("named", [True, False])
async def test_a_pipe_is_not_waited_for(tmp_path: Path, named: bool) -> None:
    """A FIFO in a credential file's place is an error at once, whether a user named it or not."""
    (tmp_path / ".docker").mkdir()
    os.mkfifo(pipe := tmp_path / ".docker/config.json")
    async with asyncio.timeout(5):
        with pytest.raises(CredentialsError, match=r"config\.json: a pipe"):
            await StoredCredentials(authfile=pipe if named else None, env={}, home=tmp_path).find(REGISTRY)


async def test_a_file_without_end_is_not_read_whole() -> None:
    """A device, or a file far too large, is no credential file; an empty device is one without credentials."""
    with pytest.raises(CredentialsError, match="/dev/zero: not a credential file"):
        await StoredCredentials(authfile=Path("/dev/zero"), env={}).find(REGISTRY)
    assert await StoredCredentials(authfile=Path("/dev/null"), env={}).find(REGISTRY) is None


@pytest.mark.parametrize("entry", [
    {"username": "ci", "password": "\ud800"}, {"username": "\udfff", "password": "x"}, {"identitytoken": "\ud800"},
    {"registrytoken": "\ud800"},
])  # fmt: skip
async def test_half_characters_are_refused(tmp_path: Path, entry: dict[str, str]) -> None:
    """A lone surrogate in a file's JSON can be sent to nobody, and is told by the file's name."""
    (file := tmp_path / "auth.json").write_text(json.dumps({"auths": {REGISTRY: entry}}))
    with pytest.raises(CredentialsError, match=r"auth\.json: auths: .*is not text"):
        await StoredCredentials(authfile=file, env={}).find(REGISTRY)


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
    found = await ask_helper("hub", AuthFile("c").spellings("docker.io"), env=env, named_by="config.json")
    assert found == Credential("", "t", "identity")


async def test_an_answer_without_name_and_secret_is_none(tmp_path: Path) -> None:
    """A helper's answer with empty strings is no credential."""
    env = helper(tmp_path, "blank", """cat >/dev/null; echo '{"Username":"","Secret":""}'""")
    assert await ask_helper("blank", [REGISTRY], env=env, named_by="config.json") is None


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "-x", "a b", "x" * 100, "a\\b", "."])
async def test_a_helpers_name_is_checked(name: str) -> None:
    """A helper's name that could leave the PATH is refused before the PATH is searched."""
    with pytest.raises(CredentialsError, match="no helper's name"):
        await ask_helper(name, [REGISTRY], env={}, named_by="config.json")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo hunter2", "not a JSON object"),
        ("echo '[\"hunter2\"]'", "not a JSON object"),
        ('echo \'{"Username": "hunter2"}\'', "lacks Username or Secret"),
        ("head -c 100000 /dev/zero", "not a JSON object"),
    ],
)
async def test_a_helper_whose_answer_is_no_credential_is_named_and_not_quoted(
    tmp_path: Path, script: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error names the helper and the file, and shows none of the helper's output."""
    env = helper(tmp_path, "bad", f"cat >/dev/null; {script}")
    with pytest.raises(CredentialsError, match=words) as caught:
        await ask_helper("bad", [REGISTRY], env=env, named_by="/x/config.json")
    assert "docker-credential-bad" in str(caught.value)
    assert "/x/config.json" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("stream", ["", ">&2"])
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("session expired: run corp-sso login", "session expired: run corp-sso login"),
        ("\\033[31mlocked\\033[0m keychain\\nsecond line", "locked keychain second line"),
        ('{"error": "session expired"}', "session expired"),
        ("GET https://ci:hunter2@sso.example.test/token: vault is sealed", "vault is sealed"),
        ("sent Authorization: Basic hunter2== : vault is sealed", "vault is sealed"),
        ("Authorization: Bearer hunter2, vault is sealed", "vault is sealed"),
        ("password=hunter2 vault is sealed", "vault is sealed"),
    ],
)
async def test_what_a_failing_helper_says_is_told_without_secrets(
    tmp_path: Path, said: str, words: str, stream: str
) -> None:
    """Its words are in the error, on one line, without control characters and what is a secret by its form."""
    env = helper(tmp_path, "bad", f"cat >/dev/null; printf '{said}\\n' {stream}; exit 3")
    with pytest.raises(CredentialsError, match="failed with exit status 3") as caught:
        await ask_helper("bad", [REGISTRY], env=env, named_by="/x/config.json")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -9 $$", "failed by signal SIGKILL: it said nothing"),
        ('echo \'{"Username":"u","Secret":"hunter2"}\'; exit 1', "exit status 1: it said nothing"),
        ("head -c 1000000 /dev/urandom; exit 1", "failed with exit status 1"),
        ("yes words | head -c 1000000 >&2; head -c 100 /dev/zero; exit 1", "words words"),
    ],
)
async def test_a_helper_that_dies_is_told_in_a_short_line(tmp_path: Path, script: str, words: str) -> None:
    """A signal is named; a credential, binary bytes and endless words are not repeated."""
    env = helper(tmp_path, "bad", script)
    with pytest.raises(CredentialsError, match=words) as caught:
        await ask_helper("bad", [REGISTRY], env=env, named_by="/x/config.json")
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
    assert "hunter2" not in str(caught.value)


def config(folder: Path, **content: object) -> None:
    """Write docker's file in a home folder."""
    (folder / ".docker").mkdir(exist_ok=True)
    (folder / ".docker/config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("content", "written", "asked"),
    [
        ({"credHelpers": {f"{REGISTRY}:80": "made"}}, f"{REGISTRY}:80", [f"{REGISTRY}:80"]),
        ({"credsStore": "made"}, f"{REGISTRY}:80", [f"{REGISTRY}:80"]),
        ({"credsStore": "made", "auths": {f"{REGISTRY}:80": {}}}, REGISTRY, [REGISTRY, f"{REGISTRY}:80"]),
        (
            {"credsStore": "made", "auths": {f"https://{REGISTRY}:80": {}}},
            "",
            [f"https://{REGISTRY}:80", REGISTRY],
        ),
        ({"credsStore": "made"}, "other.example.org:80", [REGISTRY]),
    ],
)
async def test_a_helper_is_asked_for_the_name_as_it_was_written_and_stored(
    tmp_path: Path, content: dict[str, object], written: str, asked: list[str]
) -> None:
    """The user's spelling comes first, then those in the file, then the normalised one."""
    log = tmp_path / "asked"
    script = (
        f'read -r server || true; echo "$server" >> {log}; if [ "$server" = {REGISTRY}:80 ]; then '
        """echo '{"Username":"ci","Secret":"pw"}'; """
        'else echo "credentials not found in native keychain"; exit 1; fi'
    )
    env = helper(tmp_path, "made", script)
    config(tmp_path, **content)
    found = await StoredCredentials(env=env, home=tmp_path, run=tmp_path, written=written).find(REGISTRY)
    assert log.read_text().split() == asked
    assert (found is not None) == (f"{REGISTRY}:80" in asked)


def test_a_browsers_login_is_not_asked_for() -> None:
    """Docker's entries for a login by browser are neither a helper's keys nor entries with a password."""
    keys = (f"https://index.docker.io/v1/{name}" for name in ("access-token", "refresh-token"))
    file = AuthFile.parse(json.dumps({"auths": {key: {"auth": "dTpw"} for key in keys}}), "c")
    assert file.spellings("docker.io") == ("https://index.docker.io/v1/", "docker.io")
    assert file.credential("docker.io", "library/app") is None


async def test_logins_without_a_runtime_folder_are_found(tmp_path: Path) -> None:
    """Without XDG_RUNTIME_DIR skopeo, podman and buildah use /run/containers/UID; with it, that is not read."""
    written(tmp_path / "run/auth.json", "root")
    source = StoredCredentials(env={}, home=tmp_path, run=tmp_path / "run")
    assert await user_of(source) == "root"
    env = {"XDG_RUNTIME_DIR": str(tmp_path / "absent")}
    assert await user_of(StoredCredentials(env=env, home=tmp_path, run=tmp_path / "run")) is None
    (place,) = [file.path for file in search_path(authfile=None, env={}, home=None)]
    assert str(place) == f"/run/containers/{os.getuid()}/auth.json"


async def test_the_old_file_of_docker_is_read_last(tmp_path: Path) -> None:
    """~/.dockercfg has the entries alone, without `auths`."""
    entry = {"auth": base64.b64encode(b"old:pw").decode(), "email": "a@example.org"}
    (tmp_path / ".dockercfg").write_text(json.dumps({f"https://{REGISTRY}/v1/": entry}))
    assert await user_of(StoredCredentials(env={}, home=tmp_path, run=tmp_path)) == "old"
    assert await user_of(StoredCredentials(authfile=tmp_path / ".dockercfg", env={}, home=tmp_path)) == "old"
    written(tmp_path / ".config/containers/auth.json", "new")
    assert await user_of(StoredCredentials(env={}, home=tmp_path, run=tmp_path)) == "new"


async def test_a_file_in_the_place_of_dockers_folder_is_named(tmp_path: Path) -> None:
    """DOCKER_CONFIG that names config.json itself is an error that says which folder to give."""
    file = written(tmp_path / "docker/config.json", "ci")
    source = StoredCredentials(env={"DOCKER_CONFIG": str(file)}, home=tmp_path, run=tmp_path)
    with pytest.raises(CredentialsError, match=f"^DOCKER_CONFIG is {file}, a file: give .* {file.parent}$"):
        await source.find(REGISTRY)


@pytest.mark.parametrize("break_", ["\n", "\r\n"])
async def test_line_breaks_in_an_auth_are_left_out(tmp_path: Path, break_: str) -> None:
    """Docker's decoder leaves line breaks out, which base64(1) makes; other bytes are refused and not shown."""
    auth = base64.b64encode(b"ci:" + b"a-long-password" * 9).decode()
    entry = break_.join(auth[at : at + 76] for at in range(0, len(auth), 76)) + break_
    config(tmp_path, auths={REGISTRY: {"auth": entry}})
    found = await StoredCredentials(env={}, home=tmp_path, run=tmp_path).find(REGISTRY)
    assert found == Credential("ci", "a-long-password" * 9)
    config(tmp_path, auths={REGISTRY: {"auth": "?" + auth[1:]}})
    with pytest.raises(CredentialsError, match="not base64") as caught:
        await StoredCredentials(env={}, home=tmp_path, run=tmp_path).find(REGISTRY)
    assert auth[1:20] not in str(caught.value)


async def test_an_empty_entry_does_not_hide_another_spelling(tmp_path: Path) -> None:
    """Of two entries for one registry the one with a credential counts, and that for the user's spelling first."""
    pair = [base64.b64encode(f"{user}:pw".encode()).decode() for user in ("one", "two")]
    config(tmp_path, auths={REGISTRY: {}, f"{REGISTRY}:443": {"auth": pair[0]}})
    assert await user_of(StoredCredentials(env={}, home=tmp_path, run=tmp_path)) == "one"
    config(tmp_path, auths={REGISTRY: {"auth": pair[0]}, f"{REGISTRY}:443": {"auth": pair[1]}})
    source = StoredCredentials(env={}, home=tmp_path, run=tmp_path, written=f"{REGISTRY}:443")
    assert await user_of(source) == "two"


async def test_the_last_search_says_where_it_looked(tmp_path: Path) -> None:
    """Each place is named with why it had nothing, a helper too."""
    env = helper(tmp_path, "empty", "echo credentials not found in native keychain; exit 1")
    config(tmp_path, credsStore="empty")
    source = StoredCredentials(env=env | {"DOCKER_AUTH_CONFIG": "{}"}, home=tmp_path, run=tmp_path)
    assert await source.find(REGISTRY) is None
    assert source.looked == (
        "DOCKER_AUTH_CONFIG (has none)",
        f"{tmp_path}/.docker/config.json (has none, nor does docker-credential-empty)",
        f"{tmp_path}/auth.json (not there)",
        f"{tmp_path}/.config/containers/auth.json (not there)",
        f"{tmp_path}/.dockercfg (not there)",
    )


async def test_a_missing_or_unusable_helper_is_named(tmp_path: Path) -> None:
    """The error says that a helper is not on the PATH or is no program."""
    with pytest.raises(CredentialsError, match="docker-credential-none, named by c, is not on the PATH"):
        await ask_helper("none", [REGISTRY], env={"PATH": str(tmp_path)}, named_by="c")
    file = tmp_path / "docker-credential-junk"
    file.write_bytes(b"\x00\x01junk")
    file.chmod(0o755)
    with pytest.raises(CredentialsError, match="cannot be run: Exec format error"):
        await ask_helper("junk", [REGISTRY], env={"PATH": str(tmp_path)}, named_by="c")


async def test_a_silent_helper_has_a_deadline(tmp_path: Path) -> None:
    """A helper that does not answer within its deadline is an error that names it."""
    env = helper(tmp_path, "slow", "sleep 1000")
    with pytest.raises(
        CredentialsError, match=r"docker-credential-slow, named by c, gave no answer within 0\.05 s"
    ):
        await ask_helper("slow", [REGISTRY], env=env, named_by="c", deadline=0.05)


@pytest.mark.parametrize("script", ["exec yes", "exec yes >&2", "setsid sleep 20 & exec sleep 20"])
async def test_the_deadline_holds_for_a_helper_that_never_stops_talking(tmp_path: Path, script: str) -> None:
    """Neither full pipes, nor a child that keeps them open, make a helper outlive its deadline."""
    env = helper(tmp_path, "loud", script)
    async with asyncio.timeout(10):
        with pytest.raises(CredentialsError, match="docker-credential-loud, named by c, gave no answer within"):
            await ask_helper("loud", [REGISTRY], env=env, named_by="c", deadline=0.2)


async def test_a_cancelled_helper_is_killed_with_its_children(tmp_path: Path) -> None:
    """A cancelled helper and its children are killed."""
    file = tmp_path / "child"
    env = helper(tmp_path, "slow", f"sleep 1000 & echo $! > {file}.new; mv {file}.new {file}; wait")
    asking = asyncio.create_task(ask_helper("slow", [REGISTRY], env=env, named_by="c"))
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
    asking = asyncio.create_task(ask_helper("slow", [REGISTRY], env=env, named_by="c"))
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
    asking = asyncio.create_task(ask_helper("wait", [REGISTRY], env=env, named_by="c"))
    await asyncio.sleep(0)
    gate.touch()
    assert await asking == Credential("u", "s")


async def test_given_and_no_credentials() -> None:
    """A given credential is used for its own registry only."""
    source = GivenCredentials("R.example.org:443", Credential("u", "s"))
    assert await source.find(REGISTRY, "a") == Credential("u", "s")
    assert await source.find("other.example.org", "a") is None
    assert await NoCredentials().find(REGISTRY) is None
