"""Which of several scopes make a realm refuse a token as a whole: a pure generator of requests. No I/O."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from crossmount.registry.auth.scope import Scope

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
