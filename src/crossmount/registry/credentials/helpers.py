"""Credential helpers: `docker-credential-<name> get`, run with a deadline; their output is never shown."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping

from crossmount._parsing import json_object
from crossmount.errors import CredentialsError
from crossmount.oci.reference import DOCKER_HUB
from crossmount.registry.credentials.authfiles import Credential, credential

HELPER_SECONDS = 30.0
"""The seconds that a helper may take: some ask a cloud, some ask a person."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_OUTPUT_MAX = 64 * 1024
_HUB_KEY = "https://index.docker.io/v1/"
_NOT_FOUND = b"credentials not found"


async def ask_helper(
    name: str, registry: str, *, env: Mapping[str, str], named_by: str, deadline: float = HELPER_SECONDS
) -> Credential | None:
    """Run a helper and return a registry's credential.

    Args:
        name: the helper's name, as in the credential file.
        registry: the registry, normalised.
        env: the helper's environment; its PATH is searched for the helper.
        named_by: the file that names the helper, for messages.
        deadline: the seconds after which the helper is killed.

    Returns:
        The credential, or None if the helper has none for this registry.

    Raises:
        CredentialsError: the helper is missing, failed, took too long, or its output is not valid.
    """
    if not _NAME.fullmatch(name):
        raise CredentialsError(f"{named_by}: {name[:64]!r} is no helper's name: it may have letters, digits . _ -")
    program = f"docker-credential-{name}"
    path = shutil.which(program, path=env.get("PATH"))
    if path is None:
        raise CredentialsError(f"{program}, named by {named_by}, is not on the PATH: install it, or log in anew")
    status, output = await _run(path, registry, env, deadline, f"{program}, named by {named_by},")
    if status != 0:
        if _NOT_FOUND in output[:1024].lower():
            return None
        raise CredentialsError(
            f"{program}, named by {named_by}, failed with exit status {status}: run it by hand to see why"
        )
    return _read(output, f"{program} ({named_by})")


async def _run(path: str, registry: str, env: Mapping[str, str], deadline: float, who: str) -> tuple[int, bytes]:
    """Run a helper in its own session, so that its children are killed with it; return its status and output."""
    server = _HUB_KEY if registry == DOCKER_HUB else registry
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            path, "get", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=dict(env), start_new_session=True
        )
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio would kill the helper alone, and wait for ever for a pipe that its children keep open
        with contextlib.suppress(OSError):
            await _end(await starting)
        raise
    except OSError as error:
        raise CredentialsError(f"{who} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(deadline):
            output, _ = await process.communicate(server.encode())
    except TimeoutError:
        raise CredentialsError(f"{who} gave no answer within {deadline:g} s: run it by hand to see why") from None
    finally:
        await _end(process)
    return process.returncode or 0, output


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _read(output: bytes, origin: str) -> Credential | None:
    document = json_object(output) if len(output) <= _OUTPUT_MAX else None
    if document is None:
        raise CredentialsError(f"{origin}: its answer is not a JSON object: run it by hand to see why")
    username, secret = document.get("Username"), document.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise CredentialsError(f"{origin}: its answer lacks Username or Secret: run it by hand to see why")
    return credential(username, secret, origin) if username or secret else None
