"""An index from a URL. Opening does no I/O: the first use connects, and starts the embedded server."""

import asyncio
import os
from pathlib import Path

from crossmount.index.connection import StartedLink, async_link, blocking_link
from crossmount.index.embedded import ensure_running
from crossmount.index.keys import Keys
from crossmount.index.link import BlockingLink
from crossmount.index.memory import MemoryMountIndex
from crossmount.index.redis import RedisMountIndex

DEFAULT_URL = "embedded:"
URL_VARIABLE = "CROSSMOUNT_INDEX"


def open_index(url: str | None = None, *, namespace: str = "default") -> RedisMountIndex | MemoryMountIndex:
    """Open an index for an event loop.

    Args:
        url: `redis://`, `rediss://`, `unix://` (as redis-py reads them), `memory://`, or `embedded:`; None is what
            CROSSMOUNT_INDEX says, else the embedded index.
        namespace: keeps tenants apart on one server.

    Raises:
        InvalidIndexURLError: the URL names no index.
        InvalidInputError: the namespace breaks its grammar.
    """
    keys = Keys(namespace)
    if is_memory(url):
        return MemoryMountIndex()
    given = _given(url)
    link = StartedLink(_start, async_link) if _is_embedded(given) else async_link(given)
    return RedisMountIndex(link, keys=keys)


def blocking_index_link(url: str | None) -> BlockingLink | StartedLink:
    """Make the link that `url` names, one that never suspends.

    Raises:
        InvalidIndexURLError: the URL names no server.
    """
    given = _given(url)
    return StartedLink(_start_now, blocking_link) if _is_embedded(given) else blocking_link(given)


def is_memory(url: str | None) -> bool:
    """Tell whether `url`, or the environment in its place, names an index in this process."""
    return _given(url) in {"memory:", "memory://"}


def _given(url: str | None) -> str:
    return url or os.environ.get(URL_VARIABLE) or DEFAULT_URL


def _is_embedded(url: str) -> bool:
    return url in {"embedded:", "embedded://"}


async def _start() -> Path:
    return await asyncio.to_thread(ensure_running)


async def _start_now() -> Path:
    return ensure_running()
