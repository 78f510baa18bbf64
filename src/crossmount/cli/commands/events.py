"""`crossmount events`."""

import asyncio
import logging
import sys
import time
from pathlib import Path

import click

from crossmount import __version__
from crossmount.cli.access import client_options, opened_index, warn_if_alone
from crossmount.cli.command import Command
from crossmount.cli.options import FILE, LISTEN
from crossmount.cli.output import start_service_log
from crossmount.cli.settings import Settings, settings_of
from crossmount.errors import MissingExtraError
from crossmount.oci.reference import normalise_registry

try:
    from crossmount.proxy.event_receiver import EventListenerSettings, serve_events
    from crossmount.proxy.http.serving import ListenAddress, RunningServer
    from crossmount.proxy.log import log_line
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"uvicorn", "httptools"}:
        raise
    raise MissingExtraError(
        f"crossmount events needs {error.name}, which is not installed: pip install 'crossmount[proxy]'"
    ) from error


@click.command(cls=Command)
@click.option(
    "--registry",
    envvar="CROSSMOUNT_EVENTS_REGISTRY",
    show_envvar=True,
    required=True,
    metavar="REGISTRY",
    help="The registry that sends the events, by the name that clients use; names inside events are ignored.",
)
@click.option(
    "--listen",
    envvar="CROSSMOUNT_EVENTS_LISTEN",
    show_envvar=True,
    type=LISTEN,
    default="127.0.0.1:5001",
    show_default=True,
    metavar="HOST:PORT",
    help="The address to listen on; port 0 takes a free port.",
)
@click.option(
    "--secret-file",
    "secret",
    envvar="CROSSMOUNT_EVENTS_SECRET_FILE",
    show_envvar=True,
    type=FILE,
    metavar="FILE",
    help="Accept events that come with a secret from this file, one a line. Required except on loopback.",
)
@click.option("--tls-cert", type=FILE, help="Serve https with this certificate (PEM).")
@click.option("--tls-key", type=FILE, help="The certificate's key (PEM), if it is not in the same file.")
@click.pass_context
def events(
    ctx: click.Context,
    registry: str,
    listen: tuple[str, int],
    secret: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Update the index from the events that REGISTRY sends, also about pushes without crossmount.

    It accepts distribution's notifications, Harbor's webhooks, Quay's repo_push and ECR's events from EventBridge,
    by POST to / or /_crossmount/events. The secret is a Bearer token, the password of Basic authentication, or the
    whole Authorization header. Pushed manifests are fetched with the credentials found on this host. A deleted
    manifest is removed from the index only if a request to the registry shows that it is gone. SIGTERM stops it.
    """
    settings = settings_of(ctx)
    start_service_log(settings.verbose, access=False)
    made = EventListenerSettings(
        registry=normalise_registry(registry),
        address=ListenAddress(listen[0], listen[1], tls_cert, tls_key),
        secret=secret,
        options=client_options(settings),
    )
    asyncio.run(_serve(made, settings))


async def _serve(made: EventListenerSettings, settings: Settings) -> None:
    def announce(service: RunningServer) -> None:
        details = {"url": service.url, "registry": made.registry, "version": __version__}
        click.echo(log_line(logging.INFO, "crossmount events listens", epoch=time.time(), **details))
        sys.stdout.flush()

    warn_if_alone(settings, logging.getLogger("crossmount.proxy").warning)
    async with opened_index(settings) as index:
        await serve_events(made, index, ready=announce)
