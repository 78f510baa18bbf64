"""`crossmount proxy`."""

import asyncio
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from crossmount import __version__
from crossmount.cli.access import client_options, display_url, index_for_push, index_url, warn_if_alone
from crossmount.cli.command import Command
from crossmount.cli.options import FILE, LISTEN, SIZE, Amount, Between, upload_options
from crossmount.cli.output import start_service_log
from crossmount.cli.page import page_of
from crossmount.cli.settings import Settings, settings_of
from crossmount.errors import MissingExtraError
from crossmount.index import null_index

try:
    from crossmount.proxy.files import check_settings
    from crossmount.proxy.server import RunningProxy, serve
    from crossmount.proxy.settings import MountRights, PageAccess, ProxySettings, ServerLimits
    from crossmount.proxy.tracing import exporting_provider, log_line
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"uvicorn", "httptools", "prometheus_client", "bcrypt"}:
        raise
    raise MissingExtraError(
        f"crossmount proxy needs {error.name}, which is not installed: pip install 'crossmount[proxy]'"
    ) from error

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_LIMITS = ServerLimits()
_PLAIN = ProxySettings(upstreams=())
_OFF = "off"
_FILES = 65536

_log = logging.getLogger("crossmount.proxy")


F = TypeVar("F", bound=Callable[..., Any])


def _option(flag: str, *names: str, **details: Any) -> Callable[[F], F]:
    """Return an option with a variable `CROSSMOUNT_PROXY_NAME`, for service containers that take no arguments."""
    name = names[0] if names else flag.removeprefix("--").replace("-", "_")
    variable = f"CROSSMOUNT_PROXY_{name.upper()}"
    return click.option(flag, *names, **{"envvar": variable, "show_envvar": True, **details})


@click.command(cls=Command)
@_option(
    "--upstream",
    "upstreams",
    envvar="CROSSMOUNT_PROXY_UPSTREAM",
    multiple=True,
    metavar="[NAME=]URL",
    help="The registry: https://host[:port], or http://. Repeatable: several are chosen by ?ns= or by the first "
    "component of the path, NAME or the host.",
)
@_option(
    "--policy",
    type=FILE,
    metavar="FILE",
    help="A TOML file: more upstreams, callers' rights, sources, quotas. See 'crossmount help proxy --page'.",
)
@click.option("--check", is_flag=True, help="Check the options and the files, say what was found, and exit.")
@_option(
    "--listen",
    type=LISTEN,
    default="127.0.0.1:5000",
    show_default=True,
    metavar="HOST:PORT",
    help="The address to listen on; port 0 takes a free port.",
)
@_option(
    "--auth",
    type=click.Choice(["client", "service"]),
    default="client",
    show_default=True,
    help="Act with each caller's own credentials, or with the proxy's for the callers in its files.",
)
@_option(
    "--mount-rights",
    type=click.Choice(["account", "token"]),
    default="account",
    show_default=True,
    help="With '--auth client': mount what a token's account may read, or only what the token itself covers.",
)
@_option(
    "--spool",
    metavar="DIR",
    help="Folder for uploads that name their digest at the end, or 'off'. Default: in the user's cache folder.",
)
@_option(
    "--spool-limit",
    type=SIZE,
    default="8GiB",
    show_default=True,
    metavar="SIZE",
    help="Most bytes in the spool; beyond that, uploads are streamed to the registry.",
)
@_option(
    "--wait",
    type=Amount(0),
    envvar="CROSSMOUNT_WAIT",
    default=_PLAIN.wait,
    show_default=True,
    metavar="SECONDS",
    help="Wait at most this long while another pusher uploads the same layer; 0 never waits.",
)
@_option(
    "--hold",
    type=Amount(0, 60),
    default=_PLAIN.hold,
    show_default=True,
    metavar="SECONDS",
    help="Delay the answer to a HEAD at most this long while another pusher uploads the layer; 0 never.",
)
@_option(
    "--allow-source",
    "allow_sources",
    multiple=True,
    metavar="PATTERN",
    help="Mount only from repositories that match, such as 'base/*'. Repeatable. Default: all.",
)
@_option(
    "--public-url", metavar="URL", help="The URL that callers use, if a TLS terminator is in front of the proxy."
)
@_option("--tls-cert", type=FILE, help="Serve https with this certificate (PEM).")
@_option("--tls-key", type=FILE, help="The certificate's key (PEM), if it is not in the same file.")
@_option("--htpasswd", type=FILE, help="Callers for '--auth service': a line of name:bcrypt-hash for each.")
@_option("--tokens", type=FILE, help="Bearer tokens for '--auth service': a line of name:token for each.")
@_option(
    "--events-secret-file",
    type=FILE,
    metavar="FILE",
    help="Accept the registry's events at /_crossmount/events with a secret from this file.",
)
@_option(
    "--metrics-listen",
    type=LISTEN,
    metavar="HOST:PORT",
    help="Serve the metrics at this address alone, to everybody who reaches it.",
)
@_option(
    "--page",
    type=click.Choice(["off", "sums", "names"]),
    default="sums",
    show_default=True,
    help="Show at /_crossmount/ what the fleet saved: as sums, to whoever may see the metrics, or also with the "
    "names of all repositories in the index, to the callers of '--auth service', else to everybody.",
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
    type=Amount(0.1, 3600),
    default=_LIMITS.idle,
    show_default=True,
    metavar="SECONDS",
    help="Close the connection of a client that sends and reads nothing for this long.",
)
@_option(
    "--grace",
    type=Amount(0, 3600),
    default=_LIMITS.grace,
    show_default=True,
    metavar="SECONDS",
    help="Wait at most this long for pushes in progress when the proxy stops.",
)
@_option(
    "--traces",
    is_flag=True,
    help="Send traces of OpenTelemetry by OTLP to OTEL_EXPORTER_OTLP_ENDPOINT. Needs the extra [otel].",
)
@upload_options
@_option("--no-access-log", is_flag=True, help="Do not log a line of JSON for each request.")
@click.pass_context
def proxy(  # noqa: PLR0917 click passes options by name
    ctx: click.Context,
    upstreams: tuple[str, ...],
    policy: Path | None,
    check: bool,
    listen: tuple[str, int],
    auth: Literal["client", "service"],
    mount_rights: MountRights,
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
    metrics_listen: tuple[str, int] | None,
    page: PageAccess,
    connections: int,
    idle: float,
    grace: float,
    traces: bool,
    no_access_log: bool,
) -> None:
    """Run a proxy between any client and its registry. It mounts layers that the client would upload.

    Use this address instead of the registry's in docker, podman, buildah, skopeo, crane, oras … SIGTERM stops the
    proxy after the pushes in progress. SIGHUP, or a change, makes it read its files again: callers, tokens, the
    certificate, secrets, credentials and the policy. The log is lines of JSON.
    """
    settings = settings_of(ctx)
    if auth == "client" and (htpasswd or tokens):
        raise click.UsageError("--htpasswd and --tokens are for --auth service", ctx)
    if auth == "service" and mount_rights != "account":
        raise click.UsageError("--mount-rights is for --auth client", ctx)
    made = ProxySettings(
        upstreams=upstreams,
        policy=policy,
        host=listen[0],
        port=listen[1],
        auth=auth,
        mount_rights=mount_rights,
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
        metrics_listen=metrics_listen,
        page=page,
        options=client_options(settings),
        limits=replace(_LIMITS, connections=connections, idle=idle, grace=grace, spool_bytes=spool_limit),
    )
    if check:
        for line in check_settings(made):
            click.echo(line)
        return
    start_service_log(settings.verbose, access=not no_access_log)
    _raise_files_limit()
    provider = exporting_provider() if traces else None
    try:
        asyncio.run(_serve(made, settings, provider))
    finally:
        if provider is not None:
            provider.shutdown()


async def _serve(made: ProxySettings, settings: Settings, provider: "TracerProvider | None") -> None:
    def announce(running: RunningProxy) -> None:
        banner = {
            "url": running.url,
            "upstreams": {upstream.name: str(upstream.url) for upstream in running.upstreams},
            "index": display_url(index_url(settings)),
            "auth": made.auth,
            "spool": None if made.spool is None else str(made.spool),
            "version": __version__,
        }
        click.echo(log_line(logging.INFO, "crossmount proxy listens", epoch=time.time(), **banner))
        sys.stdout.flush()

    warn_if_alone(settings, _log.warning)
    async with index_for_push(settings) as index, page_of(settings, index, made.page) as page:
        await serve(made, null_index() if index is None else index, page=page, ready=announce, provider=provider)


def _raise_files_limit() -> None:
    """Raise the limit of open files: each connection and each spooled upload is one."""
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
