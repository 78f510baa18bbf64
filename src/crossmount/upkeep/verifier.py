"""Asking registries whether repositories still hold layers. Nothing is decided here but what an answer means."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from crossmount.errors import (
    AccessDeniedError,
    CrossmountError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.events import Verdict
from crossmount.mount.standing import Standing, standing_of
from crossmount.oci import Digest, Repository
from crossmount.registry import RegistryClient

T = TypeVar("T")

FAILURES_MAX = 10
"""After so many answers in a row that were none a registry is left alone."""

CLIENTS_MAX = 64
"""How many registries are kept in hand."""

_REMEMBERED_MAX = 100_000

_VERDICTS: dict[Standing, Verdict] = {
    Standing.HELD: "held",
    Standing.GONE: "gone",
    Standing.UNSEEN: "unseen",
}


class Verifier:
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def verify(self, layer: Digest, source: Repository) -> tuple[Verdict, str]:
        """Ask whether `source` holds `layer`.

        Returns:
            What the registry says, and the cause if it does not.
        """
        registry = source.registry
        if registry in self.lost:
            return "unreachable", self.lost[registry]
        asked = self._of(registry)
        if source in asked.denied:
            return "denied", asked.denied[source]
        try:
            standing = await standing_of(asked.client, layer, source, is_readable=asked.is_readable)
        except (
            AccessDeniedError
        ) as error:  # rights are the repository's, so its other layers need not be asked for
            asked.in_a_row = 0
            asked.remember(asked.denied, source, str(error))
            return "denied", str(error)
        except RegistryUnreachableError as error:
            self.lost.setdefault(registry, str(error))
            return "unreachable", str(error)
        except CrossmountError as error:
            asked.in_a_row += 1
            hasty = isinstance(error, RegistryRefusedError) and error.status == 429
            if hasty or asked.in_a_row >= FAILURES_MAX:
                self.lost.setdefault(registry, str(error))
            return "failed", str(error)
        asked.in_a_row = 0
        return _VERDICTS[standing], ""

    async def tidy(self) -> None:
        """Let go of clients if there are many; none may be in use."""
        if len(self._asked) > CLIENTS_MAX:
            await self._stack.aclose()
            self._asked.clear()

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
