"""Turns the common options into an open index and into options for registry clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import click

from crossmount.cli.settings import OFF, Settings
from crossmount.index import Keys, MountIndex, open_index
from crossmount.index.opening import DEFAULT_URL
from crossmount.redis.url import parse_url
from crossmount.registry import ClientOptions, RetryPolicy

DEFAULT_NAMESPACE = Keys().namespace


def index_url(settings: Settings) -> str:
    """Return the URL of the index, or `off`.

    Raises:
        InvalidIndexURLError: the URL breaks the grammar.
    """
    url = settings.index or DEFAULT_URL
    if url != OFF:
        parse_url(url)
    return url


def client_options(settings: Settings, *, patient: bool = True) -> ClientOptions:
    """Return the options for registry clients.

    Args:
        settings: the common options.
        patient: retry as a push does; otherwise one attempt of a few seconds.

    Raises:
        click.UsageError: a client certificate is given without its key, or a key without its certificate.
    """
    if not patient:
        return replace(
            client_options(settings),
            connect_timeout=5.0,
            read_timeout=10.0,
            retry=RetryPolicy(attempts=1, outage=0.0),
        )
    if (settings.cert_file is None) != (settings.key_file is None):
        given, lacks = ("--cert-file", "--key-file") if settings.cert_file else ("--key-file", "--cert-file")
        raise click.UsageError(f"{given} needs {lacks} too (one PEM file may be both)")
    return ClientOptions(
        plain_http=settings.plain_http,
        insecure=settings.insecure,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        authfile=settings.authfile,
        trusted_realms=settings.trusted_realms,
    )


@asynccontextmanager
async def opened_index(settings: Settings) -> AsyncIterator[MountIndex]:
    """Open the index for a command that cannot work without it. Errors of the index propagate.

    Raises:
        click.UsageError: the index is off.
        InvalidInputError: the URL or the namespace breaks the grammar.
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
    """Open the index for a push or a copy, which works without it; None if it is off. Nothing connects yet.

    Raises:
        InvalidInputError: the URL or the namespace breaks the grammar.
    """
    if index_url(settings) == OFF:
        yield None
        return
    async with opened_index(settings) as index:
        yield index
