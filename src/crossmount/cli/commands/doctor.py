"""`crossmount doctor`: checks of all that a push needs. Nothing here uploads, mounts or changes anything."""

import statistics
import textwrap
import time
from collections.abc import Callable
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

import click

from crossmount import _formatting as text
from crossmount._dataclass import dataclass
from crossmount.cli import output
from crossmount.cli.access import (
    ServerProbe,
    client_options,
    display_url,
    index_kind,
    index_url,
    opened_index,
    probe_server,
)
from crossmount.cli.command import Command, json_option
from crossmount.cli.commands.index_registries import advice
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import FAILED, message_of
from crossmount.cli.options import REFERENCE
from crossmount.cli.settings import OFF, Settings, settings_of
from crossmount.errors import CrossmountError
from crossmount.index import RegistryTraits
from crossmount.index.registries import RecordedTraits, recorded_traits
from crossmount.oci import Digest, Reference
from crossmount.registry import Ping, RegistryClient
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.lookup import StoredCredentials, from_home

_MARKS = {"ok": "ok", "unknown": "-", "failed": "FAILED"}

PINGS = 5
"""How many round trips are measured; the result is their median."""

CheckResult = Literal["ok", "unknown", "failed"]

FOUND = ": found, not checked"
_NO_BYTES = Digest.of(b"")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        about: the name of the check.
        words: the result for people.
        facts: the result for scripts.
        advice: lines that say what to do; not wrapped, since they may contain commands.
    """

    about: str
    verdict: CheckResult
    words: str
    facts: dict[str, Any] = field(default_factory=dict)
    advice: tuple[str, ...] = ()


def failed(about: str, error: CrossmountError) -> Finding:
    """Return the finding for a check that failed."""
    return Finding(about, "failed", message_of(error))


@click.command(cls=Command)
@click.argument("dest", type=REFERENCE, required=False)
@json_option
@click.pass_context
def doctor(ctx: click.Context, dest: Reference | None, as_json: bool) -> None:
    """Check the index, DEST's registry, its round trip, the credentials, and whether the registry mounts layers.

    Without DEST only the index is checked; this starts the embedded index. Nothing is uploaded, and no password is
    shown. Exit status: 0 if everything that a push needs works, 1 if not.
    """
    findings = run_async(examine(settings_of(ctx), dest))
    if as_json:
        output.document(as_document(findings))
    else:
        output.lines(as_lines(findings, dest, width=output.width()))
    if any(finding.verdict == "failed" for finding in findings):
        ctx.exit(FAILED)


def as_document(findings: list[Finding]) -> dict[str, object]:
    """Return the findings as a JSON document."""
    document: dict[str, object] = {"ok": all(finding.verdict != "failed" for finding in findings)}
    for finding in findings:
        about = {"verdict": finding.verdict, "words": finding.words, **finding.facts}
        document[finding.about] = about | ({"advice": list(finding.advice)} if finding.advice else {})
    return document


def as_lines(findings: list[Finding], dest: Reference | None, *, width: int | None) -> list[str]:
    """Return the findings as lines, wrapped at `width` columns; not wrapped if it is None."""
    lines = [line for finding in findings for line in _lines_of(finding, width)]
    if dest is None:
        lines.append("Name a DEST, as for push, to check its registry too.")
    return lines


def _lines_of(finding: Finding, width: int | None) -> list[str]:
    head = f"{finding.about:<12} {_MARKS[finding.verdict]:<7} "
    return [*_folded(head, finding.words, width), *(" " * len(head) + line for line in finding.advice)]


def _folded(head: str, words: str, width: int | None) -> list[str]:
    if width is None:
        return [head + words]
    return textwrap.wrap(
        words, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )


async def check_index(settings: Settings, dest: Reference | None) -> tuple[Finding, RecordedTraits]:
    """Check whether the index works, and read what it knows about dest's registry."""
    url = index_url(settings)
    nothing = RecordedTraits(registry="", names=(), traits=RegistryTraits())
    if url == OFF:
        words = "off: earlier pushes are unknown, every layer that the repository lacks is uploaded"
        return Finding("index", "unknown", words, {"url": OFF}), nothing
    facts = {"url": display_url(url)}
    try:
        async with opened_index(settings) as index:
            probe = await probe_server(index)
            recorded = nothing if dest is None else await recorded_traits(index, dest.repository.registry)
    except CrossmountError as error:
        return Finding("index", "failed", message_of(error), facts), nothing
    return _index_finding(url, probe, facts), recorded


def _index_finding(url: str, probe: ServerProbe | None, facts: dict[str, Any]) -> Finding:
    if probe is None:
        return Finding("index", "ok", "in the memory of one process, lost when it ends", facts)
    name = "the embedded one, for this host only" if index_kind(url) == "embedded" else display_url(url)
    words = f"{name}, {probe.server}, {text.milliseconds(probe.round_trip)} away"
    more = {"server": probe.server, "round_trip_ms": _ms(probe.round_trip)}
    return Finding("index", "ok", words, facts | more)


async def check_registry(
    client: RegistryClient, *, plain_http: bool, clock: Callable[[], float] = time.perf_counter
) -> tuple[Finding, Ping | None]:
    """Check whether the registry answers, and measure its round trip."""
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
        "none": "needs no login",
        "basic": "needs a user name and a password",
        "bearer": f"needs a token from {ping.realm_host}",
    }.get(ping.scheme, f"needs {ping.scheme} authentication")
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


async def check_credentials(authfile: Path | None, dest: Reference, ping: Ping | None) -> Finding:
    """Find the credentials that a push would use. The secret is not read."""
    stored = StoredCredentials(authfile=authfile, written=dest.repository.address)
    try:
        found = await stored.find(dest.registry, dest.name)
    except CrossmountError as error:
        return failed("credentials", error)
    looked = f"looked in {', '.join(map(from_home, stored.looked))}" if stored.looked else ""
    is_needed = ping is None or ping.scheme != "none"
    if found is None:
        words = f"none are stored for {dest.registry}{f'; {looked}' if is_needed else ', and none are needed'}"
        return Finding("credentials", "unknown" if is_needed else "ok", words, {"looked_in": list(stored.looked)})
    state = FOUND if is_needed else ", not needed here"
    facts = {
        "user": found.username or None,
        "kind": found.kind,
        "from": found.origin,
        "looked_in": list(stored.looked),
    }
    words = f"{_who(found)}, from {found.origin}{f' ({looked} first)' if looked else ''}{state}"
    return Finding("credentials", "unknown" if is_needed else "ok", words, facts)


def judged(credentials: Finding, access: Finding, registry: str) -> tuple[Finding, Finding]:
    """Return the findings about credentials and access, after an access to a registry that may want a login."""
    if credentials.verdict != "unknown":
        return credentials, access
    words, is_denied = credentials.words.removesuffix(FOUND), access.facts.get("status") in {401, 403}
    if credentials.facts.get("from") is not None:
        if access.verdict == "ok":
            credentials = replace(credentials, verdict="ok", words=f"{words}, accepted")
        elif is_denied:
            credentials = replace(credentials, verdict="failed", words=f"{words}: refused")
        return credentials, access
    missing, _, looked = words.partition(";")
    if is_denied:
        login = f"{missing}, which wants a login: docker login {registry}, or --authfile FILE;{looked}"
        access = replace(access, words="denied without a login")
        return replace(credentials, verdict="failed", words=login), access
    if access.verdict == "ok":
        allowed = f"{missing}; anonymous requests are answered, but a push may need a login"
        credentials = replace(credentials, words=allowed)
    return credentials, access


def _who(found: Credential) -> str:
    kind = {"password": "", "identity": "an identity token", "registry": "a token for the registry"}[found.kind]
    if not found.username:
        return kind or "a password without a user name"
    return f"{found.username}, with {kind}" if kind else found.username


async def check_access(client: RegistryClient, dest: Reference, ping: Ping) -> Finding:
    """Check whether dest can be read and, as far as a token shows, written."""
    repository = dest.repository
    try:
        await client.prepare(repository, ())
        await client.head_blob(repository, _NO_BYTES)
    except CrossmountError as error:
        return replace(failed("access", error), facts={"status": error.status} if error.status else {})
    if ping.scheme == "bearer":
        words = f"a token to read and write {repository.name} was granted, and reading works"
        return Finding("access", "ok", words, {"read": True, "write_token": True})
    words = f"reading {repository.name} works; the first push shows whether writing does"
    return Finding("access", "ok", words, {"read": True})


def check_mounts(registry: str, traits: RegistryTraits, *, seconds_left: int | None = None) -> Finding:
    """Return what the index has recorded about mounts on this registry, and when that expires."""
    facts = {
        "mounts": traits.mounts,
        "finds": traits.finds,
        "after_manifest": traits.after_manifest,
        "truthful": traits.truthful,
        "seconds_left": seconds_left,
    }
    finds = ", and finds sources by itself" if traits.finds else ""
    late = ", only those that a manifest names" if traits.after_manifest else ""
    untrue = ". It once said so and was wrong, so it is asked after each mount" if traits.truthful is False else ""
    match traits.mounts:
        case True:
            return Finding("mounts", "ok", f"{registry} has mounted layers{late}{finds}{untrue}", facts)
        case False:
            hours = "some hours" if seconds_left is None else f"another {text.duration(seconds_left)}"
            words = f"{registry} had a layer and did not mount it, so layers are uploaded there for {hours}"
            return Finding("mounts", "unknown", words, facts, tuple(advice(registry, traits)))
    words = f"not known yet for {registry}: the first push with a known source shows it{finds}{untrue}"
    return Finding("mounts", "unknown", words, facts)


async def examine(settings: Settings, dest: Reference | None) -> list[Finding]:
    """Check everything that a push to `dest` needs; without `dest`, the index only."""
    index, recorded = await check_index(settings, dest)
    if dest is None:
        return [index]
    options = client_options(settings, patient=False)
    async with RegistryClient(dest, options=options) as client:
        registry, ping = await check_registry(client, plain_http=options.plain_http)
        credentials = await check_credentials(options.authfile, dest, ping)
        mounts = check_mounts(client.registry, recorded.traits, seconds_left=recorded.seconds_left)
        if ping is None:  # this check needs no answer from the registry
            return [index, registry, credentials, *([] if recorded.seconds_left is None else [mounts])]
        access = await check_access(client, dest, ping)
        return [index, registry, *judged(credentials, access, client.registry), mounts]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
