"""A cache of tokens: found by their scopes, fetched once for all waiting requests, dropped before they expire."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from crossmount.registry.auth.flow import Token
from crossmount.registry.auth.scope import Wanted, covers

MARGIN_MAX = 15.0
"""The most seconds before its expiry that a token is dropped; for a short life it is a fifth of that life."""

_TOKENS_MAX = 512


@dataclass(frozen=True, slots=True)
class _CachedToken:
    token: Token
    until: float


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

    def find(self, owner: Hashable, wanted: Wanted) -> Token | None:
        """Return the newest cached token of `owner` that covers `wanted`, or None."""
        now = self._clock()
        cached = [entry for entry in self._cached.get(owner, ()) if entry.until > now]
        self._cached[owner] = cached
        return next((entry.token for entry in reversed(cached) if entry.token.satisfies(wanted)), None)

    async def get(self, owner: Hashable, wanted: Wanted, fetch: Callable[[], Awaitable[Token]]) -> Token:
        """Return a token that covers `wanted`: from the cache, from a fetch in flight, or from a new fetch.

        A fetch goes on for the other callers if one of them is cancelled.
        """
        while (token := self.find(owner, wanted)) is None:
            flight = self._in_flight(owner, wanted)
            if flight is None:
                return await asyncio.shield(self._start(owner, wanted, fetch))
            token = await asyncio.shield(flight.task)
            if token.satisfies(wanted):
                return token
        return token

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
            if covers(flight.wanted.all, wanted.all):
                return flight
        return None

    def _start(
        self, owner: Hashable, wanted: Wanted, fetch: Callable[[], Awaitable[Token]]
    ) -> asyncio.Task[Token]:
        async def run() -> Token:
            token = await fetch()
            self._add(owner, token)
            return token

        task = asyncio.create_task(run())
        flight = _Fetch(wanted, task)
        flights = self._fetches.setdefault(owner, [])
        flights.append(flight)

        def end(done: asyncio.Task[Token]) -> None:
            flights.remove(flight)
            if not done.cancelled():
                done.exception()  # the waiting callers get it; without any, asyncio would report it as unhandled

        task.add_done_callback(end)
        return task

    def _add(self, owner: Hashable, token: Token) -> None:
        life = float("inf") if token.lifetime is None else token.lifetime
        until = self._clock() + life - min(MARGIN_MAX, life / 5)
        cached = self._cached.setdefault(owner, [])
        cached.append(_CachedToken(token, until))
        del cached[:-_TOKENS_MAX]
