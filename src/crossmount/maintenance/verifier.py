"""Verifies by HEAD whether repositories still have layers, and what each answer is worth."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import field
from typing import TypeVar

from crossmount._dataclass import dataclass
from crossmount._tasks import Closing
from crossmount.errors import (
    AccessDeniedError,
    CrossmountError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.events import Verdict
from crossmount.mount.findings import Presence, check_presence
from crossmount.oci import Digest, Repository
from crossmount.registry import RegistryClient

T = TypeVar("T")

FAILURES_MAX = 10
"""A registry gets no more requests after this many failures in a row."""

CLIENTS_MAX = 64
"""The largest number of registries with an open client."""

_REMEMBERED_MAX = 100_000

_VERDICTS: dict[Presence, Verdict] = {
    Presence.PRESENT: "held",
    Presence.GONE: "gone",
    Presence.HIDDEN: "unseen",
}


class Verifier(Closing):
    """Verifies sources with a client for each registry; one that does not answer gets no more requests.

    Args:
        connect: makes the client of a registry.

    Attributes:
        lost: registries that get no more requests, and why.
    """

    def __init__(self, connect: Callable[[str], RegistryClient]) -> None:
        self._connect = connect
        self._states: dict[str, _RegistryState] = {}
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
        state = self._of(source.registry)
        if source in state.denied:
            return "denied", state.denied[source]
        if not await self._is_registry(state):
            return "unreachable", self.lost[source.registry]
        try:
            presence = await check_presence(state.client, layer, source, is_readable=state.is_readable)
        except AccessDeniedError as error:
            # access rights are per repository, so its other layers need no request
            verdict: Verdict = "denied"
            cause = str(error)
            state.remember(state.denied, source, cause)
        except CrossmountError as error:
            return self._failed(state, error), str(error)
        else:
            verdict, cause = _VERDICTS[presence], ""
        state.in_a_row = 0
        return verdict, cause

    def _failed(self, state: "_RegistryState", error: CrossmountError) -> Verdict:
        """Count a failure, and stop asking the registry if more requests are of no use."""
        state.in_a_row += 1
        is_gone = isinstance(error, RegistryUnreachableError)
        hasty = isinstance(error, RegistryRefusedError) and error.status == 429
        if is_gone or hasty or state.in_a_row >= FAILURES_MAX:
            self.lost.setdefault(state.client.registry, str(error))
        return "unreachable" if is_gone else "failed"

    async def answers(self, registry: str) -> bool:
        """Return whether a registry still answers, so that its last 404 answers can be believed.

        A proxy in front of a registry that is down answers 404 too.
        """
        state = self._of(registry)
        state.pinged = False
        return await self._is_registry(state)

    async def close_if_many(self) -> None:
        """Close all clients if there are many; none may be in use."""
        if len(self._states) > CLIENTS_MAX:
            await self._stack.aclose()
            self._states.clear()

    async def _is_registry(self, state: "_RegistryState") -> bool:
        """Ping a registry once; return whether it answered as a registry."""
        async with state.ping_lock:
            if not state.pinged and state.client.registry not in self.lost:
                try:
                    await state.client.ping()
                except CrossmountError as error:
                    self.lost[state.client.registry] = str(error)
                state.pinged = True
        return state.client.registry not in self.lost

    def _of(self, registry: str) -> "_RegistryState":
        if registry not in self._states:
            client = self._connect(registry)
            self._stack.push_async_callback(client.aclose)
            self._states[registry] = _RegistryState(client)
        return self._states[registry]


@dataclass(slots=True)
class _RegistryState:
    """A registry: its client, and the results about its repositories."""

    client: RegistryClient
    pinged: bool = False
    ping_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
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
