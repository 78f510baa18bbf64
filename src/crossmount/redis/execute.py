"""Commands run through a link: reads, writes, and calls of Lua scripts, in one round trip in the good case."""

from collections.abc import Iterator, Sequence
from typing import Any

from crossmount.errors import IndexRefusedError
from crossmount.redis.link import Link
from crossmount.redis.replies import Command, CommandRefusedError, ScriptMissingError, WrongTypeError
from crossmount.redis.scripts import ScriptCall

PIECE_COMMANDS = 1000
"""How many commands are sent at once. More are sent in pieces, each a call with a deadline of its own."""


async def run_all(link: Link, commands: Sequence[Command]) -> list[Any]:
    """Run commands, in one round trip unless they are very many; return a reply for each.

    Raises:
        IndexFailedError: no answer to a piece; those before it have run.
    """
    if len(commands) <= PIECE_COMMANDS:
        return await link.run(commands) if commands else []
    return [reply for piece in _pieces(commands) for reply in await link.run(piece)]


def _pieces(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    for start in range(0, len(commands), PIECE_COMMANDS):
        yield commands[start : start + PIECE_COMMANDS]


async def run_reads(link: Link, commands: Sequence[Command]) -> list[Any]:
    """Run commands that read; return their replies, None where a key has a value of another type than ours.

    Raises:
        IndexFailedError: no answer, or one of the commands is refused for another reason.
    """
    replies = await run_all(link, commands)
    for reply in replies:
        if isinstance(reply, IndexRefusedError) and not isinstance(reply, WrongTypeError):
            raise reply
    return [None if isinstance(reply, WrongTypeError) else reply for reply in replies]


async def run_writes(link: Link, commands: Sequence[Command]) -> None:
    """Run commands that write.

    Raises:
        IndexFailedError: no answer, or one of the commands is refused.
    """
    for reply in await run_all(link, commands):
        if isinstance(reply, IndexRefusedError):
            raise reply


async def run_scripted(link: Link, commands: Sequence[Command]) -> list[Any]:
    """Run commands, some of which call scripts. Where a server lacks a script, send that again with its source.

    Returns:
        A reply for each command, an `IndexRefusedError` where one was refused.

    Raises:
        IndexFailedError: no answer, or the server refuses to load a script; the pieces before have run.
    """
    return [reply for piece in _pieces(commands) for reply in await _run_piece(link, piece)]


async def _run_piece(link: Link, commands: Sequence[Command]) -> list[Any]:
    replies = await link.run(commands)
    # A front may split our batch for several servers, so in the last attempt each call has the source.
    for again in (_carry_sources, _evaluate_each):
        calls = {place: call for place, call in enumerate(commands) if _lacks_script(call, replies[place])}
        if not calls:
            break
        found = await again(link, [call for call in calls.values() if isinstance(call, ScriptCall)])
        for place, reply in zip(calls, found, strict=True):
            replies[place] = reply
    return replies


def _lacks_script(command: Command, reply: Any) -> bool:
    return isinstance(reply, ScriptMissingError) and isinstance(command, ScriptCall)


async def _carry_sources(link: Link, calls: Sequence[ScriptCall]) -> list[Any]:
    """Send each script's source once to each server; load the scripts where EVAL is not allowed."""
    replies = await link.run([call.carried for call in calls])
    if not any(isinstance(reply, CommandRefusedError) for reply in replies):
        return replies
    loads = list(dict.fromkeys(call.load for call in calls))
    again = await link.run([*loads, *calls])
    for reply in again[: len(loads)]:
        if isinstance(reply, IndexRefusedError):
            raise reply
    return again[len(loads) :]


async def _evaluate_each(link: Link, calls: Sequence[ScriptCall]) -> list[Any]:
    return await link.run([call.evaluated for call in calls])
