"""The routing of commands on a Cluster, without servers: the map of the slots, and the batches of each round."""

import ssl
from typing import Any

import pytest

from crossmount.errors import IndexRefusedError
from crossmount.redis.cluster import PAUSE_SECONDS
from crossmount.redis.replies import Command, ReplyReader, StartingError
from crossmount.redis.routing import (
    ATTEMPTS,
    CLUSTER_SLOTS,
    ROUNDS_MAX,
    Batch,
    CommandRouting,
    Target,
    no_answer,
)
from crossmount.redis.slots import Shard, SlotMap, slot_of
from redis import exceptions

A, B, C, R, S = (("h", port) for port in range(1, 6))
MAP = SlotMap([Shard(8000, 16383, B, (S,)), Shard(0, 7999, A, (R, C))])
LOW: Command = ("HGETALL", "{b}")  # slot 3300
HIGH: Command = ("HGETALL", "{a}")  # slot 15495
LOAD: Command = ("SCRIPT", "LOAD", "x")


def asked(batches: list[Batch]) -> dict[Target, list[Command]]:
    """Return the commands for each server."""
    return {batch.target: batch.commands for batch in batches}


def only(batches: list[Batch]) -> Batch:
    """Return the one batch."""
    (batch,) = batches
    return batch


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("HGETALL", "{b}x"), "{b}"),
        (("HGETALL", b"{b}x"), "{b}"),
        (("EVALSHA", "sha", 2, "{b}1", "{b}2", "x"), "{b}"),
        (("MEMORY", "USAGE", "{b}"), "{b}"),
    ],
)
def test_a_command_goes_by_its_first_key(command: Command, key: str) -> None:
    """The slot is that of the hash tag, at any place of the key in a command."""
    assert slot_of(command) == slot_of(("GET", key)) == 3300
    assert slot_of(("PING",)) is slot_of(LOAD) is None


def test_the_map_is_read_from_cluster_slots() -> None:
    """Hosts may be texts, bytes or missing; slots outside all ranges have no server."""
    reply = [
        [5, 9, [b"m", 7000, b"id"], [b"r", 7001, b"id", []]],
        [10, 10, [b"", 7002, b"id"], [None, 7003, b"id"], [b"?", 7004, b"id"]],
    ]
    slots = SlotMap.from_reply(reply, ("asked", 1))
    assert slots.masters == (("m", 7000), ("asked", 7002))
    assert slots.shard_of(9) == Shard(5, 9, ("m", 7000), (("r", 7001),))
    assert slots.shard_of(10) == Shard(10, 10, ("asked", 7002), (("asked", 7003), ("asked", 7004)))
    assert slots.shard_of(4) is slots.shard_of(11) is None


NO_MAPS: list[Any] = [
    [[b"0", b"16383", [b"h", 7000]]],
    [[None, 16383, [b"h", 7000]]],
    [[0, 5, [b"h", 7000]], [b"6", 16383, [b"h", 7000]]],
    [[0, [], [b"h", 7000]]],
    [[0, 16384, [b"h", 7000]]],
    [[0, 16383, [b"h", 65536]]],
    [[0, 16383, [b"h", -1]]],
    [[0, 16383, [b"h", None]]],
    [[0, 16383, [7, 7000]]],
]


@pytest.mark.parametrize("reply", [[], None, 7, [7], [[1, 2]], [[1, 2, []]], [[1, 2, [b"h", b"port"]]], *NO_MAPS])
def test_what_is_no_map_is_refused(reply: Any) -> None:
    """A reply of any other shape is a refusal."""
    with pytest.raises(IndexRefusedError):
        SlotMap.from_reply(reply, A)


def test_each_server_is_asked_once_and_replies_are_put_in_order() -> None:
    """Commands are grouped by server; one without a key goes to all servers, and one refusal is its reply."""
    routing = CommandRouting([HIGH, LOAD, LOW])
    batches = routing.batches(MAP)
    assert asked(batches) == {Target(A): [LOAD, LOW], Target(B): [LOAD, HIGH]}
    routing.add_replies(batches[0], [b"sha", b"low"])
    assert asked(routing.batches(MAP)) == {Target(B): [LOAD, HIGH]}
    refusal = exceptions.NoPermissionError("no")
    routing.add_replies(batches[1], [refusal, b"high"])
    assert routing.done
    assert routing.replies == [b"high", refusal, b"low"]


def test_what_has_no_key_at_all_goes_to_one_master() -> None:
    """A command without a key goes to a master, and to another one if that does not answer."""
    routing = CommandRouting([("PING",)])
    batch = only(routing.batches(MAP))
    assert batch.target == Target(A)
    routing.add_failure(batch, exceptions.ConnectionError())
    assert routing.needs_map
    batch = only(routing.batches(MAP))
    assert batch.target == Target(B)
    routing.add_replies(batch, [b"PONG"])
    assert routing.replies == [b"PONG"]


def test_moved_goes_on_with_the_map_and_ask_with_leave() -> None:
    """MOVED asks for a new map; ASK counts once; a redirection without a host means the same host."""
    routing = CommandRouting([LOW, HIGH])
    low, high = routing.batches(MAP)
    routing.add_replies(low, [exceptions.MovedError("3300 h:3")])
    routing.add_replies(high, [exceptions.AskError("15495 :4")])
    batches = routing.batches(MAP)
    assert asked(batches) == {Target(C): [CLUSTER_SLOTS, LOW], Target(R): [("ASKING",), HIGH]}
    routing.add_replies(batches[0], [[[0, 1, [b"h", 3]]], b"low"])
    assert routing.new_map == ([[0, 1, [b"h", 3]]], C)
    routing.add_replies(batches[1], [b"OK", exceptions.TryAgainError("wait")])
    assert routing.needs_pause
    assert asked(routing.batches(MAP)) == {Target(B): [HIGH]}


def test_a_redirection_without_end_is_the_reply() -> None:
    """After some rounds of redirections the redirection is the reply."""
    routing = CommandRouting([LOW])
    rounds = 0
    while not routing.done:
        rounds += 1
        batch = only(routing.batches(MAP))
        away = "h:3" if batch.target.node == A else "h:1"
        routing.add_replies(batch, [exceptions.MovedError(f"3300 {away}") for _ in batch.commands])
    assert rounds == ROUNDS_MAX
    assert isinstance(routing.replies[0], exceptions.MovedError)


def test_a_slot_that_is_being_moved_has_half_a_second() -> None:
    """A command that is sent to and fro while the keys are moved is tried for at least half a second."""
    routing = CommandRouting([LOW])
    pauses = 0
    while not routing.done:
        batch = only(routing.batches(MAP))
        is_there = ("ASKING",) in batch.commands
        routing.add_replies(
            batch, [b"OK", exceptions.TryAgainError("wait")] if is_there else [exceptions.AskError("3300 h:3")]
        )
        pauses += routing.needs_pause
    assert pauses * PAUSE_SECONDS >= 0.5


@pytest.mark.parametrize("error", [exceptions.MovedError("3300 h:1"), exceptions.AskError("3300 h:1")])
def test_a_redirection_without_end_is_told_in_words(error: Exception) -> None:
    """Whoever reads the error learns that the Cluster moves a slot; who waits for it asks once more."""
    (reply,) = ReplyReader("redis+cluster://h", {}, ()).read([LOW], [error])
    assert isinstance(reply, StartingError)
    assert "its Cluster is moving the slot of the key (3300 h:1)" in str(reply)


def test_a_server_that_does_not_answer_is_asked_again_with_a_new_map() -> None:
    """Keys of a master that fails twice are refused, or once if it failed before; a refused login is raised."""
    routing = CommandRouting([LOW])
    batch = only(routing.batches(MAP))
    for _ in range(ATTEMPTS - 1):
        routing.add_failure(batch, exceptions.TimeoutError())
        assert routing.needs_map
        assert routing.silent == {A}
        batch = only(routing.batches(MAP))
    routing.add_failure(batch, exceptions.TimeoutError())
    assert routing.done
    assert routing.given_up == {A: "h:1, which holds the key, does not answer"}
    assert "h:1, which holds the key, does not answer" in str(routing.replies[0])
    routing = CommandRouting([LOW], failing={A: "why"})
    routing.add_failure(only(routing.batches(MAP)), exceptions.TimeoutError())
    assert [*routing.given_up] == [A]
    routing = CommandRouting([LOW])
    with pytest.raises(exceptions.AuthenticationError):
        routing.add_failure(only(routing.batches(MAP)), exceptions.AuthenticationError())


def test_a_server_that_is_left_alone_is_not_asked() -> None:
    """Keys of an excluded master are refused; commands without a key go to others, or to it if there are none."""
    routing = CommandRouting([LOW, LOAD, HIGH])
    batch = only(routing.batches(MAP, excluded={A}))
    assert (batch.target, batch.commands) == (Target(B), [LOAD, HIGH])
    routing.add_replies(batch, [b"sha", b"high"])
    assert routing.done
    assert "h:1, which holds the key" in str(routing.replies[0])
    assert routing.replies[1:] == [b"sha", b"high"]
    assert only(CommandRouting([("PING",)]).batches(MAP, excluded={A})).target == Target(B)
    assert only(CommandRouting([("PING",)]).batches(MAP, excluded={A, B})).target == Target(A)
    assert only(CommandRouting([LOW], replicas=True).batches(MAP, excluded={A})).target == Target(R, replica=True)
    excluded = CommandRouting([LOW], failing={A: "its certificate"})
    assert excluded.batches(MAP, excluded={A}) == []
    assert "its certificate" in str(excluded.replies[0])


def test_a_silent_replica_is_left_alone_as_a_silent_master_is() -> None:
    """A replica that does not answer is given up at once, and an excluded one is not asked: another one is."""
    routing = CommandRouting([LOW], replicas=True)
    routing.add_failure(only(routing.batches(MAP)), exceptions.TimeoutError())
    assert [*routing.given_up] == [R]
    assert only(routing.batches(MAP)).target == Target(C, replica=True)
    for excluded, target in (({R}, Target(C, replica=True)), ({R, C}, Target(A))):
        assert only(CommandRouting([LOW], replicas=True).batches(MAP, excluded=excluded)).target == target


def test_a_certificate_for_another_name_is_said_to_be_that() -> None:
    """A failure has its cause in its words, wherever in the chain of errors that is."""
    wrong = ssl.SSLCertVerificationError(1, "certificate verify failed")
    failure = exceptions.ConnectionError("Error 1")
    failure.__cause__ = wrong
    for message, words in (
        (
            "IP address mismatch, certificate is not valid for 'h'",
            "certificate of h:1 is not valid for h: announce",
        ),
        ("certificate has expired", "certificate of h:1, which holds the key, is wrong: certificate has expired"),
    ):
        wrong.verify_message = message
        assert words in no_answer(A, failure)
    assert no_answer(A, OSError("gone")) == "h:1, which holds the key, does not answer"


def test_what_has_no_key_fails_with_the_last_master() -> None:
    """If no server answers a command without a key, the failure is raised."""
    routing = CommandRouting([("PING",)], failing={A: "why"})
    routing.add_failure(only(routing.batches(MAP, excluded={A})), exceptions.TimeoutError())  # B's first
    with pytest.raises(exceptions.TimeoutError):
        routing.add_failure(only(routing.batches(MAP, excluded={A})), exceptions.TimeoutError())


def test_a_master_that_is_none_any_more_makes_the_map_old() -> None:
    """After READONLY the command is sent again with a new map."""
    routing = CommandRouting([LOW])
    routing.add_replies(only(routing.batches(MAP)), [exceptions.ReadOnlyError("no")])
    assert routing.needs_map
    assert not routing.done


def test_replicas_take_turns_and_a_master_stands_in() -> None:
    """Reads go to replicas with READONLY; failed replicas are skipped, and the master is the last resort."""
    stops = [only(CommandRouting([LOW], replicas=True, number=turn).batches(MAP)).target for turn in range(3)]
    assert stops == [Target(R, replica=True), Target(C, replica=True), Target(R, replica=True)]
    routing = CommandRouting([LOW], replicas=True)
    batch = only(routing.batches(MAP))
    assert batch.commands == [("READONLY",), LOW]
    routing.add_replies(batch, [b"OK", exceptions.MasterDownError("cut off")])
    batch = only(routing.batches(MAP))
    assert batch.target == Target(C, replica=True)
    routing.add_failure(batch, exceptions.TimeoutError())
    assert only(routing.batches(MAP)).target == Target(A)


def test_a_replica_that_may_not_be_asked_is_told() -> None:
    """If the user may not send READONLY, the refusal is raised."""
    routing = CommandRouting([LOW], replicas=True)
    with pytest.raises(exceptions.NoPermissionError):
        routing.add_replies(only(routing.batches(MAP)), [exceptions.NoPermissionError("no"), b""])
