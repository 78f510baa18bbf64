"""A client that drips holds nobody up."""

import asyncio
import os
from pathlib import Path

import pytest

from crossmount.oci import Digest
from crossmount.testing import BasicAuth, Grant, RegistryOptions, ScriptedRegistry
from support.proxies import proxy_before
from support.proxy_turns import fleet_of, push_spooled
from support.waiting import PATIENCE, until

DATA = os.urandom(1024 * 1024 + 17)
DIGEST = Digest.of(DATA)
AUTH = BasicAuth(users={"evil": "e", "team": "t"}, grants={"evil": (Grant("evil/*"),), "team": (Grant("team/*"),)})


@pytest.mark.parametrize(
    ("name", "login"), [("evil/x", "ZXZpbDpl"), ("team/x", "dGVhbTp0")], ids=["unreadable", "readable"]
)
async def test_a_dripping_upload_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, login: str
) -> None:
    """Neither an upload that the caller could not mount from, nor one that does not get on, is waited for."""
    monkeypatch.setattr("crossmount.proxy.uploads.turns.PACED_SECONDS", 0.3)
    async with (
        ScriptedRegistry(RegistryOptions(auth=AUTH)) as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
        asyncio.timeout(PATIENCE),
    ):
        _, writer = await asyncio.open_connection(*proxy.address)
        writer.write(
            f"POST /v2/{name}/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Basic {login}\r\nContent-Length: {len(DATA)}\r\n\r\nx".encode()
        )
        await until(lambda: fleet_of(proxy)._poller.queues.uploader(proxy.registry, DIGEST) is not None)
        put = await push_spooled(proxy, "team/app", DATA, auth=("team", "t"))
        assert put.status_code == 201
        writer.close()
