"""One run's commands on their way through a Cluster: who is asked next, and what came back. No I/O.

In the good case each server that holds some of the keys is asked once, all at the same time. A server that no
longer holds a key says who does (MOVED, ASK: Redis Cluster specification, "Redirection and resharding"), and those
commands alone go there. One that does not answer is asked once more, with a new map of the slots; then what it
holds is refused, and all else has its reply.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossmount.redis.address import Node
from crossmount.redis.replies import Command
from crossmount.redis.slots import SlotMap, slot_of
from redis import exceptions

HOPS = 6
"""How often a command is sent on before a redirection counts as its reply."""

TRIES = 2
"""How often a server that does not answer is asked."""

_MAP = -1
_NOBODY = -2
ASK_MAP: Command = ("CLUSTER", "SLOTS")
_ELSEWHERE = (
    exceptions.AskError,  # a MovedError is one
    exceptions.TryAgainError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
)
_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError)


@dataclass(frozen=True, slots=True, order=True)
class Stop:
    """A server, and whether it is asked as a replica."""

    node: Node
    replica: bool = False


@dataclass(slots=True)
class Batch:
    """What one server is asked at once.

    Attributes:
        places: for each command whose reply is whose.
    """

    stop: Stop
    commands: list[Command] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def add(self, command: Command, place: int) -> None:
        """Ask one thing more."""
        self.commands.append(command)
        self.places.append(place)


@dataclass(frozen=True, slots=True)
class _Hop:
    """Where a command was sent on to, and whether only this once."""

    node: Node
    once: bool


class Errand:
    """The commands of one run, until each has its reply.

    Args:
        commands: what was asked for; those without a key go to every server that is asked at all.
        replicas: whether replicas may answer.
        turn: a number that differs from run to run, so that replicas take turns.
        suspects: servers that did not answer when they were last asked: they are asked only once.

    Attributes:
        replies: one for each command, once it is `done`.
        lost: servers that did not answer.
        gone: masters among them that are not asked any more.
        map_wanted: the map of the slots is old, or was not known.
        map_told: the answer to CLUSTER SLOTS that came along, and from whom.
        pause_wanted: slots are just moving (TRYAGAIN): ask again in a moment.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        *,
        replicas: bool = False,
        turn: int = 0,
        suspects: Collection[Node] = (),
    ) -> None:
        self.replies: list[Any] = [None] * len(commands)
        self.lost: set[Node] = set()
        self.gone: set[Node] = set()
        self.map_wanted = False
        self.map_told: tuple[Any, Node] | None = None
        self.pause_wanted = False
        self._commands = commands
        self._slots = [slot_of(command) for command in commands]
        self._keyless = [place for place, slot in enumerate(self._slots) if slot is None]
        self._open = {place for place, slot in enumerate(self._slots) if slot is not None} or set(self._keyless)
        self._hops: dict[int, _Hop] = {}
        self._replicas = replicas
        self._turn = turn
        self._round = 0
        self._failures = Counter(dict.fromkeys(suspects, TRIES - 1))

    @property
    def done(self) -> bool:
        """Whether every command has its reply."""
        return not self._open

    def batches(self, slots: SlotMap, *, absent: Collection[Node] = ()) -> list[Batch]:
        """Return whom to ask what, all at once; masters that are `absent` are not asked."""
        self._round += 1
        self.map_wanted = self.pause_wanted = False
        self.map_told = None
        batches: dict[Stop, Batch] = {}
        for place in sorted(self._open):
            hop = self._hops.get(place)
            stop = Stop(hop.node) if hop else self._stop(self._slots[place], slots, absent)
            if place not in self._keyless and not stop.replica and stop.node in absent:
                self._refuse(place, stop.node)
                continue
            if stop not in batches:
                batches[stop] = self._batch(stop, moved=hop is not None and not hop.once)
            if place in self._keyless:
                continue
            if hop is not None and hop.once:
                batches[stop].add(("ASKING",), _NOBODY)
            batches[stop].add(self._commands[place], place)
        return [batches[stop] for stop in sorted(batches)]  # in one order, so that threads never wait in a circle

    def answered(self, batch: Batch, replies: Sequence[Any]) -> None:
        """Take in what a server answered.

        Raises:
            RedisError: it does not let us ask.
        """
        for place, reply in zip(batch.places, replies, strict=True):
            if place == _MAP:
                self.map_told = (reply, batch.stop.node) if isinstance(reply, list) else None
            elif place == _NOBODY:
                if isinstance(reply, Exception):
                    raise reply
            elif self._slots[place] is None:
                self._shared(place, reply)
            elif isinstance(reply, _ELSEWHERE) and self._round < HOPS:
                self._send_on(place, reply, batch.stop.node)
            else:
                self._open.discard(place)
                self.replies[place] = reply

    def unanswered(self, batch: Batch, error: Exception) -> None:
        """Take in that no answer came.

        Raises:
            Exception: the error, if nobody can be asked, or a login is refused.
        """
        node = batch.stop.node
        self._failures[node] += 1
        is_gone = not batch.stop.replica and self._failures[node] >= TRIES
        holds = [place for place in batch.places if place >= 0 and self._slots[place] is not None]
        if isinstance(error, _REFUSED) or (is_gone and not holds):
            raise error
        self.lost.add(node)
        for place in batch.places:
            self._hops.pop(place, None)
        if is_gone:
            self.gone.add(node)
            for place in holds:
                self._refuse(place, node)
        else:
            self.map_wanted = True

    def _refuse(self, place: int, node: Node) -> None:
        self._open.discard(place)
        self.replies[place] = exceptions.ResponseError(
            f"{node[0]}:{node[1]}, which holds the key, does not answer"
        )

    def _batch(self, stop: Stop, *, moved: bool) -> Batch:
        """Begin a batch: what has no key goes along, since a script may have to be loaded there."""
        batch = Batch(stop)
        if stop.replica:
            batch.add(("READONLY",), _NOBODY)
        if moved:
            batch.add(ASK_MAP, _MAP)
        for place in self._keyless:
            batch.add(self._commands[place], place)
        return batch

    def _stop(self, slot: int | None, slots: SlotMap, absent: Collection[Node]) -> Stop:
        shard = None if slot is None else slots.shard_of(slot)
        if shard is None:  # anybody can answer, or say that nobody serves the slot
            standing = [master for master in slots.masters if master not in self.lost and master not in absent]
            return Stop((standing or slots.masters)[0])
        replicas = [node for node in shard.replicas if node not in self.lost] if self._replicas else []
        return Stop(replicas[self._turn % len(replicas)], replica=True) if replicas else Stop(shard.master)

    def _shared(self, place: int, reply: Any) -> None:
        """Keep one reply of many to a command without a key: a refusal, if there is one."""
        self._open.discard(place)
        if not isinstance(self.replies[place], Exception):
            self.replies[place] = reply

    def _send_on(self, place: int, reply: Exception, asked: Node) -> None:
        """Decide where a command goes that its server did not carry out."""
        self._hops.pop(place, None)
        if isinstance(reply, exceptions.AskError):
            node = (reply.host or asked[0], int(reply.port))
            self._hops[place] = _Hop(node, once=not isinstance(reply, exceptions.MovedError))
        elif isinstance(reply, exceptions.TryAgainError):
            self.pause_wanted = True
        elif isinstance(reply, exceptions.MasterDownError):  # a replica that is cut off, and may not answer
            self.lost.add(asked)
        else:  # READONLY: the server is a master no more, and does not know yet whose replica it is
            self.map_wanted = True
