"""No secret of a world occurs in output, in a log, in an error, or at a host that it is not for."""

import asyncio
import base64
import logging
import os
import string
import sys
import tempfile
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crossmount.asyncio import CrossmountError, Reference, Repository
from promises.image import content_of
from promises.known import NIGHT, NIGHTLY, Oracle, excluded, tried
from promises.play import INDEX_PASSWORD, Stage, push, staged
from promises.registry import LOGIN, TOKENS
from promises.worlds import World, worlds
from support.servers import Server

ORACLE: Oracle = "no word too many"

REGISTRY_SECRETS = (LOGIN[1], base64.b64encode(":".join(LOGIN).encode()).decode(), TOKENS)
INDEX_SECRETS = (INDEX_PASSWORD,)

_WORDS = string.ascii_letters + string.digits
_FOREIGN = ("CROSSMOUNT_", "DOCKER_", "REGISTRY_", "XDG_")


@tried(ORACLE, 30)
@given(world=worlds(without=excluded(ORACLE)))
def test_the_library_says_no_secret(world: World, valkey_process: Server) -> None:
    """Its errors, its events, all that is logged and what other hosts receive are free of them."""
    said, hosts = asyncio.run(_push_by_library(world, valkey_process))
    assert not secrets_in(said, *REGISTRY_SECRETS, *INDEX_SECRETS)
    assert not hosts


@tried(ORACLE, 10)
@given(world=worlds(without=excluded(ORACLE)))
def test_a_copy_says_no_secret(world: World, valkey_process: Server) -> None:
    """The same of a copy; the registry that is copied from receives none either."""
    said, hosts = asyncio.run(_push_by_library(world, valkey_process, copies=True))
    assert not secrets_in(said, *REGISTRY_SECRETS, *INDEX_SECRETS)
    assert not hosts


@tried(ORACLE, 6)
@given(world=worlds(without=excluded(ORACLE)))
def test_the_command_says_no_secret(world: World, valkey_process: Server) -> None:
    """What `crossmount push -vv` prints is free of them and of lost exceptions; so is what other hosts receive."""
    said, hosts = asyncio.run(_push_by_command(world, valkey_process))
    assert not secrets_in(said, *REGISTRY_SECRETS, *INDEX_SECRETS)
    assert not hosts
    assert "never retrieved" not in said


@settings(max_examples=100 * (NIGHT if NIGHTLY else 1), derandomize=not NIGHTLY)
@given(
    user=st.text(_WORDS, min_size=1, max_size=12),
    password=st.text(_WORDS + "/@:%+=!", min_size=6, max_size=30).map("Zq9{}".format),  # no word of an error
    rest=st.sampled_from(("registry.example/team/app:1", "registry.example:5000/app", "localhost/a", "team/app")),
)
@example(user="user", password="hunter2/hunter2", rest="registry.example/team/app:1")
def test_a_reference_with_a_password_is_refused_without_it(user: str, password: str, rest: str) -> None:
    """USER:PASSWORD@REGISTRY is no reference, and the error does not repeat the password."""
    for text in (f"{user}:{password}@{rest}", f"https://{user}:{password}@{rest}"):
        for parse in (Reference.parse, Repository.parse):
            with pytest.raises(CrossmountError) as raised:
                parse(text)
            said = "".join(traceback.format_exception(raised.value, limit=0)) + repr(raised.value)
            assert not secrets_in(said, password)


def secrets_in(text: str, *secrets: str) -> list[str]:
    """Return the secrets that occur in a text, as they are or encoded for a URL."""
    forms = {form: secret for secret in secrets for form in (secret, quote(secret, safe=""), quote_plus(secret))}
    return sorted({secret for form, secret in forms.items() if form in text})


def _at_wrong_hosts(stage: Stage) -> list[str]:
    """Return the secrets that the index's server and the other host received, and that are not for them."""
    index, stranger = (bytes(data).decode("latin-1") for data in (stage.relay.sent, stage.stranger.received))
    asked = "" if stage.source is None else repr(stage.source.requests)
    return secrets_in(index, *REGISTRY_SECRETS) + secrets_in(stranger + asked, *REGISTRY_SECRETS, *INDEX_SECRETS)


async def _push_by_library(world: World, server: Server, *, copies: bool = False) -> tuple[str, list[str]]:
    said: list[str] = []
    handler, root = _Said(said), logging.getLogger()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(repr(context)))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with tempfile.TemporaryDirectory(prefix="cm-world-") as folder:
            async with staged(world, content_of(world), server, Path(folder), copies=copies) as stage:
                try:
                    report = await push(stage, lambda event: said.append(repr(event)))
                    said.append(repr(report))
                except CrossmountError as error:
                    said += [repr(error), *traceback.format_exception(error)]
                return "\n".join(said), _at_wrong_hosts(stage)
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


class _Said(logging.Handler):
    """Keeps all that is logged, as it would be printed."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; those of this very test's event loop say nothing of a push."""
        self._said.append(self.format(record))


async def _push_by_command(world: World, server: Server) -> tuple[str, list[str]]:
    with tempfile.TemporaryDirectory(prefix="cm-world-") as folder:
        async with staged(world, content_of(world), server, Path(folder)) as stage:
            env = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "crossmount", "push", f"oci:{stage.layout}", stage.dest, "-vv"),
                *("--plain-http", "--authfile", str(stage.options.authfile)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**env, "HOME": folder, "CROSSMOUNT_INDEX": stage.index_url or "memory://"},
            )
            out, _ = await process.communicate()
            return out.decode(errors="replace"), _at_wrong_hosts(stage)
