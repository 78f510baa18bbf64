"""Credential files: where they are searched, and what is read from them."""

import asyncio
import base64
import json
import os
from pathlib import Path

import pytest

from crossmount.errors import CredentialsError
from crossmount.registry import Credential, GivenCredentials, NoCredentials, StoredCredentials
from crossmount.registry.credentials.authfiles import AuthFile
from crossmount.registry.credentials.lookup import search_path
from support.credential_files import REGISTRY, config, helper, user_of, written
from support.waiting import PATIENCE


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
    async with asyncio.timeout(PATIENCE):
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
    """A lone surrogate in a file's JSON cannot be sent; the error names the file."""
    (file := tmp_path / "auth.json").write_text(json.dumps({"auths": {REGISTRY: entry}}))
    with pytest.raises(CredentialsError, match=r"auth\.json: auths: .*is not text"):
        await StoredCredentials(authfile=file, env={}).find(REGISTRY)


async def test_an_empty_file_is_no_file(tmp_path: Path) -> None:
    """An empty file, which podman leaves after a logout, has no credentials and is no error."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text("\n")
    assert await StoredCredentials(env={}, home=tmp_path).find(REGISTRY) is None


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


async def test_given_and_no_credentials() -> None:
    """A given credential is used for its own registry only."""
    source = GivenCredentials("R.example.org:443", Credential("u", "s"))
    assert await source.find(REGISTRY, "a") == Credential("u", "s")
    assert await source.find("other.example.org", "a") is None
    assert await NoCredentials().find(REGISTRY) is None
