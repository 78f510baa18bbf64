"""The scopes of the sources of mounts: in which tokens they are requested, and which were refused.

A token for a mount needs two scopes: to push to the destination, and to pull from the source. The sources of a
push are announced first, so that few tokens cover all of them. A realm may refuse a token as a whole because of
one scope; `halving` finds out which one, without I/O.
"""

import asyncio
import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import field
from urllib.parse import quote

from crossmount._dataclass import dataclass
from crossmount._expiring import ExpiringSet
from crossmount.registry.auth.scope import Scope, Wanted

REQUESTS_MAX = 24
"""The most requests for tokens that one push spends on finding out which sources are refused."""

Group = tuple[Scope, ...]


@dataclass(frozen=True, slots=True)
class Halved:
    """The result.

    Attributes:
        granted: scopes that a token was given for.
        refused: scopes that were refused on their own.
        unasked: scopes about which the requests did not suffice to find out.
    """

    granted: Group = ()
    refused: Group = ()
    unasked: Group = ()


def halving(
    scopes: Sequence[Scope], *, singly: bool = False, limit: int = REQUESTS_MAX
) -> Generator[tuple[Group, ...], tuple[bool | None, ...], Halved]:
    """Find the refused ones among scopes for which a token was refused as a whole.

    A refused group is halved until the refused scope is known, which takes about 2·log2(n) requests for each
    refused scope of n.

    Args:
        scopes: the group that was refused.
        singly: ask for each scope on its own, because many are expected to be refused; there was no request for
            the whole group.
        limit: the most requests.

    Yields:
        Groups to request a token for, all at once; the caller sends for each group whether it was granted (None:
        the realm did not say).
    """
    granted: list[Scope] = []
    refused: list[Scope] = []
    unasked: list[Scope] = []
    groups: list[Group] = [(scope,) for scope in scopes] if singly else _halves(tuple(scopes), refused)
    while groups:
        asked, late = groups[: max(0, limit)], groups[max(0, limit) :]
        for group in late:
            unasked += group
        groups = []
        if not asked:
            break
        limit -= len(asked)
        for group, answer in zip(asked, (yield tuple(asked)), strict=True):
            if answer is None:
                unasked += group
            elif answer:
                granted += group
            else:
                groups += _halves(group, refused)
    return Halved(tuple(granted), tuple(refused), tuple(unasked))


def _halves(group: Group, refused: list[Scope]) -> list[Group]:
    """Return the halves of a refused group; a single scope is noted as refused."""
    if len(group) <= 1:
        refused += group
        return []
    middle = len(group) // 2
    return [group[:middle], group[middle:]]


_SCOPES_LENGTH = 1200
"""The characters for the scopes of sources in a URL of at most 2 kB, beside realm, service and destination."""

_DENIED_SECONDS = 3600.0
_PROBES_MAX = 2
_PROBE_SECONDS = 10.0


@dataclass(slots=True)
class _Announced:
    """The sources of the mounts into one repository.

    Attributes:
        batches: the sources that one token is requested for, by batch.
        replacements: sources that took the place of refused ones; many of them are expected to be refused too.
        unasked: sources for which no more requests were left.
        requests_left: how many more requests may be spent on finding out which sources are refused.
    """

    batches: list[Group] = field(default_factory=list)
    replacements: set[Scope] = field(default_factory=set)
    unasked: set[Scope] = field(default_factory=set)
    requests_left: int = REQUESTS_MAX


class MountScopes:
    """What is known about the scopes of sources.

    Args:
        clock: seconds, from any start.

    Attributes:
        one_source: whether a token covers one source only, whatever was requested; None if that is not known.
        refuses_whole: whether one refused scope refuses the token.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.one_source: bool | None = None
        self.refuses_whole = False
        self._announced: dict[str, _Announced] = {}
        self._denied: ExpiringSet[tuple[str, Scope]] = ExpiringSet(_DENIED_SECONDS, clock=clock)
        self._probed: set[Scope] = set()
        self._probing: asyncio.Event | None = None

    def announce(self, dest: str, sources: Sequence[Scope], *, more: bool = False) -> None:
        """Set the sources of the mounts into a repository, or with `more` add to them."""
        known = self._announced.get(dest)
        if known is None or not more:
            known = self._announced[dest] = _Announced()
        known.batches += batches(sources)
        if more:
            known.replacements.update(sources)

    def batches(self, dest: str) -> list[Group]:
        """Return the groups of sources to request a token for, at least one group."""
        announced = self._announced.get(dest)
        groups = [] if announced is None else [self._usable(dest, group) for group in announced.batches]
        groups = [group for group in groups if group]
        return groups[:1] or [()] if self.one_source else groups or [()]

    def widened(self, wanted: Wanted) -> Wanted:
        """Return `wanted` with the announced sources of the same batch, so that one token covers all of them."""
        names = {scope.name for scope in wanted.needed if scope.kind == "repository"}
        for dest, announced in self._announced.items():
            for_source = not names.isdisjoint(scope.name for group in announced.batches for scope in group)
            if dest in names or for_source:
                batch = self._batch(dest, announced, {scope.name for scope in wanted.optional} or names)
                return wanted | Wanted((Scope("repository", dest, ("pull", "push")),), batch)
        return wanted

    def _batch(self, dest: str, announced: _Announced, names: set[str]) -> Group:
        if self.one_source:
            return ()
        containing = (group for group in announced.batches if any(scope.name in names for scope in group))
        first: Group = announced.batches[0] if announced.batches and dest in names else ()
        return self._usable(dest, next(containing, first))

    def _usable(self, dest: str, group: Group) -> Group:
        return tuple(scope for scope in group if scope not in self.unusable(dest))

    def dest_of(self, wanted: Wanted) -> str:
        """Return the repository that a token allows to push to, "" if there is none."""
        return next((scope.name for scope in wanted.needed if "push" in scope.actions), "")

    def ask_singly(self, dest: str, group: Iterable[Scope]) -> bool:
        """Return whether to ask for each source of a group on its own."""
        announced = self._announced.get(dest)
        return self.refuses_whole and announced is not None and announced.replacements.issuperset(group)

    def requests_left(self, dest: str) -> int:
        """Return how many more requests may be spent on finding out which sources are refused."""
        announced = self._announced.get(dest)
        return REQUESTS_MAX if announced is None else announced.requests_left

    def spend(self, dest: str, requests: int) -> None:
        """Count requests that were spent on finding that out."""
        if dest in self._announced:
            self._announced[dest].requests_left -= requests

    def deny(self, dest: str, scopes: Iterable[Scope]) -> None:
        """Remember for some time that no token allows to mount from these sources into `dest`."""
        scopes = tuple(scopes)
        if not self._probed.isdisjoint(scopes):
            self._end_probe()
        for scope in scopes:
            self._denied.add((dest, scope))

    def leave_unasked(self, dest: str, scopes: Iterable[Scope]) -> None:
        """Note sources for which no requests were left."""
        if dest in self._announced:
            self._announced[dest].unasked.update(scopes)

    def denied(self, dest: str) -> frozenset[Scope]:
        """Return the sources of mounts into `dest` that were refused."""
        return frozenset(scope for name, scope in self._denied if name == dest)

    def unusable(self, dest: str) -> frozenset[Scope]:
        """Return the sources that were refused, and those for which no requests were left."""
        announced = self._announced.get(dest)
        return self.denied(dest) | (frozenset() if announced is None else announced.unasked)

    def may_probe(self, source: Scope) -> bool:
        """Return whether to request a token for `source` alone, after one for several did not allow it.

        Some realms honour only the first scope, or the first few. A realm that grants silently less looks the
        same, so this is tried for a few sources.
        """
        if self.one_source is not None or source in self._probed:
            return self.one_source is not False
        if len(self._probed) == _PROBES_MAX:
            return False
        self._probed.add(source)
        return True

    async def probe(self, source: Scope) -> bool:
        """Do the same for a mount that was refused, and wait while another mount finds out."""
        while self.one_source is None and self._probing is not None and source not in self._probed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_SECONDS):
                    await self._probing.wait()
                    continue
            self._probing = None
        if self.one_source is None and source not in self._probed and len(self._probed) < _PROBES_MAX:
            self._probing = asyncio.Event()
        return self.may_probe(source)

    def _end_probe(self) -> None:
        if self._probing is not None:
            self._probing.set()
            self._probing = None

    def note_mountable(self, source: Scope, *, sources: Group) -> None:
        """Note that a token that was requested for `sources` allowed a mount from one of them."""
        if sources == (source,) and source in self._probed:
            self.one_source = True
            self._end_probe()
        elif len(sources) > 1 and sources[0] != source:
            self.one_source = False


def batches(sources: Sequence[Scope]) -> list[Group]:
    """Split sources into the groups that one request for a token can name."""
    groups: list[list[Scope]] = []
    room = 0
    for source in dict.fromkeys(sources):
        length = len("&scope=") + len(quote(str(source), safe=""))
        if not groups or length > room:
            groups.append([])
            room = _SCOPES_LENGTH
        groups[-1].append(source)
        room -= length
    return [tuple(group) for group in groups]
