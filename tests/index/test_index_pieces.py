"""Calls with many thousand commands: they are sent in pieces, each a call of its own."""

from collections.abc import Sequence
from typing import Any

import pytest

from crossmount.errors import IndexUnavailableError
from crossmount.index import RedisMountIndex, Sighting
from crossmount.redis.execute import PIECE_COMMANDS
from crossmount.redis.replies import Command
from support.index_kit import CountingLink, layer, repo
from support.links import async_link
from support.servers import Server

A, DEST = repo("team/a"), repo("team/dest")
MANY = [layer(number) for number in range(PIECE_COMMANDS * 2 + 10)]


class Breaking(CountingLink):
    """A link that gets no answer from its `last` run on."""

    last = 10**6

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run the commands, or fail."""
        if len(self.runs) >= self.last:
            raise IndexUnavailableError("silent")
        return await super().run(commands)


async def test_many_thousand_sightings_are_recorded_in_pieces(valkey: Server) -> None:
    """No call has more commands than a piece, all is recorded, and all of it is looked up again."""
    link = CountingLink(async_link(valkey.url))
    async with RedisMountIndex(link) as index:
        await index.record([Sighting(MANY[0], A)])
        link.runs.clear()
        await index.record([Sighting(each, A) for each in MANY])
        assert [len(run) for run in link.runs] == [PIECE_COMMANDS, PIECE_COMMANDS, 11]
        knowledge = await index.look_up(MANY, DEST)
        assert all(knowledge.of(each).sources == (A,) for each in MANY)
        assert max(len(run) for run in link.runs) == PIECE_COMMANDS


async def test_pieces_that_were_answered_are_recorded(valkey: Server) -> None:
    """If the server falls silent in between, the call fails, and the pieces before it are recorded."""
    link = Breaking(async_link(valkey.url))
    async with RedisMountIndex(link) as index:
        await index.record([Sighting(MANY[0], A)])
        link.last = len(link.runs) + 1
        with pytest.raises(IndexUnavailableError):
            await index.record([Sighting(each, A) for each in MANY])
        link.last = 10**6
        assert await index.sources(MANY[PIECE_COMMANDS - 2], DEST) == (A,)
        assert await index.sources(MANY[PIECE_COMMANDS - 1], DEST) == ()
