"""`crossmount index registry` and `crossmount index same-registry`."""

import time

import click

from crossmount.cli import output
from crossmount.cli.access import opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.options import Checked
from crossmount.cli.registry_belief import as_document, as_lines
from crossmount.cli.settings import Settings, settings_of
from crossmount.index import RegistryTraits
from crossmount.index.belief import (
    RegistryBelief,
    belief_of,
    forget_belief,
    share_pair,
    shared_pairs,
    unshare_pair,
)
from crossmount.index.protocol import BackingServer, backing_server
from crossmount.oci.reference import normalise_registry


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
    belief = run_async(_believed(settings_of(ctx), registry, forget=forget))
    if as_json:
        output.document(as_document(belief, now=time.time(), forgotten=forget))
    elif forget:
        done = "nothing was known" if belief.traits == RegistryTraits() else "forgotten"
        output.lines([f"{registry}: {done}, the next push finds out anew"])
    else:
        output.lines(as_lines(belief))


async def _believed(settings: Settings, registry: str, *, forget: bool) -> RegistryBelief:
    async with opened_index(settings) as index:
        belief = await belief_of(index, registry)
        if forget:
            await forget_belief(index, registry)
        return belief


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
    async with opened_index(settings) as index:
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
