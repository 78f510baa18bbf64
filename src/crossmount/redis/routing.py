"""The commands of one call to a Cluster, and the servers that they go to. No I/O.

In the good case each server that has some of the keys is asked once, all at the same time. A server that does not
have a key any more names the one that does (MOVED and ASK: Redis Cluster specification, "Redirection and
resharding"), and only those commands go there. A server that does not answer is asked once more, with a new map of
the slots; then the commands for its keys are refused, and all others have their replies.
"""

import ssl
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import Any

from crossmount._dataclass import dataclass
from crossmount.redis.address import Node
from crossmount.redis.replies import Command
from crossmount.redis.slots import SlotMap, slot_of
from redis import exceptions

ROUNDS_AT_ONCE = 5
"""After so many rounds a command that is still redirected waits a moment before each other round."""

ROUNDS_MAX = 14
"""After so many rounds a redirection is the command's reply. The last key of a slot may take half a second."""

ATTEMPTS = 2
"""How often commands are sent to a server that does not answer."""

CLUSTER_SLOTS: Command = ("CLUSTER", "SLOTS")

_MAP_PLACE = -1
_NO_PLACE = -2
_REDIRECTIONS = (
    exceptions.AskError,  # MovedError is a subclass
    exceptions.TryAgainError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
)
_REFUSALS = (exceptions.AuthenticationError, exceptions.AuthorizationError)


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A server, and whether it is asked as a replica."""

    node: Node
    replica: bool = False


@dataclass(slots=True)
class Batch:
    """The commands for one server in one round.

    Attributes:
        places: for each command, the place of its reply in the call's replies.
    """

    target: Target
    commands: list[Command] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def add(self, command: Command, place: int) -> None:
        """Add a command."""
        self.commands.append(command)
        self.places.append(place)


@dataclass(frozen=True, slots=True)
class _Redirection:
    """The server that a command was redirected to, and whether only for this command (ASK)."""

    node: Node
    once: bool


def no_answer(node: Node, error: BaseException | None) -> str:
    """Return why a server gave no answer: its certificate is wrong, or it is silent."""
    address, link = f"{node[0]}:{node[1]}", error
    while link is not None and not isinstance(link, ssl.SSLCertVerificationError):
        link = link.__cause__ or link.__context__
    if link is None:
        return f"{address}, which holds the key, does not answer"
    if "not valid for" not in link.verify_message:
        return f"certificate of {address}, which holds the key, is wrong: {link.verify_message}"
    advice = "announce host names (cluster-announce-hostname), or give check_hostname=no in the URL"
    return f"certificate of {address} is not valid for {node[0]}: {advice}"


class CommandRouting:
    """The commands of one call, until each has its reply.

    Args:
        commands: the commands; one without a key goes to every server that is asked.
        replicas: whether replicas may answer.
        rank: orders the servers of a shard, if the first of them answers, be it a replica or the master.
        number: the number of the call, so that calls are spread over the replicas.
        failing: servers that did not answer the last call, and why not; they get commands only once.

    Attributes:
        replies: one for each command, once it is `done`.
        silent: servers that did not answer.
        given_up: those among them that get no more commands, and why: masters after two failures.
        needs_map: the next round needs a new map of the slots.
        new_map: a reply to CLUSTER SLOTS and the server that sent it, if one came with the last round.
        needs_pause: keys of a command are just being moved (TRYAGAIN, or many redirections), so the next round
            should wait a moment.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        *,
        replicas: bool = False,
        rank: Callable[[Node], tuple[bool, float]] | None = None,
        number: int = 0,
        failing: Mapping[Node, str] = MappingProxyType({}),
    ) -> None:
        self.replies: list[Any] = [None] * len(commands)
        self.silent: set[Node] = set()
        self.given_up: dict[Node, str] = {}
        self.needs_map = False
        self.new_map: tuple[Any, Node] | None = None
        self.needs_pause = False
        self._commands = commands
        self._slots = [slot_of(command) for command in commands]
        self._keyless = [place for place, slot in enumerate(self._slots) if slot is None]
        self._open = {place for place, slot in enumerate(self._slots) if slot is not None} or set(self._keyless)
        self._redirections: dict[int, _Redirection] = {}
        self._replicas = replicas
        self._rank = rank
        self._number = number
        self._round = 0
        self._failing = failing
        self._failures = Counter(dict.fromkeys(failing, ATTEMPTS - 1))

    @property
    def done(self) -> bool:
        """Whether every command has its reply."""
        return not self._open

    def batches(self, slots: SlotMap, *, excluded: Collection[Node] = ()) -> list[Batch]:
        """Return the batches of the next round, to be sent at the same time; `excluded` servers get none."""
        self._round += 1
        self.needs_map = self.needs_pause = False
        self.new_map = None
        batches: dict[Target, Batch] = {}
        for place in sorted(self._open):
            redirection = self._redirections.get(place)
            target = Target(redirection.node) if redirection else self._target(self._slots[place], slots, excluded)
            if place not in self._keyless and not target.replica and target.node in excluded:
                self._refuse(place, self._failing.get(target.node) or no_answer(target.node, None))
                continue
            if target not in batches:
                batches[target] = self._new_batch(target, moved=redirection is not None and not redirection.once)
            if place in self._keyless:
                continue
            if redirection is not None and redirection.once:
                batches[target].add(("ASKING",), _NO_PLACE)
            batches[target].add(self._commands[place], place)
        return [batches[target] for target in sorted(batches)]

    def add_replies(self, batch: Batch, replies: Sequence[Any]) -> None:
        """Take in a server's replies.

        Raises:
            RedisError: the server refuses READONLY or ASKING.
        """
        for place, reply in zip(batch.places, replies, strict=True):
            if place == _MAP_PLACE:
                self.new_map = (reply, batch.target.node) if isinstance(reply, list) else None
            elif place == _NO_PLACE:
                if isinstance(reply, Exception):
                    raise reply
            elif self._slots[place] is None:
                self._add_shared_reply(place, reply)
            elif isinstance(reply, _REDIRECTIONS) and self._round < ROUNDS_MAX:
                self._redirect(place, reply, batch.target.node)
            else:
                self._open.discard(place)
                self.replies[place] = reply

    def add_failure(self, batch: Batch, error: Exception) -> None:
        """Take in that a server did not answer.

        Raises:
            Exception: the error, if no other server can be asked, or a login is refused.
        """
        node = batch.target.node
        self._failures[node] += 1
        is_given_up = not batch.target.replica and self._failures[node] >= ATTEMPTS
        with_keys = [place for place in batch.places if place >= 0 and self._slots[place] is not None]
        if isinstance(error, _REFUSALS) or (is_given_up and not with_keys):
            raise error
        self.silent.add(node)
        for place in batch.places:
            self._redirections.pop(place, None)
        if is_given_up or batch.target.replica:
            self.given_up[node] = no_answer(node, error)
        if is_given_up:
            for place in with_keys:
                self._refuse(place, self.given_up[node])
        else:
            self.needs_map = True

    def _refuse(self, place: int, words: str) -> None:
        self._open.discard(place)
        self.replies[place] = exceptions.ResponseError(words)

    def _new_batch(self, target: Target, *, moved: bool) -> Batch:
        """Begin a batch. It has the commands without a key, since the server may need a script to be loaded."""
        batch = Batch(target)
        if target.replica:
            batch.add(("READONLY",), _NO_PLACE)
        if moved:
            batch.add(CLUSTER_SLOTS, _MAP_PLACE)
        for place in self._keyless:
            batch.add(self._commands[place], place)
        return batch

    def _target(self, slot: int | None, slots: SlotMap, excluded: Collection[Node]) -> Target:
        shard = None if slot is None else slots.shard_of(slot)
        if shard is None:  # any server can answer, or refuse because no server has the slot
            usable = [master for master in slots.masters if master not in self.silent and master not in excluded]
            return Target((usable or slots.masters)[0])
        usable = [
            node for node in (*shard.replicas, shard.master) if node not in self.silent and node not in excluded
        ]
        if self._rank is not None and usable:
            nearest = min(usable, key=self._rank)
            return Target(nearest, replica=nearest != shard.master)
        replicas = [node for node in usable if self._replicas and node != shard.master]
        return Target(replicas[self._number % len(replicas)], replica=True) if replicas else Target(shard.master)

    def _add_shared_reply(self, place: int, reply: Any) -> None:
        """Keep one of the replies to a command that went to every server: a refusal, if there is one."""
        self._open.discard(place)
        if not isinstance(self.replies[place], Exception):
            self.replies[place] = reply

    def _redirect(self, place: int, reply: Exception, node: Node) -> None:
        """Choose the next server for a command that `node` did not run."""
        self._redirections.pop(place, None)
        self.needs_pause |= self._round > ROUNDS_AT_ONCE
        if isinstance(reply, exceptions.AskError):
            other = (reply.host or node[0], int(reply.port))
            self._redirections[place] = _Redirection(other, once=not isinstance(reply, exceptions.MovedError))
        elif isinstance(reply, exceptions.TryAgainError):
            self.needs_pause = True
        elif isinstance(reply, exceptions.MasterDownError):  # a replica without its master, which may not answer
            self.silent.add(node)
        else:  # READONLY: the server is not a master any more, and does not know its master yet
            self.needs_map = True
