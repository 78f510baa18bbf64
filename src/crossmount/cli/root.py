"""The command itself, and the table of its commands."""

from importlib.metadata import version

import click

from crossmount.cli.command import Lazy, LazyGroup

COMMANDS = {
    "push": Lazy(
        "crossmount.cli.commands.push", "push", "Push an image: mount what the registry holds, upload the rest."
    ),
    "copy": Lazy("crossmount.cli.commands.copy", "copy", "Copy images between registries, each layer once."),
    "scan": Lazy("crossmount.cli.commands.scan", "scan", "Tell the index what a registry holds already."),
    "events": Lazy(
        "crossmount.cli.commands.events", "events", "Keep the index true by what a registry tells of itself."
    ),
    "sources": Lazy("crossmount.cli.commands.layers", "sources", "List where a layer could be mounted from."),
    "locate": Lazy(
        "crossmount.cli.commands.locate", "locate", "Say where a layer is, or an image, and how much of it."
    ),
    "add": Lazy("crossmount.cli.commands.layers", "add", "Tell the index of a repository that holds a layer."),
    "forget": Lazy("crossmount.cli.commands.layers", "forget", "Drop a repository as a source of a layer."),
    "must-mount": Lazy("crossmount.cli.commands.layers", "must_mount", "Show or lift a layer's must-mount flag."),
    "fleet": Lazy("crossmount.cli.commands.fleet", "fleet", "Show who uploads what right now, and who waits."),
    "index": Lazy("crossmount.cli.commands.index", "index", "Look at the index and after it, or stop it."),
    "doctor": Lazy(
        "crossmount.cli.commands.doctor", "doctor", "Say what is reachable, as whom, and what it can do."
    ),
    "proxy": Lazy("crossmount.cli.commands.proxy", "proxy", "Stand before a registry and mount for any client."),
    "demo": Lazy(
        "crossmount.cli.demo.command", "demo", "Push eight images that share layers, and count the bytes."
    ),
}


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    del param
    if value and not ctx.resilient_parsing:
        click.echo(f"crossmount {version('crossmount')}")
        ctx.exit()


@click.command(cls=LazyGroup, lazy=COMMANDS)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def crossmount() -> None:
    """Push each layer once per fleet: layers that the registry already holds are mounted, not uploaded.

    An index shared by many pushers remembers which repository holds which layer. It only hints: the
    registry decides every time, and a push never fails for the index.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 a must-mount layer could not be mounted, 4 not allowed by
    the registry, 130 interrupted.
    """
