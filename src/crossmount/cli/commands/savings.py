"""`crossmount savings`: what pushes saved, by day, registry, repository or layer."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Literal

import click

from crossmount import _formatting as text
from crossmount.cli import output
from crossmount.cli.access import DEFAULT_NAMESPACE, display_url, index_url, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.options import Checked
from crossmount.cli.settings import Settings, settings_of
from crossmount.errors import InvalidInputError
from crossmount.savings import LayerAccount, Savings, Tally, read_savings
from crossmount.savings.accountant import utc_today
from crossmount.savings.accounts import OTHER
from crossmount.savings.report import DAYS_MAX

ROWS_SHOWN, LAYERS_SHOWN = 20, 10
"""How many registries, repositories and layers are printed; a JSON document has all that are kept."""

By = Literal["day", "registry", "repository", "layer"]
_BY: tuple[By, ...] = ("day", "registry", "repository", "layer")

_PERIOD = re.compile(r"([0-9]{1,4})([dw])")
_DAYS_OF = {"d": 1, "w": 7}
_BAR, _EIGHTHS = "█", " ▏▎▍▌▋▊▉"
_COLUMNS = 80
_REASONS = {
    "unknown": "no source was known",
    "unreadable": "its sources may not be read",
    "unmountable": "the registry does not mount it",
    "gone": "its sources were gone",
    "small": "too small to wait for",
}


def read_since(words: str, today: Callable[[], date] = utc_today) -> date:
    """Return the first day of a period: `7d` is the last seven days, `2w` two weeks, `2026-11-20` that day.

    Raises:
        InvalidInputError: it is none of these, or not within the days that are kept.
    """
    last = today()
    if (match := _PERIOD.fullmatch(words)) is not None:
        days = int(match[1]) * _DAYS_OF[match[2]]
        if not 1 <= days <= DAYS_MAX:
            raise InvalidInputError(f"{words!r}: accounts are kept for {DAYS_MAX} days: give 1d to {DAYS_MAX}d")
        return last - timedelta(days=days - 1)
    try:
        since = date.fromisoformat(words)
    except ValueError:
        raise InvalidInputError(
            f"{words[:100]!r} is no period: give days (7d), weeks (2w) or the first day (2026-11-20)"
        ) from None
    if since > last:
        raise InvalidInputError(f"{words!r} is in the future: today is {last} (UTC)")
    return since


@click.command(cls=Command)
@click.option(
    "--since",
    type=Checked("period", read_since),
    default="7d",
    show_default=True,
    metavar="PERIOD",
    help="The last days (7d) or weeks (2w), today included, or the first day (2026-11-20). Days are in UTC.",
)
@click.option(
    "--by",
    type=click.Choice(_BY),
    default="day",
    show_default=True,
    help="What the rows are. A repository is named by the first component of its name.",
)
@json_option
@click.pass_context
def savings(ctx: click.Context, since: date, by: By, as_json: bool) -> None:
    """Show what pushes saved: the bytes that were mounted instead of uploaded.

    It reads the accounts of all pushes, copies and proxies that used this index. The share is the saved part of
    what would have been uploaded without crossmount. The time saved is an estimate, at the rate of the uploads
    that were made.
    """
    settings = settings_of(ctx)
    found = run_async(_read(settings, since))
    if as_json:
        where = {"index": display_url(index_url(settings)), "namespace": settings.namespace or DEFAULT_NAMESPACE}
        output.document({**where, **to_json(found, by)})
    else:
        output.lines(render_savings(found, by, columns=output.width()))


async def _read(settings: Settings, since: date) -> Savings:
    async with opened_index(settings) as index:
        return await read_savings(index, since=since, until=utc_today())


def render_savings(found: Savings, by: By, *, columns: int | None) -> list[str]:
    """Return the lines that show savings.

    Args:
        found: the accounts.
        by: what the rows are.
        columns: the width of the terminal; None if there is no terminal, and so no bars.
    """
    total = found.total
    lines = [
        f"{text.size(total.bytes_saved)} saved{_share(total)}{_time(found)}",
        *_summary(total),
        f"{found.since} to {found.until} (UTC)",
        "",
    ]
    if by == "layer":
        return [*lines, *_layers(found)]
    rows: Mapping[str, Tally] = {
        "day": {str(day): tally for day, tally in found.by_day.items()},
        "registry": {_name(name): tally for name, tally in found.by_registry.items()},
        "repository": {
            f"{_name(registry)}/{_name(prefix)}": tally for (registry, prefix), tally in found.by_row.items()
        },
    }[by]
    shown = dict(list(rows.items())[-DAYS_MAX - 1 :] if by == "day" else list(rows.items())[:ROWS_SHOWN])
    lines += _table(by, shown, columns)
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more")
    return lines


def _share(total: Tally) -> str:
    return "" if total.share_saved is None else f", {_percent(total)} of what would have been uploaded"


def _time(found: Savings) -> str:
    return "" if not found.seconds_saved else f", about {text.duration(found.seconds_saved)} of uploads"


def _percent(tally: Tally) -> str:
    return "-" if tally.share_saved is None else f"{100 * tally.share_saved:.0f} %"


def _summary(total: Tally) -> Iterable[str]:
    yield from text.summary(
        [
            ("mounted", total.blobs_mounted, total.bytes_mounted),
            ("waited for", total.blobs_waited, total.bytes_waited),
            ("already there", total.blobs_existing, total.bytes_existing),
            ("uploaded", total.blobs_uploaded, total.bytes_uploaded),
        ]
    )
    words = [text.count(total.pushes, "push", "pushes")]
    words += [f"{total.pushes_failed} more failed"] if total.pushes_failed else []
    words += [f"{total.pushes_without_index} without the index"] if total.pushes_without_index else []
    words += [f"waited {text.duration(total.seconds_waiting)}"] if total.ms_waiting else []
    yield ", ".join(words)
    if total.bytes_fetched:
        yield f"{text.size(total.bytes_fetched)} fetched from other registries"


def _name(part: str) -> str:
    return "other" if part == OTHER else part


def _table(title: str, rows: Mapping[str, Tally], columns: int | None) -> Iterable[str]:
    """Yield a table with a bar for each row, of the width of the terminal."""
    room = (columns or _COLUMNS) - 1
    names = [title, *rows]
    width = min(max(map(len, names)), max(room - 45, 10))
    yield f"{title:<{width}}  {'saved':>8}  {'share':>5}  {'uploaded':>8}  {'pushes':>6}"
    most = max((tally.bytes_saved for tally in rows.values()), default=0)
    for name, tally in rows.items():
        short = _shortened(name, width)
        saved, uploaded = text.size(tally.bytes_saved), text.size(tally.bytes_uploaded)
        cells = f"{short:<{width}}  {saved:>8}  {_percent(tally):>5}  {uploaded:>8}  {tally.pushes:>6}"
        left = room - len(cells) - 2
        bar = "" if columns is None or not most else _bar(tally.bytes_saved / most, left)
        yield f"{cells}  {bar}".rstrip()


def _shortened(name: str, width: int) -> str:
    """Return a name cut in its middle: names on one registry, or in one domain, differ at an end."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def _bar(share: float, width: int) -> str:
    """Return a bar, to an eighth of a column; a value above 0 has at least that."""
    eighths = max(round(share * width * 8), 1 if share else 0) if width > 0 else 0
    return _BAR * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _layers(found: Savings) -> Iterable[str]:
    mounted, again = found.most_mounted, found.most_uploaded_again
    yield "most mounted"
    for layer in mounted[:LAYERS_SHOWN]:
        yield f"  {_layer(layer)}  {layer.mounted:>5} times, {text.size(layer.bytes_mounted)} saved"
    if not mounted:
        yield "  none"
    yield "most often uploaded again"
    for layer in again[:LAYERS_SHOWN]:
        why = _REASONS[layer.reason] if layer.reason is not None else ""
        yield f"  {_layer(layer)}  {layer.uploads_again:>5} times, {text.size(layer.bytes_uploaded_again)}: {why}"
    if not again:
        yield "  none"


def _layer(layer: LayerAccount) -> str:
    return f"{text.short(layer.digest)}  {text.size(layer.size):>8}"


def to_json(found: Savings, by: By) -> dict[str, Any]:
    """Return the document that `crossmount savings --json` prints."""
    rows: Sequence[dict[str, Any]]
    match by:
        case "day":
            rows = [{"day": str(day), **tally_json(tally)} for day, tally in found.by_day.items()]
        case "registry":
            rows = [{"registry": _name(name), **tally_json(tally)} for name, tally in found.by_registry.items()]
        case "repository":
            rows = [
                {"registry": _name(registry), "repository": _name(prefix), **tally_json(tally)}
                for (registry, prefix), tally in found.by_row.items()
            ]
        case "layer":
            layers = {layer.digest: layer for layer in (*found.most_mounted, *found.most_uploaded_again)}
            rows = [_layer_json(layer) for layer in layers.values()]
    total = {**tally_json(found.total), "seconds_saved": _rounded(found.seconds_saved)}
    return {"since": str(found.since), "until": str(found.until), "total": total, "by": by, "rows": rows}


def tally_json(tally: Tally) -> dict[str, Any]:
    """Return a tally as a part of a document."""
    outcomes = ("mounted", "waited", "existing", "uploaded")
    return {
        "saved": tally.saved_to_json(),
        "seconds_saved": _rounded(tally.seconds_saved),
        "bytes": {
            **{each: getattr(tally, f"bytes_{each}") for each in outcomes},
            "fetched": tally.bytes_fetched,
        },
        "blobs": {each: getattr(tally, f"blobs_{each}") for each in outcomes},
        "seconds_waiting": tally.seconds_waiting,
        "seconds_uploading": tally.seconds_uploading,
        "pushes": tally.pushes,
        "pushes_failed": tally.pushes_failed,
        "pushes_without_index": tally.pushes_without_index,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _layer_json(layer: LayerAccount) -> dict[str, Any]:
    return {
        "layer": str(layer.digest),
        "size": layer.size,
        "mounted": layer.mounted,
        "uploaded": dict(layer.uploaded),
        "uploaded_again": layer.uploads_again,
        "reason": layer.reason,
    }
