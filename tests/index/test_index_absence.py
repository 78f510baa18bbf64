"""A server of a Cluster that does not answer: how often commands are sent to it. The servers are simulated."""

from collections.abc import Collection, Sequence
from typing import Any, cast

import pytest

from crossmount.errors import IndexRefusedError
from crossmount.redis.address import Node
from crossmount.redis.call import BREAKER_SECONDS, PAUSE_MAX_SECONDS
from crossmount.redis.cluster import MAP_SECONDS, ClusterClient, Pools, ServerRequest
from crossmount.redis.replies import Command, ReplyReader
from crossmount.redis.routing import CLUSTER_SLOTS
from redis import exceptions
from support.index_kit import Clock

A, B, C = (("h", port) for port in range(1, 4))
LOW: Command = ("GET", "{b}")  # slot 3300
HIGH: Command = ("GET", "{a}")  # slot 15495


class SimulatedPools:
    """Simulated servers that answer with their port, or not at all.

    Attributes:
        silent: the servers that do not answer.
        low: the server of the lower half of the slots.
        replicas: its replicas.
        asked: the target of each exchange of other commands than the one for the map.
    """

    def __init__(self) -> None:
        self.silent: set[Node] = set()
        self.low = A
        self.replicas: list[Node] = []
        self.asked: list[Node] = []

    def exchange(self, requests: Sequence[ServerRequest]) -> list[list[Any] | Exception]:
        """Answer for the servers that are not silent."""
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
        """Do nothing."""

    def disconnect_idle(self, nodes: Collection[Node]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def _reply(self, node: Node, command: Command) -> Any:
        if command == CLUSTER_SLOTS:
            return [[0, 7999, [*self.low], *([*each] for each in self.replicas)], [8000, 16383, [*B]]]
        return node[1]


class Linked:
    """A client of them, and its clock."""

    def __init__(self) -> None:
        self.servers = SimulatedPools()
        self.clock = Clock(100.0)
        self.client = ClusterClient(
            cast("Pools", self.servers), [A, B], ReplyReader("made up", {}, ()), clock=self.clock
        )

    def reading(self) -> ClusterClient:
        """Return a client of the same servers whose look-ups replicas answer."""
        reader = ReplyReader("made up", {}, ())
        return ClusterClient(cast("Pools", self.servers), [A, B], reader, read_from="replica", clock=self.clock)

    def run(self) -> list[Any]:
        """Send a command to each half of the slots."""
        return self.client.run([LOW, HIGH])

    def times_asked(self, node: Node) -> int:
        """Return how many commands a server got since the last call."""
        times = self.servers.asked.count(node)
        self.servers.asked.clear()
        return times


@pytest.fixture
def linked() -> Linked:
    """Return such a client."""
    return Linked()


def test_the_pauses_of_an_unresponsive_server_are_bounded(linked: Linked) -> None:
    """An unresponsive server gets commands twice, then once after each pause, which never exceeds the bound."""
    linked.servers.silent = {A}
    for times, seconds in ((2, BREAKER_SECONDS), *[(1, PAUSE_MAX_SECONDS)] * 3):
        for asked in (times, 0):
            refused, answered = linked.run()
            assert isinstance(refused, IndexRefusedError)
            assert answered == 2
            assert linked.times_asked(A) == asked
            linked.clock.now += (seconds - 0.1) if asked else 0.1


def test_a_silent_replica_is_left_alone_for_a_while(linked: Linked) -> None:
    """A replica that says nothing gets commands once, then after each pause; other servers answer meanwhile."""
    linked.servers.replicas, linked.servers.silent = [C], {C}
    client = linked.reading()
    for seconds in (BREAKER_SECONDS, PAUSE_MAX_SECONDS, PAUSE_MAX_SECONDS):
        for asked in (1, 0, 0):
            assert client.run([LOW]) == [1]
            assert linked.times_asked(C) == asked
        linked.clock.now += seconds
    linked.servers.silent = set()
    assert client.run([LOW])[-1] == 3


def test_an_answer_resets_the_pauses(linked: Linked) -> None:
    """After an answer, the next outage of a server is treated as its first one."""
    linked.servers.silent = {A}
    linked.run()
    linked.servers.silent = set()
    linked.clock.now += BREAKER_SECONDS
    assert linked.run() == [1, 2]
    linked.times_asked(A)
    linked.servers.silent = {A}
    linked.run()
    assert linked.times_asked(A) == 2


def test_a_new_master_of_its_slots_is_found(linked: Linked) -> None:
    """During the pause the map is sometimes read from another server, so that a new master is found."""
    linked.servers.silent = {A}
    linked.run()
    linked.servers.low = C
    assert isinstance((linked.run())[0], IndexRefusedError)
    linked.clock.now += 2 * MAP_SECONDS
    assert linked.run() == [3, 2]
    assert linked.run() == [3, 2]
