"""The tokens in hand: found by what they allow, fetched once however many want one, and let go before they end."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from crossmount.registry.auth.flow import Token
from crossmount.registry.auth.scope import Wanted, covers

MARGIN_MAX = 15.0
"""How many seconds before its end a token counts as ended, at most; a fifth of a shorter life."""

_TOKENS_MAX = 512


@dataclass(frozen=True, slots=True)
class _Held:
    token: Token
    until: float


@dataclass(frozen=True, slots=True)
class _Flight:
    wanted: Wanted
    task: asyncio.Task[Token]


class TokenCache:
    """Tokens by who they were given to.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[Hashable, list[_Held]] = {}
        self._flights: dict[Hashable, list[_Flight]] = {}

    def find(self, owner: Hashable, wanted: Wanted) -> Token | None:
        """Return a token of `owner` that serves `wanted`, if one is in hand; of several, the newest."""
        now = self._clock()
        held = [entry for entry in self._held.get(owner, ()) if entry.until > now]
        self._held[owner] = held
        return next((entry.token for entry in reversed(held) if entry.token.satisfies(wanted)), None)

    async def get(self, owner: Hashable, wanted: Wanted, fetch: Callable[[], Awaitable[Token]]) -> Token:
        """Return a token that serves `wanted`: one in hand, one under way, or a new one.

        A caller that is cancelled does not take the fetch away from the others.
        """
        while (token := self.find(owner, wanted)) is None:
            flight = self._under_way(owner, wanted)
            if flight is None:
                return await asyncio.shield(self._take_off(owner, wanted, fetch))
            token = await asyncio.shield(flight.task)
            if token.satisfies(wanted):
                return token
        return token

    def drop(self, owner: Hashable, value: str, *, with_older: bool = False) -> None:
        """Forget a token that was not accepted; `with_older`, those that were given before it too."""
        held = self._held.get(owner, [])
        place = next((at for at, entry in enumerate(held) if entry.token.value == value), None)
        if place is not None:
            self._held[owner] = held[place + 1 :] if with_older else held[:place] + held[place + 1 :]

    async def aclose(self) -> None:
        """Give up what is under way."""
        tasks = [flight.task for flights in self._flights.values() for flight in flights]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _under_way(self, owner: Hashable, wanted: Wanted) -> _Flight | None:
        for flight in self._flights.get(owner, ()):
            if covers(flight.wanted.all, wanted.all):
                return flight
        return None

    def _take_off(
        self, owner: Hashable, wanted: Wanted, fetch: Callable[[], Awaitable[Token]]
    ) -> asyncio.Task[Token]:
        async def fly() -> Token:
            token = await fetch()
            self._keep(owner, token)
            return token

        task = asyncio.create_task(fly())
        flight = _Flight(wanted, task)
        flights = self._flights.setdefault(owner, [])
        flights.append(flight)

        def land(done: asyncio.Task[Token]) -> None:
            flights.remove(flight)
            if not done.cancelled():
                done.exception()  # whoever waited has it; nobody may be left to

        task.add_done_callback(land)
        return task

    def _keep(self, owner: Hashable, token: Token) -> None:
        life = float("inf") if token.lifetime is None else token.lifetime
        until = self._clock() + life - min(MARGIN_MAX, life / 5)
        held = self._held.setdefault(owner, [])
        held.append(_Held(token, until))
        del held[:-_TOKENS_MAX]
