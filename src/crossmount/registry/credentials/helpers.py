"""Credential helpers: `docker-credential-<name> get`, run with a deadline.

What a helper answers is never shown. What it says when it fails is, without what looks like a secret.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount._parsing import json_object, one_line
from crossmount._secrets import mask_forms
from crossmount.errors import CredentialsError
from crossmount.registry.credentials.authfiles import Credential, credential

HELPER_SECONDS = 30.0
"""The seconds that a helper may take: some ask a cloud, some ask a person."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_OUTPUT_MAX = 64 * 1024
_WORDS_MAX = 200
_END_SECONDS = 1.0
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
"""A terminal's control sequence, such as one for a colour."""

_NOT_FOUND = b"credentials not found"


async def ask_helper(
    name: str,
    spellings: Sequence[str],
    *,
    env: Mapping[str, str],
    named_by: str,
    deadline: float = HELPER_SECONDS,
) -> Credential | None:
    """Run a helper and return a registry's credential.

    Args:
        name: the helper's name, as in the credential file.
        spellings: names of the registry, asked in order until the helper has a credential.
        env: the helper's environment; its PATH is searched for the helper.
        named_by: the file that names the helper, for messages.
        deadline: the seconds after which the helper is killed, for each name.

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
    for server in spellings:
        end = await _run(path, server, env, deadline, f"{program}, named by {named_by},")
        if end.status == 0:
            found = _read(end.output, f"{program} ({named_by})")
            if found is not None:
                return found
        elif not end.has_none:
            raise CredentialsError(f"{program}, named by {named_by}, failed {end.how}: {end.words}")
    return None


@dataclass(frozen=True, slots=True)
class HelperEnd:
    """The end of a helper's run.

    Attributes:
        status: its exit status; negative: the signal that killed it.
        output: the first bytes of its standard output, which may be secret.
        errors: the first bytes of its standard error.
    """

    status: int
    output: bytes = field(repr=False)
    errors: bytes = field(repr=False)

    @property
    def has_none(self) -> bool:
        """Whether it said, in the words of the protocol, that it has no credential for this registry."""
        return any(_NOT_FOUND in said[:1024].lower() for said in (self.output, self.errors))

    @property
    def how(self) -> str:
        """How it failed."""
        if self.status >= 0:
            return f"with exit status {self.status}"
        names = {number.value: number.name for number in signal.Signals}
        return f"by signal {names.get(-self.status, -self.status)}"

    @property
    def words(self) -> str:
        """What it said, on one line, without secrets and control characters."""
        said = (_printed(stream) for stream in (self.output, self.errors))
        return "; ".join(word for word in said if word) or "it said nothing, so run it by hand to see why"


def _printed(stream: bytes) -> str:
    if "Secret" in (json_object(stream) or {}):  # a credential after all
        return ""
    text = _ESCAPE.sub("", stream.decode(errors="replace")).replace("\ufffd", " ")
    return one_line(mask_forms(text), limit=_WORDS_MAX)


async def _run(path: str, server: str, env: Mapping[str, str], deadline: float, who: str) -> HelperEnd:
    """Run a helper in its own session, so that its children are killed with it."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            path, "get", stdin=PIPE, stdout=PIPE, stderr=PIPE, env=dict(env), start_new_session=True
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
    output, errors = bytearray(), bytearray()
    try:
        async with asyncio.timeout(deadline):
            await asyncio.gather(
                _first_bytes(process.stdout, output), _first_bytes(process.stderr, errors), _ask(process, server)
            )
            await process.wait()
    except TimeoutError:
        words = _printed(bytes(errors)) or "run it by hand to see why"
        raise CredentialsError(f"{who} gave no answer within {deadline:g} s: {words}") from None
    finally:
        await _end(process)
    return HelperEnd(process.returncode or 0, bytes(output), bytes(errors))


async def _ask(process: Process, server: str) -> None:
    """Write the registry's name to a helper, which may end without reading it."""
    assert process.stdin is not None  # noqa: S101 it is a pipe
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(server.encode())
        await process.stdin.drain()
    process.stdin.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await process.stdin.wait_closed()


async def _first_bytes(stream: asyncio.StreamReader | None, kept: bytearray) -> None:
    """Read a stream to its end, and keep its first bytes."""
    while stream is not None and (data := await stream.read(_OUTPUT_MAX)):
        kept += data[: _OUTPUT_MAX + 1 - len(kept)]


async def _end(process: Process) -> None:
    """Kill a helper and its children; wait for its end, but not for a child in a session of its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # asyncio sees the end of a process only after that of its pipes, which may be full of what nobody has read
        try:
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.gather(*(_first_bytes(s, bytearray()) for s in (process.stdout, process.stderr)))
                await process.wait()
        except TimeoutError:
            process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 nothing else closes its pipes


def _read(output: bytes, origin: str) -> Credential | None:
    document = json_object(output) if len(output) <= _OUTPUT_MAX else None
    if document is None:
        raise CredentialsError(f"{origin}: its answer is not a JSON object: run it by hand to see why")
    username, secret = document.get("Username"), document.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise CredentialsError(f"{origin}: its answer lacks Username or Secret: run it by hand to see why")
    return credential(username, secret, origin) if username or secret else None
