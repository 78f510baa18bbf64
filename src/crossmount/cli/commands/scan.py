"""`crossmount scan` and `crossmount events`: they fill the index without a push."""

import asyncio
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import click

from crossmount import __version__
from crossmount import _formatting as text
from crossmount._dataclass import dataclass
from crossmount.cli import output
from crossmount.cli.access import client_options, opened_index, warn_if_alone
from crossmount.cli.command import Command, json_option
from crossmount.cli.failures import DENIED, FAILED
from crossmount.cli.options import FILE, LISTEN, pace_options, read_lines
from crossmount.cli.output import start_service_log
from crossmount.cli.progress.bulk import ScanTracker, run_bulk
from crossmount.cli.progress.display import progress_display
from crossmount.cli.settings import Settings, settings_of
from crossmount.discovery import ScanReport
from crossmount.discovery import scan as scan_registry
from crossmount.discovery.repository_selection import REPOSITORIES_MAX
from crossmount.discovery.scan import REQUESTS
from crossmount.errors import InvalidInputError, InvalidReferenceError, MissingExtraError
from crossmount.oci import Repository
from crossmount.oci.reference import normalise_registry

_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The repositories to scan.

    Attributes:
        registry: any repository of the registry.
        names: the repositories; None reads them from the catalogue.
        patterns: select some of them; if empty, all.
    """

    registry: Repository
    names: tuple[str, ...] | None
    patterns: tuple[str, ...]


@click.command(cls=Command)
@click.argument("targets", nargs=-1, required=True, metavar="REGISTRY[/REPOSITORY]...")
@click.option(
    "--from",
    "names",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    help="Read the repositories' names from this file, one a line; '-' is standard input.",
)
@pace_options("scan", requests=REQUESTS)
@click.option(
    "--since-last",
    is_flag=True,
    help="Skip manifests that an earlier scan fetched: only the digest of each tag is read.",
)
@click.option("--afresh", is_flag=True, help="Start again instead of resuming an unfinished scan.")
@json_option
@click.pass_context
def scan(
    ctx: click.Context,
    targets: tuple[str, ...],
    names: TextIO | None,
    requests: int,
    rate: float | None,
    since_last: bool,
    afresh: bool,
    as_json: bool,
) -> None:
    """Record in the index which layers a registry has, and in which repositories.

    REGISTRY alone scans all repositories in its catalogue; REGISTRY/REPOSITORY only that one; with * or ? in
    REPOSITORY, those in the catalogue that match. Nothing is changed on the registry.

    If a scan was killed, the same command resumes it within a day.

    \b
    Examples:
      crossmount scan registry.example
      crossmount scan 'registry.example/team/*' --since-last --rate 20
      crossmount scan ghcr.io --from names.txt
    """  # noqa: D301 \b is click's mark for a paragraph that keeps its lines
    settings = settings_of(ctx)
    wanted = read_targets(targets, None if names is None else read_names(names))
    total = None if wanted.names is None or wanted.patterns else len(wanted.names)
    display = progress_display(sys.stderr, ScanTracker(total), verbose=settings.verbose)
    warn_if_alone(settings)

    async def work() -> ScanReport:
        async with opened_index(settings) as index:
            return await scan_registry(
                wanted.registry,
                index=index,
                repositories=wanted.names,
                patterns=wanted.patterns,
                options=replace(client_options(settings), rate=rate),
                requests=requests,
                since_last=since_last,
                afresh=afresh,
                observer=display.observe,
            )

    report = run_bulk(work(), display, scan_so_far)
    if as_json:
        output.document(report.to_json())
    else:
        output.lines(render_scan(report))
        for words in report.remarks[report.failed :]:  # each failed repository had a line already
            output.note(f"crossmount: {words}")
    if nothing := _nothing(report, wanted.patterns):
        output.note(f"crossmount: {nothing}")
        if wanted.patterns:  # the same as for a named repository that does not exist
            ctx.exit(FAILED)
    if report.failed and report.denied == report.failed:
        ctx.exit(DENIED)
    if report.failed:
        ctx.exit(FAILED)


def read_targets(given: Sequence[str], names: Iterable[str] | None) -> Targets:
    """Parse the repositories to scan, which are on one registry.

    Args:
        given: `REGISTRY`, `REGISTRY/REPOSITORY`, or `REGISTRY/PATTERN`.
        names: repositories from a file, None without one; patterns in `given` select some of them.

    Raises:
        click.UsageError: there is no registry, more than one, or a repository beside a file.
        InvalidReferenceError: a name breaks its grammar.
    """
    registries, parts = set(), []
    for target in given:
        host, _, rest = target.partition("/")
        if "://" in target or not (any(c in host for c in ".:[") or host.lower() == "localhost"):
            raise click.UsageError(f"{target!r}: name the registry first, as in registry.example/team/app")
        registries.add(Repository.on(host))
        parts.append(rest.strip("/"))
    if len(registries) > 1:
        raise click.UsageError("one registry at a time: scan the others with commands of their own")
    (registry,) = registries
    chosen = () if "" in parts else tuple(dict.fromkeys(parts))
    named = [part for part in parts if part and not _GLOB.intersection(part)]
    if names is not None and named:
        raise click.UsageError(
            f"give {registry.registry}/{named[0]}, or {registry.registry} and --from FILE, not both"
        )
    if names is None and chosen and len(named) == len(parts):
        return Targets(registry=registry, names=tuple(_name(registry, part) for part in chosen), patterns=())
    taken = None if names is None else tuple(_name(registry, name) for name in names)
    return Targets(registry=registry, names=taken, patterns=chosen)


def read_names(file: TextIO) -> list[str]:
    """Return the repositories' names in a file, one a line. Blank lines and comments are skipped.

    Raises:
        InvalidInputError: the file is not text, or has too many lines.
        click.UsageError: it has no name.
    """
    names = []
    for name in filter(None, read_lines(file)):
        names.append(name)
        if len(names) > REPOSITORIES_MAX:
            raise InvalidInputError(f"{file.name}: more than {REPOSITORIES_MAX} names")
    if not names:
        raise click.UsageError(f"{file.name}: it lists nothing to scan")
    return names


def render_scan(report: ScanReport) -> list[str]:
    """Return the lines that report a scan."""
    before = f", {report.before} done before" if report.resumed else ""
    odd = [(report.unreadable, "not readable"), (report.failed, "failed")]
    more = "".join(f", {number} {words}" for number, words in odd if number)
    known = f", {report.known} known before" if report.known else ""
    skipped = f", {report.skipped} skipped" if report.skipped else ""
    return [
        f"scanned {report.registry}",
        f"repositories  {report.repositories}{before}{more}",
        f"tags          {report.tags}",
        f"manifests     {report.fetched} fetched{known}{skipped}",
        *([f"build caches  {report.build_caches} of BuildKit"] if report.build_caches else []),
        f"layers        {report.layers} recorded in the index",
        f"took {text.duration(report.seconds)}",
    ]


def _nothing(report: ScanReport, patterns: Sequence[str]) -> str | None:
    """Return why there was nothing to scan; None if there was something."""
    if report.fitting:
        return None
    if not report.listed:
        return f"the catalogue of {report.registry} is empty: are you logged in?"
    listed = text.count(report.listed, "repository", "repositories")
    return f"no repository of {report.registry} matches {', '.join(patterns)}: {listed} listed"


def scan_so_far(tracker: ScanTracker) -> str:
    """Return what an unfinished scan has done."""
    scanned = text.count(tracker.scanned, "repository", "repositories")
    return f"{scanned} scanned and recorded: run the same command again to resume"


def _name(registry: Repository, text: str) -> str:
    """Return the name of a repository that is given with or without its registry."""
    for own in (registry.registry, registry.address):
        text = text.removeprefix(f"{own}/")
    try:
        return Repository(registry.registry, text, registry.address).name
    except InvalidReferenceError as error:
        raise InvalidReferenceError(f"{text[:300]!r}: {error}") from None


try:
    from crossmount.proxy.event_receiver import EventListenerSettings, serve_events
    from crossmount.proxy.http.serving import ListenAddress, RunningServer
    from crossmount.proxy.tracing import log_line
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
