"""The time of an answer reveals nothing about other callers' private repositories.

A repository is tried as a source before the answer only if this caller was seen to read it (`Agent.readable`).
With any other source the answer must take as long as for a blob that nobody has:

- At the start of a caller's push into a repository, once an hour, unknown sources are tried too, and every "no" is
  given equally long after its question, also for a blob that nobody has. A mount is answered at once, so a new
  caller mounts what it can. This ends when the push has waited half a second for such answers (`_WAITED_SECONDS`),
  after `OPEN_QUESTIONS` questions, or after `OPEN_SECONDS`, whatever was asked.
- After that, no answer waits for unknown sources. They are tried after it, at a random moment. If the mount
  succeeds, the client's next request finds the blob, and the source counts as readable from then on.

The price: a first push takes half a second longer, however many layers are new, and the HEAD for the first layer
from a repository that the caller never read is answered before the mount if it comes after that. Once a caller has
sent all bytes of a blob, every source is tried: the caller learns at most that somebody else has pushed the same
bytes.

Where the registry has never asked for credentials, and in service mode, where all callers act with one account's
rights, nothing is private.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from crossmount._dataclass import dataclass
from crossmount.errors import CrossmountError
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.callers import Agent, Caller

OPEN_SECONDS = 10.0
OPEN_QUESTIONS = 64
OPEN_AGAIN_SECONDS = 3600.0
PAD_SECONDS = (0.04, 2.0)
"""The least and the most time of a padded answer."""

PAD_ROUND_TRIPS = 10.0
_WAITED_SECONDS = 0.5
_WAITED_PADS = 2.0
"""How long a push waits for padded answers altogether: the longer of so many seconds and so many answers."""

LATER_SECONDS = (0.2, 1.5)
"""The random moment after an answer at which unknown sources are tried."""

LATER_MAX = 64
"""The most sources that are tried after answers at once."""

_DESTS_MAX = 1024

T = TypeVar("T")


@dataclass(slots=True)
class _Opening:
    """The start of a caller's push into one repository, while unknown sources are tried before the answer.

    Attributes:
        since: when it began.
        questions: how many blobs were asked for.
        waited: seconds that the push has waited for padded answers.
        until: when the last of these answers is given.
    """

    since: float
    questions: int = 0
    waited: float = 0.0
    until: float = 0.0

    def answer_at(self, now: float, pad: float) -> float | None:
        """Count a question; return when a "no" to it is given, None for at once. Simultaneous waits count once.

        Args:
            now: when the question came.
            pad: seconds between the question and a padded answer.
        """
        self.questions += 1
        has_waited_enough = self.waited >= max(_WAITED_SECONDS, _WAITED_PADS * pad)
        if has_waited_enough or now - self.since >= OPEN_SECONDS or self.questions > OPEN_QUESTIONS:
            return None
        self.waited += max(0.0, now + pad - max(now, self.until))
        self.until = max(now + pad, self.until)
        return now + pad


class SourcePrivacy:
    """Decides which sources may be tried before an answer, and when the answer may be given.

    Args:
        round_trip: seconds of a usual request to the registry.
        clock: seconds, from any start.
        rng: chooses the moments at which sources are tried after an answer.
    """

    def __init__(
        self,
        *,
        round_trip: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._round_trip = round_trip
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 moments, not secrets
        self._openings: WeakKeyDictionary[Agent, OrderedDict[str, _Opening]] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def aclose(self) -> None:
        """Cancel the tasks that still wait or run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hides_nothing(self, caller: Caller, agent: Agent) -> bool:
        """Return whether no repository is private as far as this caller is concerned."""
        return caller.authorize is not None or (caller.is_anonymous and not agent.client.was_challenged)

    def answer_at(self, agent: Agent, dest: Repository) -> float | None:
        """Count a question; return when a "no" to it is given, None for at once, without any unknown source."""
        now, dests = self._clock(), self._openings.setdefault(agent, OrderedDict())
        opening = dests.get(dest.name)
        if opening is None or now - opening.since >= OPEN_AGAIN_SECONDS:
            opening = dests[dest.name] = _Opening(now)
            if len(dests) > _DESTS_MAX:
                dests.popitem(last=False)
        return opening.answer_at(now, self._pad)

    def padded(self) -> float:
        """Return when to answer a question of now, so that the answer's time reveals nothing."""
        return self._clock() + self._pad

    @property
    def _pad(self) -> float:
        least, most = PAD_SECONDS
        return min(most, max(least, PAD_ROUND_TRIPS * self._round_trip()))

    async def wait_until(self, answer_at: float | None) -> None:
        """Wait until an answer may be given."""
        if answer_at is not None:
            await asyncio.sleep(max(0.0, answer_at - self._clock()))

    async def result_by(self, task: "asyncio.Task[T]", answer_at: float) -> T | None:
        """Return a task's result if it has one in time; None otherwise, and the task goes on."""
        await asyncio.wait({task}, timeout=max(0.0, answer_at - self._clock()))
        return task.result() if task.done() and not task.cancelled() else None

    def start(self, work: Coroutine[Any, Any, T], *, later: bool) -> "asyncio.Task[T] | None":
        """Start a task, now or at a random moment soon; None if there are too many."""
        if len(self._tasks) >= LATER_MAX:
            work.close()
            return None
        delay = self._rng.uniform(*LATER_SECONDS) if later else 0.0

        async def delayed() -> T:
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                work.close()
                raise
            return await work

        task = asyncio.create_task(delayed())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def can_read(
        self,
        caller: Caller,
        agent: Agent,
        dest: Repository,
        source: Repository,
        digest: Digest,
        *,
        answer_at: float | None,
    ) -> bool:
        """Return whether an agent may read a repository, if that is known or found out before `answer_at`."""
        if source.name in agent.readable:
            return True
        if self.hides_nothing(caller, agent):
            return await self.find_out(agent, dest, source, digest)
        task = self.start(self.find_out(agent, dest, source, digest), later=answer_at is None)
        if task is None or answer_at is None:
            return False
        return await self.result_by(task, answer_at) is True

    def accepts(self, agent: Agent, dest: Repository, digest: Digest, name: str) -> bool:
        """Return whether an upload into a repository is worth waiting for.

        An unknown repository is, until the registry has said that the caller may not read it.
        """
        if name == dest.name or name in agent.readable:
            return True
        if name in agent.unreadable:
            return False
        if name not in agent.asked:
            agent.asked.add(name)
            self.start(self.find_out(agent, dest, dest.sibling(name), digest), later=False)
        return True

    async def find_out(self, agent: Agent, dest: Repository, source: Repository, digest: Digest) -> bool:
        """Ask the registry whether a caller may read a repository, and remember it."""
        readable = await may_read(agent, dest, source, digest)
        (agent.readable if readable else agent.unreadable).add(source.name)
        return readable


async def may_read(agent: Agent, dest: Repository, source: Repository, digest: Digest) -> bool:
    """Return whether a caller may certainly read a repository; a registry may answer 404 to hide one.

    In doubt the answer is no: the client gets the registry's own answer, and uploads.
    """
    try:
        if source in (await agent.client.prepare(dest, [source])).refused:
            return False
        if await agent.client.head_blob(source, digest) is not None:
            return True
        await agent.client.ping()  # until a first request the registry has not asked for credentials
        return await agent.client.is_readable(source)
    except CrossmountError:
        return False
