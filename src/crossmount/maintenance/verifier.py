"""Verifies by HEAD whether repositories still have layers, and what each answer is worth."""

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
"""A registry is not asked again after this many failures in a row."""

CLIENTS_MAX = 64
"""The largest number of registries with an open client."""

_REMEMBERED_MAX = 100_000

_VERDICTS: dict[Presence, Verdict] = {
    Presence.PRESENT: "held",
    Presence.GONE: "gone",
    Presence.HIDDEN: "unseen",
}


class Verifier(Closing):
    """Asks each registry through a client of its own, and stops asking one that does not answer.

    Args:
        connect: makes the client of a registry.

    Attributes:
        lost: registries that are not asked any more, and why.
    """

    def __init__(self, connect: Callable[[str], RegistryClient]) -> None:
        self._connect = connect
        self._asked: dict[str, _AskedRegistry] = {}
        self._stack = AsyncExitStack()
        self.lost: dict[str, str] = {}

    async def aclose(self) -> None:
        """Close all clients."""
        await self._stack.aclose()

    async def verify(self, layer: Digest, source: Repository) -> tuple[Verdict, str]:
        """Ask whether `source` has `layer`.

        Returns:
            The registry's verdict, and the cause if there is none.
        """
        asked = self._of(source.registry)
        if source in asked.denied:
            return "denied", asked.denied[source]
        if not await self._is_registry(asked):
            return "unreachable", self.lost[source.registry]
        try:
            standing = await check_presence(asked.client, layer, source, is_readable=asked.is_readable)
        except AccessDeniedError as error:
            # access rights are per repository, so its other layers need no request
            verdict: Verdict = "denied"
            cause = str(error)
            asked.remember(asked.denied, source, cause)
        except CrossmountError as error:
            return self._failed(asked, error), str(error)
        else:
            verdict, cause = _VERDICTS[standing], ""
        asked.in_a_row = 0
        return verdict, cause

    def _failed(self, asked: "_AskedRegistry", error: CrossmountError) -> Verdict:
        """Count a failure, and stop asking the registry if more requests are of no use."""
        asked.in_a_row += 1
        is_gone = isinstance(error, RegistryUnreachableError)
        hasty = isinstance(error, RegistryRefusedError) and error.status == 429
        if is_gone or hasty or asked.in_a_row >= FAILURES_MAX:
            self.lost.setdefault(asked.client.registry, str(error))
        return "unreachable" if is_gone else "failed"

    async def answers(self, registry: str) -> bool:
        """Return whether a registry still answers, so that its last 404 answers can be believed.

        A proxy in front of a registry that is down answers 404 too.
        """
        asked = self._of(registry)
        asked.greeted = False
        return await self._is_registry(asked)

    async def close_if_many(self) -> None:
        """Close all clients if there are many; none may be in use."""
        if len(self._asked) > CLIENTS_MAX:
            await self._stack.aclose()
            self._asked.clear()

    async def _is_registry(self, asked: "_AskedRegistry") -> bool:
        """Ping a registry once: is it one, and does it ask for credentials, as registries that hide things do?"""
        async with asked.greeting:
            if not asked.greeted and asked.client.registry not in self.lost:
                try:
                    await asked.client.ping()
                except CrossmountError as error:
                    self.lost[asked.client.registry] = str(error)
                asked.greeted = True
        return asked.client.registry not in self.lost

    def _of(self, registry: str) -> "_AskedRegistry":
        if registry not in self._asked:
            client = self._connect(registry)
            self._stack.push_async_callback(client.aclose)
            self._asked[registry] = _AskedRegistry(client)
        return self._asked[registry]


@dataclass(slots=True)
class _AskedRegistry:
    """One registry, and what was found out about its repositories."""

    client: RegistryClient
    greeted: bool = False
    greeting: asyncio.Lock = field(default_factory=asyncio.Lock)
    in_a_row: int = 0
    denied: dict[Repository, str] = field(default_factory=dict)
    readable: dict[Repository, bool] = field(default_factory=dict)

    async def is_readable(self, repository: Repository) -> bool:
        """Return whether a 404 of a repository means that the layer is gone; one request for each repository."""
        if repository not in self.readable:
            self.remember(self.readable, repository, await self.client.is_readable(repository))
        return self.readable[repository]

    def remember(self, known: dict[Repository, T], repository: Repository, value: T) -> None:
        """Store a fact about a repository; when there are too many, delete all of them first."""
        if len(known) >= _REMEMBERED_MAX:
            known.clear()
        known[repository] = value
