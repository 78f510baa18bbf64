"""The access list of deploy/redis: it allows exactly the commands of crossmount, and separates tenants."""

import ast
import re
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import crossmount
import redis
from crossmount import asyncio as crossmount_async
from crossmount.errors import IndexRefusedError
from crossmount.fleet.lease_store import Lease, LeaseStore
from crossmount.index import Keys, LayerKnowledge, RedisMountIndex, RegistryTraits, Sighting, open_index
from crossmount.index.protocol import LayerEntry, backing_server
from crossmount.index.registries import forget_traits, last_scans, share_pair, shared_pairs
from crossmount.registry import ClientOptions
from crossmount.testing import ScriptedRegistry
from support import acl
from support.images import make_layers, make_layout
from support.index_kit import layer, repo
from support.servers import Server, StartServer

SOURCE = Path(crossmount.__file__).parent
PACKAGES = ("index", "fleet", "cli", "mount", "transfer", "proxy", "discovery", "maintenance", "redis")
OPERATORS_MODULES = {
    "key_scan.py",
    "active_uploads.py",
    "cli/access.py",
    "entries.py",
    "info.py",
    "prune.py",
    "prune_state.py",
}
"""Modules that send commands of operators."""

BY_REDIS_PY = {"SELECT", "CLIENT SETNAME", "SUBSCRIBE", "UNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE"}
"""What redis-py sends for a URL's database and client name, and for messages; AUTH needs no right."""

WITH_SUBCOMMAND = {"SCRIPT", "CLUSTER", "CLIENT", "MEMORY", "OBJECT", "ACL", "CONFIG"}

ONE, TWO = layer(1), layer(2)
A, DEST = repo("team/a"), repo("team/dest")


def in_python(path: Path) -> set[str]:
    """Return the commands that a module sends: tuples that begin with a word in capitals."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Tuple):
            continue
        words = [item.value for item in node.elts[:2] if isinstance(item, ast.Constant)]
        if words and isinstance(words[0], str) and re.fullmatch("[A-Z]{3,}", words[0]):
            found.add(" ".join(map(str, words[:2])) if words[0] in WITH_SUBCOMMAND else words[0])
    return found


def in_scripts() -> set[str]:
    """Return the commands that the Lua scripts call."""
    return {
        name for path in SOURCE.rglob("*.lua") for name in re.findall(r"redis\.p?call\('(\w+)'", path.read_text())
    }


def is_for_operators(path: Path) -> bool:
    """Return whether a module sends commands of operators."""
    return bool({path.name, f"{path.parent.name}/{path.name}"} & OPERATORS_MODULES)


def known(client: "redis.Redis", names: set[str]) -> set[str]:
    """Return those of `names` that are commands."""
    commands = {str(name, "ascii").upper() for name in client.command_list() if isinstance(name, bytes)}
    return {name for name in names if name.partition(" ")[0] in commands}


def allowed(user: str) -> set[str]:
    """Return the commands that the file allows to a user."""
    (line,) = (line for line in acl.USERS.read_text().splitlines() if line.startswith(f"user {user} "))
    return {word[1:].replace("|", " ").upper() for word in line.split() if word.startswith("+")}


def test_every_command_is_allowed_and_no_other(valkey: Server) -> None:
    """The access list allows a command if and only if the code uses it."""
    modules = [path for package in PACKAGES for path in (SOURCE / package).rglob("*.py")]
    with valkey.client() as client:
        operators = filter(is_for_operators, modules)
        operating = known(client, {name for path in operators for name in in_python(path)})
        pushing = known(
            client, {name for path in modules if not is_for_operators(path) for name in in_python(path)}
        )
    operating, pushing = operating | {"SCAN"}, pushing - {"SCAN"}  # redis/execute.py has commands of both
    scripts = in_scripts()
    assert {"EVAL", "EVALSHA", "SCRIPT LOAD", "CLUSTER SLOTS", "HGETALL", "ASKING"} <= pushing
    assert {"SADD", "ZREMRANGEBYSCORE"} <= scripts
    assert {"SCAN", "INFO"} <= operating
    # a round trip is measured with it, and it settles a TLS connection
    wanted = pushing | scripts | BY_REDIS_PY | {"PING"}
    assert allowed("crossmount") == wanted
    assert allowed("crossmount-operator") == wanted | operating


@pytest.fixture
def tenants(start_server: StartServer, tmp_path: Path) -> Server:
    """A server with the users of the file, and with a second tenant as the README creates it."""
    folder = tmp_path / "redis"
    folder.mkdir()
    (folder / "users.acl").write_text(acl.USERS.read_text())
    subprocess.run(["sh", "-euc", acl.readme_block("crossmount:team-a:")], cwd=folder, check=True)
    text = (folder / "users.acl").read_text()
    assert text.startswith(acl.USERS.read_text())
    assert "user team-a-operator on resetchannels &crossmount:team-a:* ~crossmount:team-a:* " in text
    return start_server(*acl.write_users(tmp_path, text))


def url(server: Server, user: str) -> str:
    """Return a tenant's URL."""
    return f"redis://{user}:a%20pass%2Fword@127.0.0.1:{server.port}/0"


def everything(server: Server) -> dict[bytes, bytes]:
    """Return the content of a server."""
    with server.client() as client:
        return {key: client.dump(key) for key in client.scan_iter()}


TENANTS = (("crossmount", "default"), ("team-a", "team-a"))
DIRECTIONS = [(*TENANTS[0], TENANTS[1][1]), (*TENANTS[1], TENANTS[0][1])]


async def fill(server: Server) -> None:
    """Record a layer, a flag, traits and a lease for each tenant, in its own namespace."""
    for user, namespace in TENANTS:
        async with open_index(url(server, f"{user}-operator"), namespace=namespace) as index:
            await index.add_source(ONE, A, must_mount=True)
        async with open_index(url(server, user), namespace=namespace) as index:
            await index.record([Sighting(ONE, A, size=7), Sighting(ONE, repo("other.example/a"))])
            await index.record_traits("r.example", RegistryTraits(mounts=True))
            found = backing_server(index)
            assert found is not None
            assert await LeaseStore(found, life=3600).renew({Lease("r.example", ONE, "{}"): None}) == [True]
            assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(
                (A,), elsewhere=("other.example",), must_mount=True, size=7
            )


@pytest.mark.parametrize(("user", "own", "foreign"), DIRECTIONS)
async def test_another_tenants_index_is_closed(tenants: Server, user: str, own: str, foreign: str) -> None:
    """No method reads or changes anything in another namespace."""
    await fill(tenants)
    before = everything(tenants)
    async with open_index(url(tenants, user), namespace=foreign) as index:
        assert isinstance(index, RedisMountIndex)
        calls = (
            lambda: index.look_up([ONE], DEST),
            lambda: index.sources(ONE, DEST),
            lambda: index.must_mount(ONE),
            lambda: index.locations(ONE),
            lambda: index.record([Sighting(ONE, DEST), Sighting(TWO, DEST, must_mount=True)]),
            lambda: index.forget(ONE, A),
            lambda: index.clear_must_mount(ONE),
            lambda: index.record_traits("r.example", RegistryTraits(mounts=False)),
            lambda: forget_traits(index, "r.example"),
            lambda: share_pair(index.server(), "r.example=other.example"),
            lambda: shared_pairs(index.server()),
        )
        for call in calls:
            with pytest.raises(IndexRefusedError, match="permission"):
                await call()
        leases = LeaseStore(index.server())
        await leases.renew({Lease("r.example", layer, "[]"): None for layer in (ONE, TWO)})
        await leases.release([Lease("r.example", ONE, "{}")])
    assert everything(tenants) == before
    async with open_index(url(tenants, user), namespace=own) as index:
        assert await index.must_mount(ONE)


async def test_a_pusher_reads_must_mount_and_never_changes_it(tenants: Server) -> None:
    """Whatever a pusher sends, no flag is set or cleared, and the error of a method says who may do that."""
    await fill(tenants)
    before = everything(tenants)
    async with open_index(url(tenants, "crossmount")) as index:
        assert isinstance(index, RedisMountIndex)
        calls: tuple[Callable[[], Awaitable[None]], ...] = (
            lambda: index.add_source(TWO, A, must_mount=True),
            lambda: index.record([Sighting(TWO, A), Sighting(TWO, DEST, must_mount=True)]),
            lambda: index.restore([LayerEntry(layer=TWO, must_mount=True)]),
            lambda: index.clear_must_mount(ONE),
        )
        for call in calls:
            with pytest.raises(IndexRefusedError, match="may not set or clear must-mount: log in as an op"):
                await call()
        with pytest.raises(IndexRefusedError, match="permission"):
            await share_pair(index.server(), "r.example=other.example")
        assert await index.must_mount(ONE)
        assert (await index.look_up([TWO], DEST)).of(TWO) == LayerKnowledge()
    flag, pairs = Keys().must_mount(ONE), Keys().same_registry()
    with redis.Redis.from_url(url(tenants, "crossmount")) as client:
        for command in (
            *(("DEL", flag), ("HSET", flag, "since", "0"), ("HDEL", flag, "since"), ("EXPIRE", flag, 1)),
            *(
                ("SET", flag, "x"),
                ("HSET", Keys().must_mount(TWO), "since", "1"),
                ("HSET", pairs, "a.example", "b"),
            ),
            ("EVAL", "return redis.call('DEL', KEYS[1])", 1, flag),
            ("EVAL", f"return redis.call('DEL', '{flag}')", 0),
        ):
            with pytest.raises(
                (redis.exceptions.NoPermissionError, redis.exceptions.ResponseError), match="ermission"
            ):
                client.execute_command(*command)
    assert everything(tenants) == before


async def test_a_pusher_may_do_all_the_rest(tenants: Server) -> None:
    """Nothing that a push, a proxy, a scan or a copy sends is refused to a pusher."""
    other = repo("other.example/a")
    async with open_index(url(tenants, "crossmount")) as index:
        assert isinstance(index, RedisMountIndex)
        await index.record([Sighting(ONE, A, 5), Sighting(ONE, other)])
        await index.record_traits("r.example", RegistryTraits(mounts=True))
        await index.record_denied("r.example", "0a", [DEST])
        await index.record_deletion(ONE, DEST)
        await index.clear_deletion(ONE, DEST)
        found = await index.look_up([ONE], repo("team/x"), account="0a")
        assert found.denied == {DEST}
        assert found.of(ONE) == LayerKnowledge((A,), elsewhere=("other.example",), size=5)
        assert await index.locations(ONE) == (other, A)
        await index.forget(ONE, A)
        assert await index.locations(ONE) == (other,)


async def test_a_pusher_may_scan_and_see_when_that_was(tenants: Server, tmp_path: Path) -> None:
    """A whole push and a whole scan work with a pusher's rights, and the end of the scan is noted."""
    image, options = make_layout(tmp_path / "image", make_layers(2)), ClientOptions(plain_http=True)
    async with open_index(url(tenants, "crossmount")) as index, ScriptedRegistry() as registry:
        await crossmount_async.push(image.path, f"{registry.address}/a:1", index=index, options=options)
        report = await crossmount_async.scan(registry.address, index=index, options=options)
        assert report.repositories == 1
        server = backing_server(index)
        assert server is not None
        assert list(await last_scans(server, [registry.address])) == [registry.address]


FORBIDDEN: list[tuple[Any, ...]] = [
    *(("FLUSHALL",), ("FLUSHDB",), ("SWAPDB", 0, 1), ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("DBSIZE",)),
    *(("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "RESETSTAT"), ("INFO",)),
    *(("ACL", "LIST"), ("ACL", "SETUSER", "crossmount", "+@all"), ("ACL", "WHOAMI"), ("MONITOR",)),
    *(("CLIENT", "LIST"), ("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "PAUSE", 1000)),
    *(("SCRIPT", "FLUSH"), ("SCRIPT", "KILL"), ("FUNCTION", "FLUSH")),
    *(("DEBUG", "SLEEP", 0), ("SHUTDOWN", "NOSAVE"), ("REPLICAOF", "NO", "ONE"), ("BGREWRITEAOF",), ("SAVE",)),
    *(("SUBSCRIBE", "x"), ("PSUBSCRIBE", "*"), ("PUBLISH", "x", "y"), ("COMMAND", "LIST"), ("CLUSTER", "RESET")),
]


@pytest.mark.parametrize("user", [user for user, _ in TENANTS])
async def test_commands_beyond_ones_keys_are_refused(tenants: Server, user: str) -> None:
    """Tenants cannot list, empty, configure, monitor or stop the server."""
    await fill(tenants)
    before = everything(tenants)
    with redis.Redis.from_url(url(tenants, user)) as client:
        for command in FORBIDDEN:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
    assert everything(tenants) == before


@pytest.mark.parametrize(("user", "own", "foreign"), DIRECTIONS)
async def test_a_script_of_ones_own_reaches_no_further(tenants: Server, user: str, own: str, foreign: str) -> None:
    """A script has the rights of its caller, whether it declares its keys or not."""
    del own
    await fill(tenants)
    before = everything(tenants)
    key = next(key for key in before if f":{foreign}:".encode() in key and key.endswith(b":flags"))
    with redis.Redis.from_url(url(tenants, user)) as client:
        for body in (
            "return redis.call('HGETALL', KEYS[1])",
            "return redis.call('DEL', KEYS[1])",
            f"return redis.call('HGETALL', '{key.decode()}')",
            "return redis.call('KEYS', '*')",
            "return redis.call('SCAN', '0')",
            "return redis.call('FLUSHALL')",
            "return redis.setresp(3) or redis.call('CONFIG', 'GET', '*')",
        ):
            sha = client.script_load(body)
            with pytest.raises((redis.exceptions.NoPermissionError, redis.exceptions.ResponseError)) as caught:
                client.evalsha(sha, 1, key)
            assert "permission" in str(caught.value)
    assert everything(tenants) == before


@pytest.mark.parametrize(("user", "own", "foreign"), DIRECTIONS)
async def test_another_database_is_no_way_around(tenants: Server, user: str, own: str, foreign: str) -> None:
    """The pattern applies in every database."""
    del own
    there = url(tenants, user).replace("/0", "/3")
    with redis.Redis.from_url(there) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.hgetall(f"crossmount:{foreign}:registry:r.example")


@pytest.mark.parametrize(("user", "own", "foreign"), DIRECTIONS)
async def test_an_operator_sees_names_and_only_ones_own_values(
    tenants: Server, user: str, own: str, foreign: str
) -> None:
    """An operator's SCAN returns the key names of other tenants, as the README says, but not their values."""
    await fill(tenants)
    with redis.Redis.from_url(url(tenants, f"{user}-operator")) as client:
        names = set(client.scan_iter())
        assert {f"crossmount:{space}:registry:r.example".encode() for space in (own, foreign)} <= names
        assert client.hgetall(f"crossmount:{own}:registry:r.example")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.hgetall(f"crossmount:{foreign}:registry:r.example")
