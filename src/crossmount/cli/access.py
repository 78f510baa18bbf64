"""From the common options to the library: the index they name, and how registries are reached."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import click

from crossmount.cli.settings import OFF, Settings
from crossmount.index import Keys, MountIndex, open_index
from crossmount.index.opening import DEFAULT_URL
from crossmount.redis.url import address_of
from crossmount.registry import ClientOptions, RetryPolicy

DEFAULT_NAMESPACE = Keys().namespace


def index_url(settings: Settings) -> str:
    """Return the URL of the index, or `off`; whatever else is made of it may rely on its grammar.

    Raises:
        InvalidIndexURLError: it names no index.
    """
    url = settings.index or DEFAULT_URL
    if url != OFF:
        address_of(url)
    return url


def client_options(settings: Settings, *, patient: bool = True) -> ClientOptions:
    """Return how registries are reached.

    Args:
        settings: the common options.
        patient: wait and try again, as a push does; otherwise a few seconds and one attempt must do.
    """
    if not patient:
        return replace(
            client_options(settings),
            connect_timeout=5.0,
            read_timeout=10.0,
            retry=RetryPolicy(attempts=1, outage=0.0),
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
    """Open the index for a push, or give None if it is off; nothing connects yet, and a push goes on without it.

    Raises:
        InvalidInputError: its URL, or the namespace, breaks the grammar.
    """
    if index_url(settings) == OFF:
        yield None
        return
    async with opened_index(settings) as index:
        yield index
