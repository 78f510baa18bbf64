"""The leases on the index's server: one script for each operation, many leases in one round trip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossmount.errors import IndexFailedError
from crossmount.fleet.lease import VALUE_MAX, LeaseValue
from crossmount.fleet.patience import LEASE_SECONDS
from crossmount.fleet.waiting import (
    Claim,
    ClaimAnswer,
    IndexDown,
    LeaseAcquired,
    LeaseBusy,
    LeaseFree,
    SourcesFound,
)
from crossmount.index.backing_server import BackingServer
from crossmount.index.decode import repositories
from crossmount.index.redis_index import SOURCES_MAX
from crossmount.oci import Digest
from crossmount.redis.execute import Script, load_script, run_scripted
from crossmount.redis.replies import Command, StartingError

WAITING_SECONDS = 3.0
"""Seconds after its last call until a waiter is removed from the list of waiters."""

_PACKAGE = "crossmount.fleet.scripts"
_SCRIPTS = ("claim", "renew", "release", "show")


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease of this process, as far as this process knows.

    Attributes:
        value: the lease's text, which proves the ownership.
    """

    registry: str
    layer: Digest
    value: str


@dataclass(frozen=True, slots=True)
class ClaimAnswers:
    """The answers to many claims.

    Attributes:
        answers: one for each claim, in order.
        refusal: the first error that the server returned for a claim, if any.
    """

    answers: list[ClaimAnswer]
    refusal: IndexFailedError | None = None


class LeaseStore:
    """The leases of one namespace on one server.

    Args:
        server: the index's server.
        life: seconds until a lease expires after its last renewal.
    """

    def __init__(self, server: BackingServer, *, life: float = LEASE_SECONDS) -> None:
        self._link = server.link
        self._keys = server.keys
        self._life = round(life * 1000)

    async def claim(self, claims: Sequence[Claim]) -> ClaimAnswers:
        """Send claims for many layers in one round trip.

        Raises:
            IndexFailedError: the server did not answer, or refused all commands.
        """
        claim = _script("claim")
        replies = await self._run(
            [
                claim.call(
                    (
                        self._keys.sources(asked.waiter.layer, asked.waiter.dest.registry),
                        *self._pair(asked.waiter.dest.registry, asked.waiter.layer),
                    ),
                    "1" if asked.take else "",
                    asked.waiter.value,
                    self._life,
                    round(WAITING_SECONDS * 1000),
                    SOURCES_MAX,
                    *asked.waiter.excluded,
                    *asked.waiter.invalid_names,
                )
                for asked in claims
            ]
        )
        for reply in replies:
            if isinstance(reply, StartingError):
                raise reply  # the caller sends all claims again; leases that were acquired stay ours
        return ClaimAnswers(
            [_answer(reply, asked) for reply, asked in zip(replies, claims, strict=True)],
            next((reply for reply in replies if isinstance(reply, IndexFailedError)), None),
        )

    async def show_waiters(self, waiting: Mapping[tuple[str, Digest], Sequence[str]]) -> None:
        """Update the waiters of this process, by registry and layer, in one round trip.

        Raises:
            IndexFailedError: the server did not answer, or refused all commands.
        """
        show, patience = _script("show"), round(WAITING_SECONDS * 1000)
        await self._run(
            [
                show.call((self._keys.waiters(layer, registry),), patience, *values)
                for (registry, layer), values in waiting.items()
            ]
        )

    async def read(self, layer: Digest, registry: str) -> LeaseValue | None:
        """Return the lease of a layer on a registry; None if there is none, or none of ours.

        Raises:
            IndexFailedError: the server did not answer, or refused the command.
        """
        (text,) = await self._link.run([("GETRANGE", self._keys.lease(layer, registry), 0, VALUE_MAX - 1)])
        if isinstance(text, IndexFailedError):
            raise text
        return LeaseValue.from_text(text, registry) if isinstance(text, bytes) and text else None

    async def renew(self, leases: Sequence[Lease]) -> list[bool]:
        """Extend leases in one round trip; return for each whether it is still ours.

        Raises:
            IndexFailedError: the server did not answer, or refused all commands.
        """
        renew = _script("renew")
        replies = await self._run(
            [
                renew.call((self._keys.lease(lease.layer, lease.registry),), lease.value, self._life)
                for lease in leases
            ]
        )
        return [reply != 0 for reply in replies]  # an error does not mean that another holds the lease

    async def release(self, leases: Sequence[Lease]) -> bool:
        """Delete our leases and waiter entries in one round trip; return whether no command failed.

        Raises:
            IndexFailedError: the server did not answer, or refused all commands.
        """
        release = _script("release")
        replies = await self._run(
            [release.call(self._pair(lease.registry, lease.layer), lease.value) for lease in leases]
        )
        return not any(isinstance(reply, IndexFailedError) for reply in replies)

    def _pair(self, registry: str, layer: Digest) -> tuple[str, str]:
        return self._keys.lease(layer, registry), self._keys.waiters(layer, registry)

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        return await run_scripted(self._link, commands, [_script(name) for name in _SCRIPTS])


def _script(name: str) -> Script:
    return load_script(name, _PACKAGE)


def _answer(reply: Any, claim: Claim) -> ClaimAnswer:
    match reply:
        case [b"sources", *members] if all(isinstance(member, bytes) for member in members):
            names = {found.name for found in repositories(members, claim.waiter.dest.registry)}
            invalid_names = (member for member in members if member.decode("ascii", "replace") not in names)
            return SourcesFound(frozenset(names), frozenset(invalid_names))
        case [b"acquired"]:
            return LeaseAcquired()
        case [b"busy", bytes(value)]:
            holder = LeaseValue.from_text(value, claim.waiter.dest.registry)
            return LeaseBusy(None if holder is None or holder.dest is None else holder.dest.name)
        case [b"free"]:
            return LeaseFree()
    return IndexDown()
