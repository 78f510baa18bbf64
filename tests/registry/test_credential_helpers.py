"""Credential helpers: when they are asked, what they answer, and how they are stopped."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crossmount.errors import CredentialsError
from crossmount.registry import Credential, StoredCredentials
from crossmount.registry.credentials.authfiles import AuthFile
from crossmount.registry.credentials.helpers import ask_helper
from support.credential_files import REGISTRY, config, helper, user_of, written
from support.waiting import PATIENCE, until


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
async def test_the_words_of_a_failing_helper_are_shown_without_secrets(
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
async def test_the_error_for_a_helper_that_dies_is_short(tmp_path: Path, script: str, words: str) -> None:
    """A signal is named; a credential, binary bytes and endless words are not repeated."""
    env = helper(tmp_path, "bad", script)
    with pytest.raises(CredentialsError, match=words) as caught:
        await ask_helper("bad", [REGISTRY], env=env, named_by="/x/config.json")
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
    assert "hunter2" not in str(caught.value)


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
    async with asyncio.timeout(PATIENCE):
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
