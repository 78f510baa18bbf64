"""The shared parts of push and copy: options, the index and registries that they open, lines of their reports."""

import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from crossmount import _formatting as text
from crossmount import events
from crossmount._dataclass import dataclass
from crossmount.cli import output
from crossmount.cli.access import (
    DEFAULT_NAMESPACE,
    client_options,
    display_url,
    index_for_push,
    index_url,
)
from crossmount.cli.options import REGISTRY, Amount, count_option, upload_options
from crossmount.cli.output import note
from crossmount.cli.settings import Settings
from crossmount.cli.uncounted import carried_over
from crossmount.fleet import Patience
from crossmount.index import MountIndex
from crossmount.registry import ClientOptions
from crossmount.savings.tally import Tally
from crossmount.transfer.image_pusher import Limits
from crossmount.transfer.registries import Registries
from crossmount.transfer.report import FROM_CACHE, BlobReport, IndexState, PushListReport, PushReport

F = TypeVar("F", bound=Callable[..., Any])

_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """Values of the options that push and copy share.

    Attributes:
        platforms: the only platforms to take; empty for all.
        plain_http_for: the registries to talk http to.
        insecure_for: the registries whose certificates are not verified.
        limits: how much is done at once.
        patience: how long to wait for another pusher's upload.
        summary: the file to append a summary to; None for none.
    """

    platforms: tuple[str, ...]
    plain_http_for: tuple[str, ...]
    insecure_for: tuple[str, ...]
    limits: Limits
    patience: Patience
    summary: Path | None = None

    def special(self, options: ClientOptions) -> dict[str, ClientOptions]:
        """Return the options of those registries whose options differ from `options`."""
        special: dict[str, ClientOptions] = {}
        for registry in self.plain_http_for:
            special[registry] = replace(options, plain_http=True)
        for registry in self.insecure_for:
            special[registry] = replace(special.get(registry, options), insecure=True)
        return special


def transfer_options(*, images: bool = False) -> Callable[[F], Callable[..., Any]]:
    """Return a decorator that adds the shared options to a command, which gets them as `transfer`.

    Args:
        images: also add `--images`, for a command that transfers several images.
    """

    def decorate(command: F) -> Callable[..., Any]:
        @functools.wraps(command)
        def collect(
            ctx: click.Context,
            /,
            *,
            platforms: tuple[str, ...],
            plain_http_for: tuple[str, ...],
            insecure_for: tuple[str, ...],
            uploads: int,
            requests: int,
            wait: float,
            summary: Path | None,
            images: int = _LIMITS.images,
            **others: Any,
        ) -> Any:
            transfer = TransferOptions(
                platforms=platforms,
                plain_http_for=plain_http_for,
                insecure_for=insecure_for,
                limits=Limits(uploads=uploads, requests=requests, images=images),
                patience=Patience(limit=wait),
                summary=summary,
            )
            return command(ctx, transfer=transfer, **others)

        decorated: Callable[..., Any] = click.pass_context(collect)
        for option in reversed(_options(images=images)):
            decorated = option(decorated)
        return decorated

    return decorate


def _options(*, images: bool) -> list[Callable[..., Any]]:
    several = count_option("--images", 64, _LIMITS.images, "CROSSMOUNT_IMAGES", "Take at most N images at once.")
    return [
        click.option(
            "--platform",
            "platforms",
            multiple=True,
            metavar="PLATFORM",
            envvar="CROSSMOUNT_PLATFORM",
            show_envvar=True,
            help="Take this platform of an image alone, such as linux/arm64/v8: into a new index. Repeatable.",
        ),
        click.option(
            "--plain-http-for",
            type=REGISTRY,
            multiple=True,
            metavar="REGISTRY",
            help="Use http for this registry only. Repeatable.",
        ),
        click.option(
            "--insecure-for",
            type=REGISTRY,
            multiple=True,
            metavar="REGISTRY",
            help="Do not verify this registry's certificate. Repeatable.",
        ),
        upload_options,
        *([several] if images else []),
        count_option("--uploads", 64, _LIMITS.uploads, "CROSSMOUNT_UPLOADS", "Upload at most N blobs at once."),
        count_option(
            "--requests",
            256,
            _LIMITS.requests,
            "CROSSMOUNT_REQUESTS",
            "Send at most N HEAD and mount requests at once.",
        ),
        click.option(
            "--wait",
            type=Amount(0),
            default=Patience().limit,
            metavar="SECONDS",
            envvar="CROSSMOUNT_WAIT",
            show_envvar=True,
            show_default=True,
            help="Wait at most this long while another pusher uploads the blob, then mount it; 0 never waits.",
        ),
        click.option(
            "--summary",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            envvar=["CROSSMOUNT_SUMMARY", "GITHUB_STEP_SUMMARY"],
            show_envvar=True,
            help="Append a few lines of Markdown to FILE: what was saved. In a GitHub job they are shown with it.",
        ),
    ]


@asynccontextmanager
async def opened_places(
    settings: Settings, transfer: TransferOptions, observer: events.Observer
) -> AsyncIterator[tuple[MountIndex | None, Registries]]:
    """Open the index (None if it is off) and the registries of a push or a copy. Nothing connects yet.

    Raises:
        InvalidInputError: the URL or the namespace of the index breaks the grammar.
    """
    options = client_options(settings)
    async with (
        index_for_push(settings) as index,
        Registries(options, special=transfer.special(options), observer=observer) as registries,
    ):
        where = display_url(index_url(settings)), settings.namespace or DEFAULT_NAMESPACE
        with carried_over(index, *where):
            yield index, registries


def platform_lines(*reports: PushReport) -> list[str]:
    """Return the line for the platforms that were chosen, if there is one choice in all reports."""
    chosen = {", ".join(report.platforms) for report in reports if report.platforms}
    return [f"platforms {names}, in a new index with these alone" for names in chosen if len(chosen) == 1]


def fetched_lines(uploaded: Iterable[BlobReport]) -> list[str]:
    """Return a line for each place that bytes of uploaded blobs were fetched from."""
    fetched: dict[str, tuple[int, int]] = {}
    for blob in uploaded:
        if blob.fetched_from is not None:
            number, size = fetched.get(blob.fetched_from, (0, 0))
            fetched[blob.fetched_from] = number + 1, size + blob.size
    return [
        f"  {text.count(number, 'blob')}, {text.size(size)}, from {'the cache' if place == FROM_CACHE else place}"
        for place, (number, size) in fetched.items()
    ]


def saved_lines(tally: Tally) -> list[str]:
    """Return the line about the saved bytes; none if nothing had to be uploaded in any case."""
    if tally.share_saved is None:
        return []
    return [
        f"saved {text.size(tally.bytes_saved)}, {100 * tally.share_saved:.0f} % of what would have been uploaded"
    ]


def append_summary(file: Path | None, report: PushReport | PushListReport) -> None:
    """Append a report as Markdown to a file, which may have other summaries; a failure is only a warning."""
    if file is None:
        return
    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.write("\n".join(_markdown(report)) + "\n\n")
    except OSError as error:
        note(f"crossmount: warning: the summary cannot be written to {file}: {error.strerror or error}")


def _markdown(report: PushReport | PushListReport) -> list[str]:
    tally = report.tally
    if isinstance(report, PushListReport):
        failed = f", {len(report.failures)} failed" if report.failures else ""
        what = f"{text.count(len(report.done), 'image')} {report.verb}{failed}"
    else:
        what = f"pushed `{report.reference}`"
    rows = [
        ("mounted", tally.blobs_mounted, tally.bytes_mounted),
        ("waited for", tally.blobs_waited, tally.bytes_waited),
        ("already there", tally.blobs_existing, tally.bytes_existing),
        ("uploaded", tally.blobs_uploaded, tally.bytes_uploaded),
    ]
    return [
        f"### crossmount: {what}",
        "",
        *(f"**{line}**" for line in saved_lines(tally)),
        "",
        "| | blobs | bytes |",
        "|---|---:|---:|",
        *(f"| {name} | {blobs} | {text.size(size)} |" for name, blobs, size in rows if blobs),
        "",
        f"took {text.duration(report.seconds)}, index: {report.index}",
    ]


def index_status(state: IndexState, *, failed_first: bool, embedded: bool = False) -> str:
    """Return whether the index worked. `failed_first`: it failed before the first blob."""
    words = {
        "ok": "ok (embedded, this host only)" if embedded else "ok",
        "degraded": "failed" if failed_first else "failed at times",
        "off": "off",
    }
    return words[state]


def print_same_registry_hint(report: PushReport | PushListReport) -> None:
    """Print a note if uploaded blobs are on a registry whose name may be another one of a destination's."""
    if hint := same_registry_hint([report] if isinstance(report, PushReport) else report.done):
        output.note(f"crossmount: {hint}")


def same_registry_hint(reports: Iterable[PushReport]) -> str:
    """Return a hint if uploaded blobs are on a registry whose name may be another one of a destination's."""
    pairs = Counter(
        (report.reference.registry, other)
        for report in reports
        for blob in report.blobs
        if blob.outcome == "uploaded"
        for other in blob.elsewhere
        if _may_be_one(report.reference.registry, other)
    )
    if not pairs:
        return ""
    (((mine, other), number),) = pairs.most_common(1)
    return (
        f"{text.count(number, 'uploaded blob')} {'is' if number == 1 else 'are'} on {other} too: if that is the "
        f"same registry: crossmount index same-registry {mine}={other}"
    )


def _may_be_one(name: str, other: str) -> bool:
    """Return whether two names of registries look like one: the same port, or one domain and no ports."""
    (host, _, port), (other_host, _, other_port) = name.rpartition(":"), other.rpartition(":")
    if host and other_host and port.isdecimal() and other_port.isdecimal():
        return port == other_port
    is_plain = not (host and port.isdecimal()) and not (other_host and other_port.isdecimal())
    return is_plain and name.split(".")[-2:] == other.split(".")[-2:]
