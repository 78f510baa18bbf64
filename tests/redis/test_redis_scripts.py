"""Scripts on servers that lack them: how their source gets there, and the words where scripts are refused."""

from collections.abc import Sequence
from typing import Any

import pytest

from crossmount.errors import IndexRefusedError
from crossmount.index import RedisMountIndex, Sighting, open_index
from crossmount.redis.execute import run_scripted
from crossmount.redis.replies import Command, CommandRefusedError, ScriptMissingError
from crossmount.redis.scripts import Script, ScriptCall, with_sources
from support.fronts import hanging_up_on
from support.index_kit import CountingLink, layer, repo
from support.links import async_link
from support.servers import Server, StartServer

A, DEST = repo("team/a"), repo("team/dest")
ONE = layer(1)

PUSHER = ("--user", "pusher", "on", ">word", "~*", "&*", "+@all")

FIRST, SECOND = Script("return 1", "sha1"), Script("return 2", "sha2")


def test_a_script_goes_to_a_server_once() -> None:
    """Of several calls that carry their source, the first of each script has it, and the others follow it."""
    calls = [script.call((f"{{x}}{number}",), "a").carried for number in (1, 2) for script in (FIRST, SECOND)]
    assert with_sources([("PING",), *calls]) == [
        ("PING",),
        ("EVAL", "return 1", 1, "{x}1", "a"),
        ("EVAL", "return 2", 1, "{x}1", "a"),
        ("EVALSHA", "sha1", 1, "{x}2", "a"),
        ("EVALSHA", "sha2", 1, "{x}2", "a"),
    ]
    assert with_sources([FIRST.call(())]) == [("EVALSHA", "sha1", 0)]


class Front:
    """A link to a front before several servers; each has the scripts that it got with a call for its keys."""

    where = "front"

    def __init__(self, *, allows_eval: bool = True) -> None:
        self.rounds = 0
        self._allows_eval = allows_eval
        self._known: set[tuple[object, object]] = set()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send each command to the server of its key, which is the key's last character."""
        self.rounds += 1
        return [self._reply(command) for command in with_sources(commands)]

    def _reply(self, command: Command) -> Any:
        names = {script.source: script.sha for script in (FIRST, SECOND)}
        if command[0] == "SCRIPT":
            self._known |= {(server, names[str(command[2])]) for server in "xy"}
            return b"sha"
        server = str(command[3])[-1]
        if command[0] == "EVAL":
            if not self._allows_eval:
                return CommandRefusedError("no permissions to run the 'eval' command")
            self._known.add((server, names[str(command[1])]))
            return command[1]
        return command[1] if (server, command[1]) in self._known else ScriptMissingError("no")


CALLS = [FIRST.call(("x",)), FIRST.call(("y",)), SECOND.call(("y",)), FIRST.call(("x",))]


@pytest.mark.parametrize(("allows_eval", "rounds"), [(True, 3), (False, 3)])
async def test_every_server_behind_a_front_gets_the_script(allows_eval: bool, rounds: int) -> None:
    """Each call is answered, also where a batch is split after us, or where only SCRIPT LOAD is allowed."""
    front: Any = Front(allows_eval=allows_eval)
    replies = await run_scripted(front, CALLS)
    assert not [reply for reply in replies if isinstance(reply, Exception)]
    assert front.rounds == rounds
    assert await run_scripted(front, CALLS) == ["sha1", "sha1", "sha2", "sha1"]
    assert front.rounds == rounds + 1


async def test_a_server_that_lost_its_scripts_costs_one_more_round_trip(valkey: Server) -> None:
    """The calls that found no script are sent again with it, and no others."""
    link = CountingLink(async_link(valkey.url))
    async with RedisMountIndex(link) as index:
        await index.look_up([ONE], DEST)
        await index.record([Sighting(layer(number), A) for number in range(40)])
        assert len(link.runs) == 3
        assert all(isinstance(command, ScriptCall) for command in link.runs[-1])
        assert await index.sources(layer(39), DEST) == (A,)


async def test_an_index_works_behind_a_front_that_knows_no_script_load(valkey: Server) -> None:
    """A front that hangs up on SCRIPT gets none: the index adds, reads and forgets there."""
    with hanging_up_on("SCRIPT", valkey.port) as front:
        async with open_index(f"redis://{front}") as index:
            await index.record([Sighting(layer(number), A) for number in range(40)])
            assert await index.sources(ONE, DEST) == (A,)
            await index.forget(ONE, A)
            assert await index.sources(ONE, DEST) == ()


async def test_an_access_list_without_eval_still_works(start_server: StartServer) -> None:
    """With EVALSHA and SCRIPT LOAD alone, as older access lists have it, scripts are loaded."""
    server = start_server(*PUSHER, "-eval")
    async with open_index(f"redis://pusher:word@127.0.0.1:{server.port}") as index:
        await index.add_source(ONE, A)
        assert await index.sources(ONE, DEST) == (A,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*PUSHER, "-@scripting"), "scripts are not allowed there"),
        ((*PUSHER, "-eval", "-script"), "scripts are not allowed there"),
        (
            (
                *PUSHER,
                *(word for name in ("EVAL", "EVALSHA", "SCRIPT") for word in ("--rename-command", name, "")),
            ),
            "scripts are not known there (unknown command 'EVALSHA')",
        ),
    ],
)
async def test_a_server_without_scripts_is_told(
    start_server: StartServer, options: tuple[str, ...], words: str
) -> None:
    """Where scripts are not allowed or not known the error says so, what to do, and nothing of sentinels."""
    server = start_server(*options)
    async with open_index(f"redis://pusher:word@127.0.0.1:{server.port}") as index:
        with pytest.raises(IndexRefusedError) as raised:
            await index.add_source(ONE, A)
    assert words in str(raised.value)
    assert "sentinel" not in str(raised.value)


@pytest.mark.parametrize("command", ["SRANDMEMBER", "HGETALL"])
async def test_a_look_up_that_is_not_allowed_is_told(start_server: StartServer, command: str) -> None:
    """A forbidden command of every look-up is an error, and not an answer without sources."""
    server = start_server(*PUSHER, f"-{command.lower()}")
    async with open_index(server.url) as index:
        await index.add_source(ONE, A)
    async with open_index(f"redis://pusher:word@127.0.0.1:{server.port}") as index:
        for look_up in (index.look_up([ONE], DEST), index.sources(ONE, DEST), index.locations(ONE)):
            with pytest.raises(CommandRefusedError, match=command.lower()):
                await look_up


async def test_an_unknown_command_alone_is_no_sentinel(start_server: StartServer) -> None:
    """A server that knows other commands of the same batch is not taken for a sentinel."""
    server = start_server("--rename-command", "SRANDMEMBER", "")
    async with open_index(server.url) as index:
        with pytest.raises(IndexRefusedError) as raised:
            await index.sources(ONE, DEST)
    assert "SRANDMEMBER" in str(raised.value)
    assert "sentinel" not in str(raised.value)
