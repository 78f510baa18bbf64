"""Commands to an index's server beside those of the index itself: for what is kept there too, and for people."""

from collections.abc import Sequence
from typing import Any

from crossmount.errors import IndexRefusedError
from crossmount.redis.link import Link
from crossmount.redis.replies import Command, WrongTypeError


async def ask(link: Link, commands: Sequence[Command]) -> list[Any]:
    """Run commands that read; None where somebody else wrote something else under a key of ours.

    Raises:
        IndexFailedError: the server does not serve, or does not allow one of them.
    """
    replies = await link.run(commands) if commands else []
    for reply in replies:
        if isinstance(reply, IndexRefusedError) and not isinstance(reply, WrongTypeError):
            raise reply
    return [None if isinstance(reply, WrongTypeError) else reply for reply in replies]


async def write(link: Link, commands: Sequence[Command]) -> None:
    """Run commands that write.

    Raises:
        IndexFailedError: the server did not take one.
    """
    for reply in await link.run(commands) if commands else []:
        if isinstance(reply, IndexRefusedError):
            raise reply
