"""From the common options to the library: the index they name, and how registries are reached."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import click

from crossmount.cli.settings import OFF, Settings
from crossmount.errors import IndexUnavailableError, MissingExtraError
from crossmount.index import Keys, MountIndex, RedisMountIndex, open_index
from crossmount.index.link import Command, Link
from crossmount.index.opening import DEFAULT_URL
from crossmount.registry import ClientOptions, RetryPolicy

DEFAULT_NAMESPACE = Keys().namespace


def index_url(settings: Settings) -> str:
    """Return the URL of the index, or `off`."""
    return settings.index or DEFAULT_URL


def client_options(settings: Settings, *, patient: bool = True) -> ClientOptions:
    """Return how registries are reached.

    Args:
        settings: the common options.
        patient: wait and try again, as a push does; otherwise a few seconds and one attempt must do.
    """
    if not patient:
        return replace(
            client_options(settings), connect_timeout=5.0, read_timeout=10.0, retry=RetryPolicy(attempts=1)
        )
    return ClientOptions(
        plain_http=settings.plain_http,
        insecure=settings.insecure,
        ca_file=settings.ca_file,
        authfile=settings.authfile,
        trusted_realms=settings.trusted_realms,
    )


@asynccontextmanager
async def opened_index(settings: Settings) -> AsyncIterator[MountIndex]:
    """Open the index for a command that is about it; its errors are the command's.

    Raises:
        click.UsageError: it is off.
        InvalidInputError: its URL, or the namespace, breaks the grammar.
    """
    if index_url(settings) == OFF:
        raise click.UsageError("this needs an index, and it is off: give --index another value")
    index = open_index(index_url(settings), namespace=settings.namespace or DEFAULT_NAMESPACE)
    try:
        yield index
    finally:
        await index.aclose()


@asynccontextmanager
async def index_for_push(settings: Settings) -> AsyncIterator[MountIndex | None]:
    """Open the index for a push, or give None if it is off; whatever trouble it is, the push can go on without it.

    Raises:
        InvalidInputError: its URL, or the namespace, breaks the grammar.
    """
    if index_url(settings) == OFF:
        yield None
        return
    async with opened_index(settings) as index:
        if isinstance(index, RedisMountIndex):
            keys = Keys(settings.namespace or DEFAULT_NAMESPACE)
            yield RedisMountIndex(_Dispensable(index.link), keys=keys)
        else:
            yield index


class _Dispensable:
    """A link whose server may not even be installed: to a push that is an index that does not serve."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.where = link.where

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`."""
        try:
            return await self._link.run(commands)
        except MissingExtraError as error:
            raise IndexUnavailableError(str(error)) from error

    async def aclose(self) -> None:
        """Leave it to whoever opened the link."""
