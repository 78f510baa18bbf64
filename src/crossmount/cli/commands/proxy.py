"""`crossmount proxy`."""

import asyncio
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from crossmount.cli.access import client_options, index_for_push
from crossmount.cli.command import Command
from crossmount.cli.output import start_service_log
from crossmount.cli.params import FILE, LISTEN, SIZE, Between
from crossmount.cli.settings import Settings, settings_of
from crossmount.errors import MissingExtraError
from crossmount.index import null_index

try:
    from crossmount.proxy.server import RunningProxy, serve
    from crossmount.proxy.settings import ProxySettings, ServerLimits
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"uvicorn", "httptools", "prometheus_client", "bcrypt"}:
        raise
    raise MissingExtraError(
        f"crossmount proxy needs {error.name}, which is not installed: pip install 'crossmount[proxy]'"
    ) from error

_LIMITS = ServerLimits()
_PLAIN = ProxySettings(upstream="https://registry.invalid")
_OFF = "off"
_FILES = 65536


F = TypeVar("F", bound=Callable[..., Any])


def _option(flag: str, *names: str, **details: Any) -> Callable[[F], F]:
    """Make an option that `CROSSMOUNT_PROXY_NAME` sets too: what runs beside a CI job often takes no arguments."""
    name = names[0] if names else flag.removeprefix("--").replace("-", "_")
    variable = f"CROSSMOUNT_PROXY_{name.upper()}"
    return click.option(flag, *names, **{"envvar": variable, "show_envvar": True, **details})


@click.command(cls=Command)
@_option("--upstream", required=True, metavar="URL", help="The registry: https://host[:port], or http://.")
@_option(
    "--listen",
    type=LISTEN,
    default="127.0.0.1:5000",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; port 0 lets the system choose.",
)
@_option(
    "--auth",
    type=click.Choice(["client", "service"]),
    default="client",
    show_default=True,
    help="Whose rights count: each caller's own, or the proxy's own for callers that it lets in.",
)
@_option("--spool", metavar="DIR", help="Where uploads wait for their digest, or 'off'. [default: the cache]")
@_option(
    "--spool-limit",
    type=SIZE,
    default="8GiB",
    show_default=True,
    metavar="SIZE",
    help="How much of the disk they may take together; above it they go straight through.",
)
@_option(
    "--wait",
    type=click.FloatRange(0),
    envvar="CROSSMOUNT_WAIT",
    default=_PLAIN.wait,
    show_default=True,
    metavar="SECONDS",
    help="How long an upload waits at most for another's of the same layer; 0 never.",
)
@_option(
    "--hold",
    type=click.FloatRange(0, 60),
    default=_PLAIN.hold,
    show_default=True,
    metavar="SECONDS",
    help="How long a HEAD is held at most while another uploads the layer; 0 never.",
)
@_option(
    "--allow-source",
    "allow_sources",
    multiple=True,
    metavar="PATTERN",
    help="Mount only from repositories that fit, as in 'base/*'. Repeatable. Default: all.",
)
@_option("--public-url", metavar="URL", help="What callers call this proxy, if a terminator stands before it.")
@_option("--tls-cert", type=FILE, help="Serve https with this certificate (PEM).")
@_option("--tls-key", type=FILE, help="The certificate's key (PEM), if it is not in the same file.")
@_option("--htpasswd", type=FILE, help="Callers that 'service' lets in: name:bcrypt hash a line.")
@_option("--tokens", type=FILE, help="Bearer tokens that 'service' lets in: name:token a line.")
@_option(
    "--events-secret-file",
    type=FILE,
    metavar="FILE",
    help="Take the registry's events at /_crossmount/events from whoever shows a secret of this file.",
)
@_option(
    "--connections",
    type=Between(1, 65536),
    default=_LIMITS.connections,
    show_default=True,
    metavar="N",
    help="Serve at most N connections at once.",
)
@_option(
    "--idle",
    type=click.FloatRange(0.1, 3600),
    default=_LIMITS.idle,
    show_default=True,
    metavar="SECONDS",
    help="Hang up on a client that sends or reads nothing for so long.",
)
@_option(
    "--grace",
    type=click.FloatRange(0, 3600),
    default=_LIMITS.grace,
    show_default=True,
    metavar="SECONDS",
    help="How long a stop waits for uploads under way.",
)
@_option("--no-access-log", is_flag=True, help="Do not write a line of JSON for each request.")
@click.pass_context
def proxy(  # noqa: PLR0917 click passes options by name
    ctx: click.Context,
    upstream: str,
    listen: tuple[str, int],
    auth: Literal["client", "service"],
    spool: str | None,
    spool_limit: int,
    wait: float,
    hold: float,
    allow_sources: tuple[str, ...],
    public_url: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    htpasswd: Path | None,
    tokens: Path | None,
    events_secret_file: Path | None,
    connections: int,
    idle: float,
    grace: float,
    no_access_log: bool,
) -> None:
    """Stand between any client and its registry, and mount what the client would upload.

    Point docker, podman, buildah, skopeo, crane, oras … at this address instead of the registry's. SIGTERM
    stops it: uploads under way may finish.
    """
    settings = settings_of(ctx)
    if auth == "client" and (htpasswd or tokens):
        raise click.UsageError("--htpasswd and --tokens are for --auth service", ctx)
    start_service_log(settings.verbose, access=not no_access_log)
    made = ProxySettings(
        upstream=upstream,
        host=listen[0],
        port=listen[1],
        auth=auth,
        spool=_spool_folder(spool),
        wait=wait,
        hold=hold,
        allow_sources=allow_sources,
        public_url=public_url,
        tls_cert=tls_cert,
        tls_key=tls_key,
        htpasswd=htpasswd,
        tokens=tokens,
        events_secret=events_secret_file,
        options=client_options(settings),
        limits=replace(_LIMITS, connections=connections, idle=idle, grace=grace, spool_bytes=spool_limit),
    )
    _raise_files_limit()
    asyncio.run(_serve(made, settings))


async def _serve(made: ProxySettings, settings: Settings) -> None:
    def tell(running: RunningProxy) -> None:
        click.echo(f"crossmount proxy: {running.url} -> {made.upstream_url()}")
        sys.stdout.flush()

    async with index_for_push(settings) as index:
        await serve(made, null_index() if index is None else index, ready=tell)


def _raise_files_limit() -> None:
    """Let the process open as many files as it may ask for: connections and spooled uploads are files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _spool_folder(given: str | None) -> Path | None:
    if given == _OFF:
        return None
    if given is not None:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "crossmount" / "spool"
