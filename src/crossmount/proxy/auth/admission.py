"""Which callers the registry has let in, how lately, and into which repositories.

The proxy acts for a caller only while the registry's last yes to this very Authorization is younger than a minute:
a password that was changed must not go on working because the proxy has tokens from before. A refusal ends that at
once, and drops what was stored for the caller.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from crossmount.registry.auth.challenge import Basic, Bearer, choose

READABLE_SECONDS = 3600.0
REFUSED_SECONDS = 60.0
_NAMES_MAX = 4096

ADMITTED_SECONDS = 60.0
"""How long a yes of the registry counts."""

ADMITTED_MAX = 16_384


class Admissions:
    """The registry's last yes to each Authorization, bounded. Only a yes takes room.

    Args:
        clock: seconds, from any start.
        seconds: how long a yes counts.
        limit: the most that are stored.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = ADMITTED_SECONDS,
        limit: int = ADMITTED_MAX,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._limit = limit
        self._since: OrderedDict[str, float] = OrderedDict()

    def add(self, proof: str) -> None:
        """Store a yes."""
        self._since[proof] = self._clock()
        self._since.move_to_end(proof)
        if len(self._since) > self._limit:
            self._since.popitem(last=False)

    def drop(self, proof: str) -> None:
        """Forget a yes."""
        self._since.pop(proof, None)

    def has(self, proof: str) -> bool:
        """Return whether there was a yes lately."""
        since = self._since.get(proof)
        return since is not None and self._clock() - since < self._seconds


@dataclass(frozen=True, slots=True)
class Admission:
    """What the registry said to one Authorization.

    Attributes:
        admissions: where that is stored.
        proof: a keyed hash of the Authorization.
        on_admitted: called at each yes.
        on_refused: called when the registry refuses the credentials.
    """

    admissions: Admissions
    proof: str = field(repr=False)
    on_admitted: Callable[[], None]
    on_refused: Callable[[], None]

    @property
    def is_recent(self) -> bool:
        """Whether the registry let the caller in within the last minute."""
        return self.admissions.has(self.proof)

    def observe(self, response: httpx.Response, *, scheme: str) -> None:
        """Learn from an answer to a request with this Authorization.

        Args:
            response: the registry's answer.
            scheme: the Authorization's scheme, in lower case.
        """
        if is_yes(response.status_code):
            self.admissions.add(self.proof)
            self.on_admitted()
        elif response.status_code in {401, 403}:
            self.admissions.drop(self.proof)
            if refuses_credentials(response, scheme=scheme):
                self.on_refused()


def is_yes(status: int) -> bool:
    """Return whether a registry gives this status only to a caller that it let in."""
    return 200 <= status < 400 or status in {404, 416}


def refuses_credentials(response: httpx.Response, *, scheme: str) -> bool:
    """Return whether a 401 or 403 concerns the credentials themselves.

    A token that lacks a scope is still good, and a registry that takes tokens alone says nothing of a password.
    """
    challenge = choose(response.headers.get_list("www-authenticate"))
    if isinstance(challenge, Bearer):
        return scheme == "bearer" and challenge.error != "insufficient_scope"
    return response.status_code == 403 or isinstance(challenge, Basic)


class RecentNames:
    """Names of repositories, each remembered for some seconds; bounded.

    Args:
        seconds: how long a name is remembered.
        clock: seconds, from any start.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, name: str) -> None:
        """Remember a name."""
        self._until[name] = self._clock() + self._seconds
        self._until.move_to_end(name)
        if len(self._until) > _NAMES_MAX:
            self._until.popitem(last=False)

    def has(self, name: str) -> bool:
        """Return whether a name is remembered."""
        return self._until.get(name, 0.0) > self._clock()
