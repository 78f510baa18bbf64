"""`crossmount dashboard`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import click

from crossmount.cli.access import DEFAULT_NAMESPACE, display_url, index_url, opened_index
from crossmount.cli.command import Command
from crossmount.cli.options import LISTEN
from crossmount.cli.output import start_service_log
from crossmount.cli.settings import Settings, settings_of
from crossmount.errors import MissingExtraError
from crossmount.index import MountIndex

_EXTRA = {"jinja2", "markupsafe", "pygal", "prometheus_client", "uvicorn", "httptools"}

try:
    from crossmount.dashboard import IndexReader, Site
    from crossmount.proxy.http.serving import ListenAddress, RunningServer, listening
    from crossmount.proxy.page import PageApp, page_url
    from crossmount.proxy.settings import ServerLimits
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in _EXTRA:
        raise
    raise MissingExtraError(
        f"crossmount dashboard needs {error.name}, which is not installed: pip install 'crossmount[dashboard]'"
    ) from error

_LIMITS = ServerLimits(connections=256, grace=0.0)


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
@click.pass_context
def dashboard(ctx: click.Context, listen: tuple[str, int], public_url: str | None) -> None:
    """Show in a browser what the fleet saved, what it uploads now, and how the index and the registries are.

    The page shows one namespace. It asks nobody for a password: whoever reaches the address sees the names of all
    repositories in the index, so publish it behind a front that does. Prometheus reads the numbers at /metrics.
    """
    settings = settings_of(ctx)
    start_service_log(settings.verbose, access=False)
    asyncio.run(_serve(settings, listen, public_url))


async def _serve(settings: Settings, listen: tuple[str, int], public_url: str | None) -> None:
    async with opened_index(settings) as index, running_page(settings, index, listen, public_url) as server:

        def announce() -> None:
            click.echo(f"crossmount dashboard: {public_url or server.url + '/'}")
            sys.stdout.flush()

        await server.run_until_signal(announce)


@asynccontextmanager
async def site_of(settings: Settings, index: MountIndex) -> AsyncIterator[Site]:
    """Make the page of an index, and end its reads when the block ends."""
    namespace = settings.namespace or DEFAULT_NAMESPACE
    async with IndexReader(index, namespace=namespace, address=display_url(index_url(settings))) as reader:
        yield Site(reader, version=version("crossmount"))


@asynccontextmanager
async def running_page(
    settings: Settings, index: MountIndex, listen: tuple[str, int], public_url: str | None = None
) -> AsyncIterator[RunningServer]:
    """Serve the page of an index until the block ends.

    Raises:
        InvalidInputError: the public URL breaks its grammar.
        ListenError: the address cannot be used.
    """
    async with site_of(settings, index) as site:
        app = PageApp(site, listen=listen[0], public_url=page_url(public_url), idle=_LIMITS.idle)
        async with listening(app, ListenAddress(*listen), _LIMITS) as server:
            yield server
