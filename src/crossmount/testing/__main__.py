"""`python -m crossmount.testing`: a registry in a separate process."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from crossmount.testing.options import Auth, BasicAuth, RegistryOptions, TokenAuth
from crossmount.testing.server import ScriptedRegistry


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; an error in it ends the process with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m crossmount.testing",
        description="Serve an OCI registry for tests; it forgets everything when it ends.",
    )
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 lets the system choose")
    parser.add_argument("--root", type=Path, help="folder for the bytes of blobs (default: memory)")
    parser.add_argument("--mounts", action=flag, default=True, help="carry out mounts")
    parser.add_argument("--finds", action=flag, default=False, help="mount without from")
    parser.add_argument("--after-manifest", action="store_true", help="mount only what a manifest references")
    parser.add_argument("--references", action=flag, default=True, help="refuse manifests with absent blobs")
    parser.add_argument("--relative-locations", action="store_true", help="send Locations without a host")
    parser.add_argument("--denied-source", action="append", default=[], help="repository not to mount from")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that every answer waits")
    parser.add_argument(
        "--commit-seconds",
        type=float,
        default=0.0,
        help="seconds from an upload's last byte until the blob exists",
    )
    parser.add_argument("--user", action="append", default=[], help="user:password; asks for a login")
    parser.add_argument("--token-auth", action="store_true", help="tokens instead of Basic authentication")
    parsed = parser.parse_args(arguments)
    if any(":" not in user for user in parsed.user):
        parser.error("--user takes user:password")
    if parsed.token_auth and not parsed.user:
        parser.error("--token-auth needs a --user")
    return parsed


def options_of(arguments: argparse.Namespace) -> RegistryOptions:
    """Return the registry options of a command line."""
    users = dict(user.split(":", 1) for user in arguments.user)
    auth: Auth | None = None
    if users:
        auth = TokenAuth(users=users) if arguments.token_auth else BasicAuth(users=users)
    return RegistryOptions(
        mounts=arguments.mounts,
        finds=arguments.finds,
        after_manifest=arguments.after_manifest,
        checks_references=arguments.references,
        relative_locations=arguments.relative_locations,
        denied_sources=frozenset(arguments.denied_source),
        latency=arguments.latency,
        commit_seconds=arguments.commit_seconds,
        root=arguments.root,
        auth=auth,
    )


async def serve(arguments: argparse.Namespace) -> None:
    """Print the URL and serve until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with ScriptedRegistry(options_of(arguments), host=arguments.host, port=arguments.port) as registry:
        sys.stdout.write(f"{registry.url}\n")
        sys.stdout.flush()
        await ended.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parsed = read_arguments(arguments)
    try:
        asyncio.run(serve(parsed))
    except OSError as error:
        sys.stderr.write(f"cannot listen on {parsed.host}:{parsed.port}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
