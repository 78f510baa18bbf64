"""A cache of tokens: found by their scopes, fetched once for all waiting requests, dropped before they expire."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace

from crossmount._dataclass import dataclass
from crossmount._tasks import collect
from crossmount.registry.auth.flow import Token
from crossmount.registry.auth.scope import Scope, Wanted, covers

MARGIN_MAX = 15.0
"""The most seconds before its expiry that a token is dropped; for a short life it is a fifth of that life."""

_TOKENS_MAX = 512

_WORN_OUT = 2
"""After so many tokens in a row that were accepted and then refused, tokens are taken to be good for some uses."""

_WORN_OUT_SECONDS = 60.0
"""How long that is taken for true: then a token is used for any number of requests again."""

_WORN_OUT_KEPT = 64
"""The most refused tokens that are kept, so that answers which come later are still counted."""


@dataclass(slots=True)
class _CachedToken:
    token: Token
    until: float
    taken: int = 0
    accepted: int = 0


@dataclass(slots=True)
class _WornOut:
    """A token that was refused before it expired, and for how many requests it was accepted.

    A refusal is often quicker than the answers to the requests that the token was accepted for: they are counted
    when they come.
    """

    value: str
    accepted: int
    when: float


@dataclass(frozen=True, slots=True)
class _Fetch:
    wanted: Wanted
    task: asyncio.Task[Token]


class TokenCache:
    """Tokens by owner: the challenge and the credential that they were issued for.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cached: dict[Hashable, list[_CachedToken]] = {}
        self._fetches: dict[Hashable, list[_Fetch]] = {}
        self._worn_out: dict[Hashable, list[_WornOut]] = {}

    def find(self, owner: Hashable, wanted: Wanted) -> Token | None:
        """Return the newest cached token of `owner` that covers `wanted`, or None; it is used for one request."""
        now = self._clock()
        cached = [entry for entry in self._cached.get(owner, ()) if entry.until > now]
        self._cached[owner] = cached
        uses = self._uses(owner)
        for entry in reversed(cached):
            if entry.token.satisfies(wanted) and (uses is None or entry.taken < uses):
                entry.taken += 1
                return entry.token
        return None

    async def get(
        self,
        owner: Hashable,
        wanted: Wanted,
        fetch: Callable[[Wanted], Awaitable[Token]],
        *,
        widen: Callable[[Wanted], Wanted] | None = None,
    ) -> Token:
        """Return a token that covers `wanted`: from the cache, from a fetch in flight, or from a new fetch.

        A fetch goes on for the other callers if one of them is cancelled.

        Args:
            owner: the challenge and the credential.
            wanted: the scopes that are needed now.
            fetch: gets a new token.
            widen: adds scopes that others will need.
        """
        while (token := self.find(owner, wanted)) is None:
            flight = self._in_flight(owner, wanted)
            if flight is None:
                return await asyncio.shield(self._start(owner, widen(wanted) if widen else wanted, fetch))
            token = await asyncio.shield(flight.task)
            if self._uses(owner) is None and token.satisfies(wanted):
                return self.find(owner, wanted) or token
        return token

    def add(self, owner: Hashable, token: Token, *, taken: int = 0) -> None:
        """Keep a token until it expires.

        Args:
            owner: the challenge and the credential.
            token: the token.
            taken: how many requests use it already.
        """
        life = float("inf") if token.lifetime is None else token.lifetime
        until = self._clock() + life - min(MARGIN_MAX, life / 5)
        cached = self._cached.setdefault(owner, [])
        cached.append(_CachedToken(token, until, taken))
        del cached[:-_TOKENS_MAX]

    def note_accepted(self, owner: Hashable, value: str) -> None:
        """Count a request that a token was accepted for."""
        worn_out = (each for each in self._worn_out.get(owner, ()) if each.value == value)
        if (found := self._entry(owner, value) or next(worn_out, None)) is not None:
            found.accepted += 1

    def has_served(self, owner: Hashable, value: str) -> bool:
        """Return whether a token was accepted for any request, or is used by other requests at the same time.

        One that is dropped already was used by another request.
        """
        entry = self._entry(owner, value)
        return entry is None or entry.accepted > 0 or entry.taken > 1

    def narrow(self, owner: Hashable, value: str, lacking: Scope) -> None:
        """Note that a token does not allow a scope that it was requested with."""
        if (entry := self._entry(owner, value)) is not None:
            asked = tuple(scope for scope in entry.token.asked if scope != lacking)
            entry.token = replace(entry.token, asked=asked)

    def note_worn_out(self, owner: Hashable, value: str) -> None:
        """Note that a token was refused before it expired; some realms give tokens for a few requests."""
        entry = self._entry(owner, value)
        if entry is not None:
            worn_out = [*self._worn_out.get(owner, ()), _WornOut(value, entry.accepted, self._clock())]
            self._worn_out[owner] = worn_out[-_WORN_OUT_KEPT:]

    def _uses(self, owner: Hashable) -> int | None:
        """Return how many requests a token is good for, if the last ones were refused early; None: any number."""
        since = self._clock() - _WORN_OUT_SECONDS
        recent = [each.accepted for each in self._worn_out.get(owner, ()) if each.accepted and each.when > since]
        return max(recent[-_WORN_OUT:]) if len(recent) >= _WORN_OUT else None

    def _entry(self, owner: Hashable, value: str) -> _CachedToken | None:
        return next((entry for entry in self._cached.get(owner, ()) if entry.token.value == value), None)

    def drop(self, owner: Hashable, value: str, *, with_older: bool = False) -> None:
        """Drop a token that was refused; with `with_older` also the tokens that were issued before it."""
        cached = self._cached.get(owner, [])
        place = next((at for at, entry in enumerate(cached) if entry.token.value == value), None)
        if place is not None:
            self._cached[owner] = cached[place + 1 :] if with_older else cached[:place] + cached[place + 1 :]

    async def aclose(self) -> None:
        """Cancel the fetches in flight."""
        tasks = [flight.task for flights in self._fetches.values() for flight in flights]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _in_flight(self, owner: Hashable, wanted: Wanted) -> _Fetch | None:
        for flight in self._fetches.get(owner, ()):
            # A fetch that is done stays listed until its callback runs. To await it returns at once, and where its
            # token is taken, `get` would go round without letting the callback run.
            if not flight.task.done() and covers(flight.wanted.all, wanted.all):
                return flight
        return None

    def _start(
        self, owner: Hashable, wanted: Wanted, fetch: Callable[[Wanted], Awaitable[Token]]
    ) -> asyncio.Task[Token]:
        async def run() -> Token:
            token = await fetch(wanted)
            self.add(owner, token, taken=1)  # by the caller that started the fetch
            return token

        task = asyncio.create_task(run())
        flight = _Fetch(wanted, task)
        flights = self._fetches.setdefault(owner, [])
        flights.append(flight)

        def end(done: asyncio.Task[Token]) -> None:
            flights.remove(flight)
            collect(done)  # the waiting callers get it too

        task.add_done_callback(end)
        return task
