"""The index and the registry clients that the common options name: opened, probed, and named for people."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

import click

from crossmount._dataclass import dataclass
from crossmount.cli.output import note
from crossmount.cli.settings import OFF, Settings
from crossmount.errors import IndexRefusedError, IndexUnavailableError
from crossmount.index import Keys, MountIndex, open_index
from crossmount.index.data_format import claim_format
from crossmount.index.opening import DEFAULT_URL
from crossmount.index.protocol import backing_server
from crossmount.oci import Digest
from crossmount.redis.url import parse_url
from crossmount.registry import ClientOptions, RetryPolicy

_log = logging.getLogger(__name__)

DEFAULT_NAMESPACE = Keys().namespace

_NO_CI = frozenset({"", "0", "false", "no", "off"})


def is_ci(environment: Mapping[str, str]) -> bool:
    """Return whether this is a CI job."""
    return environment.get("CI", "").lower() not in _NO_CI


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
    certificate, key = settings.client.get("cert_file"), settings.client.get("key_file")
    if (certificate is None) != (key is None):
        given, lacks = ("--cert-file", "--key-file") if certificate else ("--key-file", "--cert-file")
        raise click.UsageError(f"{given} needs {lacks} too (one PEM file may be both)")
    return ClientOptions(**settings.client)


def warn_if_alone(settings: Settings, warn: Callable[[str], object] | None = None) -> None:
    """Warn if this is a CI job and nobody chose an index: the embedded one starts empty on each runner.

    Args:
        settings: the common options.
        warn: takes the warning; None prints it.
    """
    if settings.index is None and is_ci(os.environ):
        words = (
            "this embedded index is shared with no other host: "
            "set CROSSMOUNT_INDEX (--index) to a Redis of all runners"
        )
        (warn or _print_warning)(words)


def _print_warning(words: str) -> None:
    note(f"crossmount: warning: {words}")


@asynccontextmanager
async def opened_index(settings: Settings, *, writes: bool = False) -> AsyncIterator[MountIndex]:
    """Open the index for a command that cannot work without it. Errors of the index propagate.

    Args:
        settings: the common options.
        writes: whether an operator's command writes, so that the format of the index is checked before.

    Raises:
        click.UsageError: the index is off.
        IndexRefusedError: the index is in a newer format, and `writes`.
        InvalidInputError: the URL or the namespace breaks the grammar.
    """
    if index_url(settings) == OFF:
        raise click.UsageError("this needs an index, and it is off: give --index another value")
    url, namespace = index_url(settings), settings.namespace or DEFAULT_NAMESPACE
    _log.debug("index: %s, namespace %s", display_url(url), namespace)
    index = open_index(
        url,
        namespace=namespace,
        same_registry=settings.same_registry,
    )
    try:
        if writes and (words := await claim_format(index)):
            note(f"crossmount: {words}")
        yield index
    finally:
        await index.aclose()
        if _is_of_a_job(settings, os.environ):
            from crossmount.embedded.lifecycle import stop_unused  # noqa: PLC0415 for such a job only

            with contextlib.suppress(IndexUnavailableError):  # the command's work is done
                await asyncio.to_thread(stop_unused)


def _is_of_a_job(settings: Settings, env: Mapping[str, str]) -> bool:
    """Return whether the embedded index is in a folder of this CI job: no server may outlive the job there."""
    return is_ci(env) and bool(env.get("CROSSMOUNT_STATE_DIR")) and index_kind(index_url(settings)) == "embedded"


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


PINGS = 5
"""How many round trips are measured; the result is their median."""

_LAYERS = [Digest.of(b"%d" % number) for number in range(16)]
"""Layers to look up as a push would. A server that forbids our namespace answers PING and refuses these; so does a
Cluster that is partly down. There are enough of them to reach every shard."""

Kind = Literal["embedded", "memory", "remote", "off"]


def index_kind(index: str) -> Kind:
    """Return the kind of index that a URL names, or `off`.

    Raises:
        InvalidIndexURLError: the URL breaks the grammar.
    """
    if index == OFF:
        return "off"
    topology = parse_url(index).topology
    return topology if topology in {"embedded", "memory"} else "remote"


def display_url(index: str) -> str:
    """Return the URL of an index without the parts that may be secret: user, password, parameters."""
    return parse_url(index).shown if index_kind(index) == "remote" else index


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProbe:
    """A server that answered.

    Attributes:
        server: its name and version.
        round_trip: the median round trip, in seconds.
    """

    server: str
    round_trip: float


async def probe_server(index: MountIndex, *, clock: Callable[[], float] = time.perf_counter) -> ServerProbe | None:
    """Measure the server of an index, and read from it as a push would. None if the index has no server.

    Raises:
        IndexFailedError: the server does not answer, or refuses a command.
    """
    server = backing_server(index)
    if server is None:
        return None
    (info,) = await server.link.run([("INFO", "server")])  # opens the connection
    times = []
    for _ in range(PINGS):
        started = clock()
        (reply,) = await server.link.run([("PING",)])
        if isinstance(reply, Exception):
            raise reply
        times.append(clock() - started)
    for reply in await server.link.run([("EXISTS", server.keys.flags(layer)) for layer in _LAYERS]):
        if isinstance(reply, Exception):
            raise reply
    for reply in await server.link.run([("INFO", "memory"), ("INFO", "replication")]):
        if isinstance(reply, dict) and (why := _why_read_only(reply)):
            raise IndexRefusedError(f"index at {server.link.where} takes no writes: {why}")
    return ServerProbe(server=_server(info), round_trip=sorted(times)[PINGS // 2])


def _why_read_only(info: Mapping[str, Any]) -> str:
    """Return why a server refuses writes, according to a part of its INFO; empty if it accepts them."""
    if info.get("role") == "slave":
        return "it is a read only replica"
    used, most = info.get("used_memory", 0), info.get("maxmemory", 0)
    if most and used >= most and info.get("maxmemory_policy") == "noeviction":
        return "it uses all of its maxmemory, and its policy is noeviction"
    return ""


def _server(info: object) -> str:
    """Return the name and version from a reply to INFO, which an ACL may forbid."""
    fields = info if isinstance(info, dict) else {}
    version = fields.get("valkey_version") or fields.get("redis_version")
    if not version:
        return "a server of unknown kind"
    return f"{fields.get('server_name') or 'redis'} {version}"
