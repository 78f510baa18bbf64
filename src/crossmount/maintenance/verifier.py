"""Asking registries whether repositories still hold layers. Nothing is decided here but what an answer means."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from crossmount._closing import Closing
from crossmount.errors import (
    AccessDeniedError,
    CrossmountError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.events import Verdict
from crossmount.mount.presence import Presence, check_presence
from crossmount.oci import Digest, Repository
from crossmount.registry import RegistryClient

T = TypeVar("T")

FAILURES_MAX = 10
"""After so many answers in a row that were none a registry is left alone."""

CLIENTS_MAX = 64
"""How many registries are kept in hand."""

_REMEMBERED_MAX = 100_000

_VERDICTS: dict[Presence, Verdict] = {
    Presence.PRESENT: "held",
    Presence.GONE: "gone",
    Presence.HIDDEN: "unseen",
}


class Verifier(Closing):
    """Asks registries, each with a client of its own, and leaves those alone that do not answer.

    Args:
        connect: makes the client of a registry.

    Attributes:
        lost: registries that are left alone, and why.
    """

    def __init__(self, connect: Callable[[str], RegistryClient]) -> None:
        self._connect = connect
        self._asked: dict[str, _Asked] = {}
        self._stack = AsyncExitStack()
        self.lost: dict[str, str] = {}

    async def aclose(self) -> None:
        """Close all clients."""
        await self._stack.aclose()

    async def verify(self, layer: Digest, source: Repository) -> tuple[Verdict, str]:
        """Ask whether `source` holds `layer`.

        Returns:
            What the registry says, and the cause if it does not.
        """
        asked = self._of(source.registry)
        if source in asked.denied:
            return "denied", asked.denied[source]
        if not await self._greeted(asked):
            return "unreachable", self.lost[source.registry]
        try:
            standing = await check_presence(asked.client, layer, source, is_readable=asked.is_readable)
        except AccessDeniedError as error:
            # rights are the repository's, so its other layers need not be asked for
            verdict: Verdict = "denied"
            cause = str(error)
            asked.remember(asked.denied, source, cause)
        except CrossmountError as error:
            return self._failed(asked, error), str(error)
        else:
            verdict, cause = _VERDICTS[standing], ""
        asked.in_a_row = 0
        return verdict, cause

    def _failed(self, asked: "_Asked", error: CrossmountError) -> Verdict:
        """Take in that a registry did not say, and leave it alone if there is no use in asking more."""
        asked.in_a_row += 1
        is_gone = isinstance(error, RegistryUnreachableError)
        hasty = isinstance(error, RegistryRefusedError) and error.status == 429
        if is_gone or hasty or asked.in_a_row >= FAILURES_MAX:
            self.lost.setdefault(asked.client.registry, str(error))
        return "unreachable" if is_gone else "failed"

    async def answers(self, registry: str) -> bool:
        """Tell whether a registry still answers as one, so that the 404s just before were its own words.

        What stands before a registry that is down says 404 as well.
        """
        asked = self._of(registry)
        asked.greeted = False
        return await self._greeted(asked)

    async def tidy(self) -> None:
        """Let go of clients if there are many; none may be in use."""
        if len(self._asked) > CLIENTS_MAX:
            await self._stack.aclose()
            self._asked.clear()

    async def _greeted(self, asked: "_Asked") -> bool:
        """Greet a registry once: is it one, and does it ask for credentials, as those do that hide things?"""
        async with asked.greeting:
            if not asked.greeted and asked.client.registry not in self.lost:
                try:
                    await asked.client.ping()
                except CrossmountError as error:
                    self.lost[asked.client.registry] = str(error)
                asked.greeted = True
        return asked.client.registry not in self.lost

    def _of(self, registry: str) -> "_Asked":
        if registry not in self._asked:
            client = self._connect(registry)
            self._stack.push_async_callback(client.aclose)
            self._asked[registry] = _Asked(client)
        return self._asked[registry]


@dataclass(slots=True)
class _Asked:
    """One registry, and what was learnt of its repositories."""

    client: RegistryClient
    greeted: bool = False
    greeting: asyncio.Lock = field(default_factory=asyncio.Lock)
    in_a_row: int = 0
    denied: dict[Repository, str] = field(default_factory=dict)
    readable: dict[Repository, bool] = field(default_factory=dict)

    async def is_readable(self, repository: Repository) -> bool:
        """Tell whether a 404 in a repository means what it says; asked once for each."""
        if repository not in self.readable:
            self.remember(self.readable, repository, await self.client.is_readable(repository))
        return self.readable[repository]

    def remember(self, known: dict[Repository, T], repository: Repository, value: T) -> None:
        """Keep in mind what is true of a repository, and forget all of it before it becomes too much."""
        if len(known) >= _REMEMBERED_MAX:
            known.clear()
        known[repository] = value
