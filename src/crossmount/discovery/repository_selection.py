"""The repositories to scan: those of the catalogue, or those that the caller named, that match the patterns."""

import fnmatch
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from crossmount.errors import InvalidAnswerError, InvalidInputError, RegistryError, RegistryRefusedError
from crossmount.oci import Repository
from crossmount.registry import RegistryClient
from crossmount.registry.credentials.authfiles import NO_CREDENTIALS

REPOSITORIES_MAX = 1_000_000
"""The largest number of repositories that one scan accepts."""

_NO_CATALOGUE = frozenset({400, 401, 403, 404, 405, 501})

T = TypeVar("T")


async def select_repositories(
    client: RegistryClient,
    where: Repository,
    given: Sequence[str] | None,
    patterns: Sequence[str],
    *,
    listed: Callable[[], None] = lambda: None,
) -> AsyncGenerator[Repository]:
    """Yield the repositories to scan.

    Args:
        client: the registry's client.
        where: any repository of the registry.
        given: names; None uses the catalogue.
        patterns: yield only names that match one of these, where `*` is any text; none yields all.
        listed: called for each name, also if it does not match.

    Raises:
        InvalidInputError: a name breaks the grammar, or there are more than `REPOSITORIES_MAX`.
        RegistryError: the registry does not list its repositories.
    """
    count = 0
    async with aclosing(_catalogue(client, where.registry) if given is None else _each(given)) as names:
        async for name in names:
            repository = Repository(where.registry, name, where.address)
            listed()
            if patterns and not any(fnmatch.fnmatchcase(repository.name, pattern) for pattern in patterns):
                continue
            count += 1
            if count > REPOSITORIES_MAX:
                raise InvalidInputError(
                    f"{where.registry}: more than {REPOSITORIES_MAX} repositories: scan them in parts"
                )
            yield repository


async def batches(items: AsyncIterator[T], size: int) -> AsyncGenerator[list[T]]:
    """Yield the items in lists of at most `size`."""
    batch: list[T] = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def _catalogue(client: RegistryClient, registry: str) -> AsyncGenerator[str]:
    try:
        async for name in client.catalog():
            yield name
    except InvalidAnswerError as error:
        raise InvalidAnswerError(_no_catalogue(registry, error)) from error
    except RegistryRefusedError as error:
        if error.status not in _NO_CATALOGUE:
            raise
        words = _no_catalogue(registry, error)
        raise type(error)(words, status=error.status, codes=error.codes).knowing(**error.facts) from error


def _no_catalogue(registry: str, error: RegistryError) -> str:
    words = str(error)
    why = words.partition(": ")[2] if "://" in words else words
    _, found, looked = why.partition(f"({NO_CREDENTIALS}")
    if found:
        return f"{registry} does not list its repositories ({NO_CREDENTIALS}{looked}"
    return f"{registry} does not list its repositories ({why}): name those to scan, as in {registry}/team/app"


async def _each(items: Sequence[str]) -> AsyncGenerator[str]:
    for item in items:
        yield item
