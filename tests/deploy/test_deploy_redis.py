"""deploy/redis works as it says: passwords, the configuration, logins."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

import redis
from crossmount.errors import IndexRefusedError
from crossmount.fleet import Fleet, Slots, UploadTurn
from crossmount.index import LayerKnowledge, Sighting, open_index
from support import acl
from support.index_kit import layer, repo
from support.servers import Server, start

OVERRIDDEN = {"bind", "aclfile"}
"""Settings of the file that a test's server replaces."""

NEWER_RIGHTS = {"+spublish", "+ssubscribe", "+sunsubscribe"}
"""Rights to commands that Redis 6.2 does not know: it would not start."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Run the commands that the README of deploy/redis starts with, and return the folder that they make."""
    commands = acl.readme_block("for user in admin").replace("valkey-server valkey.conf\n", "")
    env = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(["sh", "-euc", commands], cwd=acl.USERS.parents[2], check=True, env=env)
    return tmp_path / "crossmount-redis"


@pytest.fixture
def server(valkey_binary: Path, folder: Path) -> Iterator[Server]:
    """Start a server from the file."""
    settings = (str(folder / "valkey.conf"), "--bind", "127.0.0.1")
    started = start(valkey_binary, folder, settings=settings)
    yield started
    started.stop()


def password(folder: Path, user: str) -> str:
    """Return a user's password."""
    return (folder / f"{user}.password").read_text()


async def test_a_pusher_gets_in_with_its_password_file(server: Server, folder: Path) -> None:
    """The README's URL works after its commands, and nobody gets in without a password."""
    assert (folder / "crossmount.password").stat().st_mode & 0o077 == 0
    url = f"redis://crossmount@127.0.0.1:{server.port}?password_file={folder}/crossmount.password"
    async with open_index(url) as index:
        await index.record([Sighting(layer(), repo("a"), size=3)])
        assert (await index.look_up([layer()], repo("b"))).of(layer()) == LayerKnowledge((repo("a"),), size=3)
    for login in ("", "crossmount@", "crossmount:wrong@", "admin@", f"admin:{password(folder, 'crossmount')}@"):
        async with open_index(f"redis://{login}127.0.0.1:{server.port}") as index:
            with pytest.raises(IndexRefusedError):
                await index.sources(layer(), repo("b"))


def test_no_password_is_written_into_the_checkout(folder: Path) -> None:
    """The commands leave deploy/redis as it was, and their own folder is closed to others."""
    assert {path.name for path in acl.USERS.parent.iterdir()} == {"README.md", "users.acl", "valkey.conf"}
    assert "#" not in acl.USERS.read_text()
    assert folder.stat().st_mode & 0o077 == 0
    assert all((folder / f"{user}.password").stat().st_mode & 0o077 == 0 for user in ("admin", "crossmount"))


def test_without_the_commands_nobody_gets_in(valkey_binary: Path, tmp_path: Path) -> None:
    """Before the README's commands nobody can log in, under any name."""
    shutil.copytree(acl.USERS.parent, tmp_path / "redis")
    started = start(valkey_binary, tmp_path / "redis", settings=(str(tmp_path / "redis" / "valkey.conf"),))
    try:
        for user in ("default", "admin", "crossmount", "crossmount-operator", "replica", "sentinel"):
            for word in ("", user):
                once = Retry(NoBackoff(), 0)
                knocking = redis.Redis(port=started.port, username=user, password=word, retry=once)
                with knocking as client, pytest.raises(redis.AuthenticationError):
                    client.ping()
    finally:
        started.stop()


def test_every_line_of_the_configuration_is_taken(server: Server, folder: Path) -> None:
    """The server runs with each setting of the file, and each setting has a comment above it."""
    lines = (folder / "valkey.conf").read_text().splitlines()
    wanted = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    with redis.Redis(port=server.port, username="admin", password=password(folder, "admin")) as client:
        found = client.config_get(*wanted)
        assert client.config_get("aclfile")["aclfile"] == "users.acl"
    units = {"1gb": "1073741824", '""': ""}
    for name in wanted.keys() - OVERRIDDEN:
        assert found[name] == units.get(wanted[name], wanted[name]), name


@pytest.fixture
def older(folder: Path) -> Path:
    """Run the README's commands for older servers, and return the folder."""
    commands = acl.readme_block("redis-server redis.conf").replace(" && redis-server redis.conf", "")
    subprocess.run(["sh", "-euc", commands + acl.readme_block("sed -i -E")], cwd=folder, check=True)
    return folder


async def test_older_servers_serve_pushers(redis7_binary: Path, older: Path) -> None:
    """With the files that the README's commands make, Redis 6.2 and 7.0 start and serve a pusher."""
    started = start(redis7_binary, older, settings=(str(older / "redis.conf"), "--bind", "127.0.0.1"))
    try:
        with redis.Redis(port=started.port, username="admin", password=password(older, "admin")) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "volatile-lru"}
        url = f"redis://crossmount@127.0.0.1:{started.port}?password_file={older}/crossmount.password"
        async with open_index(url) as index, Fleet(index) as fleet:
            turn = await fleet.turn(layer(), repo("a"), 2**24, slots=Slots(1))
            assert isinstance(turn, UploadTurn)
            await turn.finish()
            assert (await index.look_up([layer()], repo("b"))).of(layer()).sources == (repo("a"),)
    finally:
        started.stop()
    newer = {"maxmemory-clients", "set-max-listpack", "busy-reply-threshold"}
    names = [line.split()[0] for line in (older / "redis.conf").read_text().splitlines() if line[:1].isalpha()]
    assert not [name for name in names if any(name.startswith(prefix) for prefix in newer)]
    assert not NEWER_RIGHTS & set((older / "users.acl").read_text().split())


async def test_a_full_server_lets_old_layers_go_and_keeps_flags_and_leases(server: Server, folder: Path) -> None:
    """When memory is full, the newest layers and all flags stay, and no write is refused."""
    with redis.Redis(port=server.port, username="admin", password=password(folder, "admin")) as client:
        url, operator = (
            f"redis://{user}@127.0.0.1:{server.port}?password_file={folder}/{user}.password"
            for user in ("crossmount", "crossmount-operator")
        )
        async with open_index(operator) as index:
            await index.record([Sighting(layer(0), repo("flagged"), must_mount=True)])
        async with open_index(url) as index:
            room = client.info("memory")["used_memory"] + 3_000_000
            client.config_set("maxmemory", room)
            client.config_set("maxmemory-clients", 0)
            for start_at in range(1, 20_000, 500):
                await index.record(Sighting(layer(n), repo("a")) for n in range(start_at, start_at + 500))
            assert client.info("stats")["evicted_keys"] > 0
            last = layer(start_at + 499)
            assert await index.sources(last, repo("b")) == (repo("a"),)
            assert await index.must_mount(layer(0))
