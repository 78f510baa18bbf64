"""`crossmount index registry` and `crossmount index same-registry`, and advice where a registry does not mount."""

import re
import time
from typing import Any

import click

from crossmount import _formatting as text
from crossmount.cli import output
from crossmount.cli.access import opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.options import Checked
from crossmount.cli.settings import Settings, settings_of
from crossmount.index import RegistryTraits
from crossmount.index.protocol import BackingServer, backing_server
from crossmount.index.registries import (
    RecordedTraits,
    forget_traits,
    recorded_traits,
    share_pair,
    shared_pairs,
    unshare_pair,
)
from crossmount.oci.reference import normalise_registry

_QUESTIONS = {
    "mounts": "mounts layers from a named repository",
    "finds": "finds layers by itself",
    "after_manifest": "mounts only what a manifest names",
    "truthful": "has what it says that it mounted",
}
_ANSWERS = {True: "yes", False: "no", None: "not known"}

_ECR = re.compile(
    r"[0-9]{12}\.(?:dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
    r"|dkr-ecr(?:-fips)?\.(?P<dual>[a-z0-9-]+)\.on\.(?:aws|amazonwebservices\.com\.cn))"
)


def ecr_region(registry: str) -> str | None:
    """Return the AWS region in a host of ECR's form: `<account>.dkr.ecr.<region>.amazonaws.com`, or its variants.

    Any other host has none.
    """
    match = _ECR.fullmatch(registry)
    return None if match is None else match["region"] or match["dual"]


def advice(registry: str, traits: RegistryTraits) -> list[str]:
    """Return lines that say how to enable mounting, if a registry is known not to mount; else none."""
    if traits.mounts is not False:
        return []
    forget = f"crossmount index registry {registry} --forget"
    region = ecr_region(registry)
    if region is None:
        return [f"once mounting is on there, do not wait: {forget}"]
    return [
        "ECR mounts only with its account setting BLOB_MOUNTING:",
        f"aws ecr put-account-setting --name BLOB_MOUNTING --value ENABLED --region {region}",
        f"then: {forget}",
    ]


@click.command(cls=Command)
@click.argument("registry", type=Checked("registry", normalise_registry))
@click.option("--forget", is_flag=True, help="Forget it, so that the next push finds out anew.")
@json_option
@click.pass_context
def registry(ctx: click.Context, registry: str, forget: bool, as_json: bool) -> None:
    """Show what the index believes of REGISTRY: whether it mounts layers, and whether its word can be trusted.

    Pushes learn it from the registry's answers, and it is believed for six hours after the last of them. With
    --forget, which changes nothing else, whoever switched mounting on need not wait that long.
    """
    recorded = run_async(_recorded(settings_of(ctx), registry, forget=forget))
    if as_json:
        output.document(_document(recorded, now=time.time(), forgotten=forget))
    elif forget:
        done = "nothing was known" if recorded.traits == RegistryTraits() else "forgotten"
        output.lines([f"{registry}: {done}, the next push finds out anew"])
    else:
        output.lines(_lines(recorded))


async def _recorded(settings: Settings, registry: str, *, forget: bool) -> RecordedTraits:
    async with opened_index(settings, writes=forget) as index:
        recorded = await recorded_traits(index, registry)
        if forget:
            await forget_traits(index, registry)
        return recorded


def _document(recorded: RecordedTraits, *, now: float, forgotten: bool) -> dict[str, Any]:
    """Return traits as a JSON document."""
    left, age = recorded.seconds_left, recorded.age
    return {
        "registry": recorded.registry,
        "names": list(recorded.names),
        **_traits(recorded),
        "learnt_at": None if age is None else round(now - age),
        "believed_until": None if left is None else round(now + left),
        "seconds_left": left,
        "forgotten": forgotten,
    }


def _lines(recorded: RecordedTraits) -> list[str]:
    """Return traits as lines for people."""
    width = max(map(len, _QUESTIONS.values()))
    lines = [f"registry: {recorded.registry}"]
    if len(recorded.names) > 1:
        lines.append(
            f"  one registry with {', '.join(name for name in recorded.names if name != recorded.registry)}"
        )
    lines += [f"  {_QUESTIONS[name]:<{width}}  {_ANSWERS[value]}" for name, value in _traits(recorded).items()]
    if recorded.seconds_left is not None and recorded.age is not None:
        age, left = text.duration(recorded.age), text.duration(recorded.seconds_left)
        lines.append(f"  learnt {age} ago, believed for another {left}")
    elif all(value is None for value in _traits(recorded).values()):
        lines.append("  nothing is learnt yet: the first push with a known source shows whether it mounts")
    return [*lines, *(f"  {line}" for line in advice(recorded.registry, recorded.traits))]


def _traits(recorded: RecordedTraits) -> dict[str, bool | None]:
    return {name: getattr(recorded.traits, name) for name in _QUESTIONS}


@click.command("same-registry", cls=Command)
@click.argument("pairs", nargs=-1, metavar="[A=B]...")
@click.option("--remove", "removed", multiple=True, metavar="A[=B]", help="Remove the pair of A. Repeatable.")
@json_option
@click.pass_context
def same_registry(ctx: click.Context, pairs: tuple[str, ...], removed: tuple[str, ...], as_json: bool) -> None:
    """Say for all users of the index that A and B are two names of one registry; without arguments list the pairs.

    The index keeps what it knows of A under B: give the name that most pushes use as B. Requests still go to the
    name that each user gives. Running processes use a new pair within a minute. A user's own --same-registry comes
    first.
    """
    found = run_async(_share(settings_of(ctx), pairs, removed))
    if as_json:
        output.document({"same_registry": [{"name": name, "kept_as": other} for name, other in found]})
    elif found:
        output.lines(f"{name} = {other}" for name, other in found)
    else:
        output.lines(["no registry has several names in the index"])


async def _share(
    settings: Settings, pairs: tuple[str, ...], removed: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    async with opened_index(settings, writes=bool(pairs or removed)) as index:
        server = _server(backing_server(index))
        for pair in removed:
            if not await unshare_pair(server, pair):
                output.note(f"the index has no pair of {pair}")
        for pair in pairs:
            await share_pair(server, pair)
        return (await shared_pairs(server)).pairs


def _server(server: BackingServer | None) -> BackingServer:
    if server is None:
        raise click.UsageError("an index in memory shares nothing: give --index another value")
    return server
