"""Commands run through a link: reads, writes, calls of Lua scripts, and scans of all keys."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from crossmount._dataclass import dataclass
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


COUNT = 1000
"""How many keys a server examines in one round trip; more would delay its other clients."""

SLOW_SECONDS = 0.02
"""A round trip that takes longer, and twice as long as the fastest one, means that the server is busy."""

PAUSE_MAX = 1.0


class ScanForbiddenError(IndexRefusedError):
    """The user may not scan keys. An access list rightly forbids that to pushers."""


@dataclass(frozen=True, slots=True)
class KeyPage:
    """The result of one SCAN command.

    Attributes:
        keys: the keys that match, which may be none.
        cursor: where the next page begins, 0 after the last page. It is valid until the server restarts.
    """

    keys: tuple[bytes, ...]
    cursor: int


async def scan_pages(
    server: Link,
    pattern: str,
    *,
    count: int = COUNT,
    cursor: int = 0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[KeyPage, None]:
    """Yield the keys of one server, page by page, with a pause after a page when the server is busy.

    Args:
        server: a link to one server, from `Link.servers`.
        pattern: a pattern of SCAN.
        count: about how many keys the server examines in one round trip.
        cursor: the cursor of an earlier page, from the same process of the server.
        clock: seconds.
        sleep: waits for some seconds.

    Raises:
        IndexFailedError: no answer, or the server does not allow SCAN.
    """
    fastest = float("inf")
    while True:
        started = clock()
        (reply,) = await server.run([("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
        took = clock() - started
        fastest = min(fastest, took)
        if isinstance(reply, IndexRefusedError):
            raise for_operators(reply)
        cursor, keys = reply
        if not isinstance(keys, list):
            raise IndexRefusedError(f"index at {server.where} answers SCAN with something else")
        yield KeyPage(tuple([key for key in keys if isinstance(key, bytes)]), cursor)
        if not cursor:
            return
        if took > max(SLOW_SECONDS, 2 * fastest):
            await sleep(min(took, PAUSE_MAX))


async def scan_keys(link: Link, pattern: str, count: int = COUNT) -> AsyncGenerator[bytes, None]:
    """Yield the keys that match `pattern`, from all servers.

    A key that exists from the start to the end is yielded at least once, and maybe twice (a promise of SCAN). On a
    Cluster, a key whose slot moves meanwhile may be missed.

    Args:
        link: a link to the server, or to the Cluster.
        pattern: a pattern of SCAN.
        count: about how many keys a server examines in one round trip.

    Raises:
        IndexFailedError: a server does not answer, or does not allow SCAN.
    """
    for server in await link.servers():
        async for page in scan_pages(server, pattern, count=count):
            for key in page.keys:
                yield key


def for_operators(reply: IndexRefusedError) -> IndexRefusedError:
    """Return a refusal, and where it is for lack of a right, with words on who has that right."""
    if "permission" not in str(reply).lower():
        return reply
    return ScanForbiddenError(
        f"{reply}: this needs a user who may list all keys, such as crossmount-operator in deploy/redis/users.acl"
    )
