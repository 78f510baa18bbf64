"""An environment that says nothing of connections, servers that are functions, and one request to a registry."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, NoCredentials, RegistryClient
from crossmount.testing.acceptor import Acceptor

_FOREIGN = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_NO_BYTES = Digest.of(b"")

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Listen = Callable[[Handle], Awaitable[int]]


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without proxies, and an empty home."""
    for name in _FOREIGN:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
async def listen() -> AsyncGenerator[Listen]:
    """Serve a function on a port of the loopback."""
    async with AsyncExitStack() as stack:

        async def start(handle: Handle) -> int:
            acceptor = await stack.enter_async_context(Acceptor(handle))
            return await acceptor.open()

        yield start


async def head(address: str, options: ClientOptions) -> None:
    """Ask a registry for a blob."""
    async with RegistryClient(address, options=options, credentials=NoCredentials()) as client:
        await client.head_blob(Repository(client.registry, "team/app", address), _NO_BYTES)
