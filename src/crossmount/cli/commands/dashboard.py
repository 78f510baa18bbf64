"""`crossmount dashboard`."""

import asyncio
import sys

import click

from crossmount.cli.access import opened_index
from crossmount.cli.command import Command
from crossmount.cli.options import LISTEN, REGISTRY
from crossmount.cli.output import start_service_log
from crossmount.cli.page import running_page
from crossmount.cli.settings import Settings, settings_of


@click.command(cls=Command)
@click.option(
    "--listen",
    type=LISTEN,
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    envvar="CROSSMOUNT_DASHBOARD_LISTEN",
    show_envvar=True,
    help="The address to listen on; port 0 takes a free port.",
)
@click.option(
    "--public-url",
    metavar="URL",
    envvar="CROSSMOUNT_DASHBOARD_PUBLIC_URL",
    show_envvar=True,
    help="The URL that people use, if a front forwards to this server: https://host[:port][/path].",
)
@click.option(
    "--registry",
    "registries",
    type=REGISTRY,
    multiple=True,
    metavar="REGISTRY",
    help="Measure how long this registry takes to answer, without a login. Repeatable.",
)
@click.pass_context
def dashboard(
    ctx: click.Context, listen: tuple[str, int], public_url: str | None, registries: tuple[str, ...]
) -> None:
    """Show in a browser what the fleet saved, what it uploads now, and how the index and the registries are.

    The page shows one namespace. It asks nobody for a password: whoever reaches the address sees the names of all
    repositories in the index, so publish it behind a front that does. Prometheus reads the numbers at /metrics.
    """
    settings = settings_of(ctx)
    start_service_log(settings.verbose, access=False)
    asyncio.run(_serve(settings, listen, public_url, registries))


async def _serve(
    settings: Settings, listen: tuple[str, int], public_url: str | None, registries: tuple[str, ...]
) -> None:
    async with (
        opened_index(settings) as index,
        running_page(
            settings, index, listen, public_url=public_url, registries=registries, command="crossmount dashboard"
        ) as server,
    ):

        def announce() -> None:
            click.echo(f"crossmount dashboard: {public_url or server.url + '/'}")
            sys.stdout.flush()

        await server.run_until_signal(announce)
