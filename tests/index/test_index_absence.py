"""A server of a Cluster that does not answer, over servers that are made up: how often it is asked."""

from collections.abc import Collection, Sequence
from typing import Any, cast

import pytest

from crossmount.errors import IndexRefusedError
from crossmount.redis.address import Node
from crossmount.redis.cluster import BREAKER_SECONDS, MAP_SECONDS, ClusterClient, Pools, ServerRequest
from crossmount.redis.replies import Command, ReplyReader
from crossmount.redis.routing import CLUSTER_SLOTS
from redis import exceptions
from support.index_kit import Clock

A, B, C = (("h", port) for port in range(1, 4))
LOW: Command = ("GET", "{b}")  # slot 3300
HIGH: Command = ("GET", "{a}")  # slot 15495


class MadeUp:
    """Servers that answer with their port, or not at all.

    Attributes:
        silent: those that do not answer.
        low: who serves the lower half of the slots.
        asked: whom each exchange asked for more than the map.
    """

    def __init__(self) -> None:
        self.silent: set[Node] = set()
        self.low = A
        self.asked: list[Node] = []

    def exchange(self, requests: Sequence[ServerRequest]) -> list[list[Any] | Exception]:
        """Answer for those that are not silent."""
        self.asked += [target.node for target, commands in requests if commands != [CLUSTER_SLOTS]]
        return [
            exceptions.TimeoutError()
            if target.node in self.silent
            else [self._reply(target.node, each) for each in commands]
            for target, commands in requests
        ]

    def pause(self, seconds: float) -> None:
        """Do not wait."""

    def keep(self, nodes: Collection[Node]) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Close nothing."""

    def _reply(self, node: Node, command: Command) -> Any:
        if command == CLUSTER_SLOTS:
            return [[0, 7999, [*self.low]], [8000, 16383, [*B]]]
        return node[1]


class Linked:
    """A client of them, and its clock."""

    def __init__(self) -> None:
        self.servers = MadeUp()
        self.clock = Clock(100.0)
        self.client = ClusterClient(
            cast("Pools", self.servers), [A, B], ReplyReader("made up", {}, ()), clock=self.clock
        )

    def run(self) -> list[Any]:
        """Request both halves for something."""
        return self.client.run([LOW, HIGH])

    def times_asked(self, node: Node) -> int:
        """Return how often a server was asked since the last time."""
        times = self.servers.asked.count(node)
        self.servers.asked.clear()
        return times


@pytest.fixture
def linked() -> Linked:
    """Give such a link."""
    return Linked()


def test_a_silent_server_is_left_alone_ever_longer(linked: Linked) -> None:
    """It is asked twice, then once each time that it was left alone for twice as long; the other answers."""
    linked.servers.silent = {A}
    for times, seconds in ((2, BREAKER_SECONDS), (1, 2 * BREAKER_SECONDS), (1, 4 * BREAKER_SECONDS)):
        for asked in (times, 0):
            refused, answered = linked.run()
            assert isinstance(refused, IndexRefusedError)
            assert answered == 2
            assert linked.times_asked(A) == asked
            linked.clock.now += (seconds - 0.1) if asked else 0.1


def test_a_server_that_is_back_is_asked_as_before(linked: Linked) -> None:
    """Once it answers, its next silence is met as its first was."""
    linked.servers.silent = {A}
    linked.run()
    linked.servers.silent = set()
    linked.clock.now += BREAKER_SECONDS
    assert linked.run() == [1, 2]
    linked.times_asked(A)
    linked.servers.silent = {A}
    linked.run()
    assert linked.times_asked(A) == 2


def test_whoever_takes_its_place_is_found(linked: Linked) -> None:
    """While it is left alone the others are asked, now and then, who serves its slots by now."""
    linked.servers.silent = {A}
    linked.run()
    linked.servers.low = C
    assert isinstance((linked.run())[0], IndexRefusedError)
    linked.clock.now += 2 * MAP_SECONDS
    assert linked.run() == [3, 2]
    assert linked.run() == [3, 2]
