"""`crossmount doctor`: checks of all that a push needs. Nothing here uploads, mounts or changes anything."""

import statistics
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import click

from crossmount.cli import output, text
from crossmount.cli.access import client_options, index_url, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.failures import FAILED, message_of
from crossmount.cli.index_state import ServerProbe, display_url, index_kind, probe_server
from crossmount.cli.params import REFERENCE
from crossmount.cli.running import run_async
from crossmount.cli.settings import OFF, Settings, settings_of
from crossmount.errors import CrossmountError
from crossmount.index import RegistryTraits
from crossmount.oci import Digest, Reference
from crossmount.registry import Ping, RegistryClient
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.lookup import StoredCredentials

_MARKS = {"ok": "ok", "unknown": "-", "failed": "FAILED"}

PINGS = 5
"""Of how many round trips the median is told."""

Verdict = Literal["ok", "unknown", "failed"]

FOUND = ": found, not checked"
_NO_BYTES = Digest.of(b"")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one thing.

    Attributes:
        words: for people, in plain words.
        facts: the same for scripts.
    """

    about: str
    verdict: Verdict
    words: str
    facts: dict[str, Any] = field(default_factory=dict)


def failed(about: str, error: CrossmountError) -> Finding:
    """Return the finding that something does not work."""
    return Finding(about, "failed", message_of(error))


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


async def check_index(settings: Settings, dest: Reference | None) -> tuple[Finding, RegistryTraits]:
    """See whether the index serves, and read what it knows of dest's registry."""
    url = index_url(settings)
    if url == OFF:
        words = "off: nothing is known of earlier pushes, all that the registry lacks is uploaded"
        return Finding("index", "unknown", words, {"url": OFF}), RegistryTraits()
    facts = {"url": display_url(url)}
    try:
        async with opened_index(settings) as index:
            reached = await probe_server(index)
            traits = RegistryTraits() if dest is None else (await index.look_up([], dest)).traits
    except CrossmountError as error:
        return Finding("index", "failed", message_of(error), facts), RegistryTraits()
    return _served(url, reached, facts), traits


def _served(url: str, reached: ServerProbe | None, facts: dict[str, Any]) -> Finding:
    if reached is None:
        return Finding("index", "ok", "in the memory of one process, gone with it", facts)
    name = "the embedded one" if index_kind(url) == "embedded" else display_url(url)
    words = f"{name}, {reached.server}, {text.milliseconds(reached.round_trip)} away"
    more = {"server": reached.server, "round_trip_ms": _ms(reached.round_trip)}
    return Finding("index", "ok", words, facts | more)


async def check_registry(
    client: RegistryClient, *, plain_http: bool, clock: Callable[[], float] = time.perf_counter
) -> tuple[Finding, Ping | None]:
    """See whether the registry answers, and how far away it is."""
    try:
        ping = await client.ping()  # opens the connection, too
        times = []
        for _ in range(PINGS):
            started = clock()
            await client.ping()
            times.append(clock() - started)
    except CrossmountError as error:
        return failed("registry", error), None
    away = statistics.median(times)
    how = {
        "none": "asks for no login",
        "basic": "asks for a name and a password",
        "bearer": f"asks for a token from {ping.realm_host}",
    }.get(ping.scheme, f"asks for {ping.scheme}")
    scheme = "plain http" if plain_http else "https"
    return (
        Finding(
            "registry",
            "ok",
            f"{client.registry} answers over {scheme}, {text.milliseconds(away)} away, and {how}",
            {
                "name": client.registry,
                "round_trip_ms": _ms(away),
                "login": ping.scheme,
                "token_server": ping.realm_host,
            },
        ),
        ping,
    )


async def check_credentials(settings: Settings, dest: Reference, ping: Ping | None) -> Finding:
    """See whose credentials would be used; the secret is never looked at."""
    try:
        found = await StoredCredentials(authfile=settings.authfile).find(dest.registry, dest.name)
    except CrossmountError as error:
        return failed("credentials", error)
    if found is None:
        return Finding("credentials", "ok", f"none are stored for {dest.registry}: a visitor without a name")
    is_needed = ping is None or ping.scheme != "none"
    state = FOUND if is_needed else ", not needed here"
    facts = {"user": found.username or None, "kind": found.kind, "from": found.origin}
    words = f"{_who(found)}, from {found.origin}{state}"
    return Finding("credentials", "unknown" if is_needed else "ok", words, facts)


def proven(credentials: Finding, access: Finding) -> Finding:
    """Return what is to be said of credentials once they were shown to a registry that asks for them."""
    if credentials.verdict != "unknown" or access.verdict != "ok":
        return credentials
    words = f"{credentials.words.removesuffix(FOUND)}, accepted"
    return replace(credentials, verdict="ok", words=words)


def _who(found: Credential) -> str:
    kind = {"password": "", "identity": "an identity token", "registry": "a token for the registry"}[found.kind]
    if not found.username:
        return kind or "a password without a name"
    return f"{found.username}, with {kind}" if kind else found.username


async def check_access(client: RegistryClient, dest: Reference, ping: Ping) -> Finding:
    """See whether dest may be read, and as far as a token tells, written."""
    repository = dest.repository
    try:
        await client.prepare(repository, ())
        await client.head_blob(repository, _NO_BYTES)
    except CrossmountError as error:
        return failed("access", error)
    if ping.scheme == "bearer":
        words = f"asked to read and write {repository.name}, it gave a token, and reading works"
        return Finding("access", "ok", words, {"read": True, "write_token": True})
    words = f"reading {repository.name} works; whether it may be written shows with the first push"
    return Finding("access", "ok", words, {"read": True})


def check_mounts(registry: str, traits: RegistryTraits) -> Finding:
    """Say what the index remembers of how this registry mounts."""
    facts = {"mounts": traits.mounts, "finds": traits.finds, "after_manifest": traits.after_manifest}
    finds = ", and finds layers without being told where" if traits.finds else ""
    late = ", only what a manifest already names" if traits.after_manifest else ""
    match traits.mounts:
        case True:
            return Finding("mounts", "ok", f"{registry} was seen to mount{late}{finds}", facts)
        case False:
            words = f"{registry} held a layer and did not mount it: layers are uploaded there for some hours"
            return Finding("mounts", "unknown", words, facts)
    words = f"not seen yet on {registry}: the first push with a known source shows{finds}"
    return Finding("mounts", "unknown", words, facts)


async def examine(settings: Settings, dest: Reference | None) -> list[Finding]:
    """Look at everything that a push to `dest` needs, or without one at the index alone."""
    index, traits = await check_index(settings, dest)
    if dest is None:
        return [index]
    async with RegistryClient(dest, options=client_options(settings, patient=False)) as client:
        registry, ping = await check_registry(client, plain_http=settings.plain_http)
        credentials = await check_credentials(settings, dest, ping)
        if ping is None:
            return [index, registry, credentials]
        access = await check_access(client, dest, ping)
        return [index, registry, proven(credentials, access), access, check_mounts(client.registry, traits)]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
