"""`crossmount doctor`."""

import textwrap

import click

from crossmount.cli import output
from crossmount.cli.command import Command, json_option
from crossmount.cli.commands.doctor_checks import Finding, examine
from crossmount.cli.failures import FAILED
from crossmount.cli.loop import run_async
from crossmount.cli.params import REFERENCE
from crossmount.cli.settings import settings_of
from crossmount.oci import Reference

_MARKS = {"ok": "ok", "unknown": "-", "failed": "FAILED"}


@click.command(cls=Command)
@click.argument("dest", type=REFERENCE, required=False)
@json_option
@click.pass_context
def doctor(ctx: click.Context, dest: Reference | None, as_json: bool) -> None:
    """Say what is reachable and how far away, whose credentials are used, and whether the registry mounts.

    Without DEST only the index is looked at, which starts the embedded one. Nothing is uploaded, and no password
    is shown. Exit status: 0 if all that is needed works, 1 if not.
    """
    findings = run_async(examine(settings_of(ctx), dest))
    if as_json:
        output.document(as_document(findings))
    else:
        output.lines(as_lines(findings, dest, width=output.width()))
    if any(finding.verdict == "failed" for finding in findings):
        ctx.exit(FAILED)


def as_document(findings: list[Finding]) -> dict[str, object]:
    """Return the findings for scripts."""
    document: dict[str, object] = {"ok": all(finding.verdict != "failed" for finding in findings)}
    for finding in findings:
        document[finding.about] = {"verdict": finding.verdict, "words": finding.words, **finding.facts}
    return document


def as_lines(findings: list[Finding], dest: Reference | None, *, width: int | None) -> list[str]:
    """Return the findings for people, folded at `width` columns; None leaves each on one line."""
    lines = [
        line
        for finding in findings
        for line in _folded(f"{finding.about:<12} {_MARKS[finding.verdict]:<7} ", finding.words, width)
    ]
    if dest is None:
        lines.append("Name a DEST, as for push, to have its registry looked at too.")
    return lines


def _folded(head: str, words: str, width: int | None) -> list[str]:
    if width is None:
        return [head + words]
    return textwrap.wrap(
        words, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )
