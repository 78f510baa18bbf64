"""Settings that a proxy refuses: one line each, before it listens."""

import asyncio
import base64
import json
import logging
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization

from crossmount.errors import InvalidInputError, ListenError
from crossmount.index import MemoryMountIndex
from crossmount.oci import Digest
from crossmount.proxy.server import RunningProxy, running, serve
from crossmount.proxy.settings import ProxySettings
from crossmount.registry import ClientOptions
from crossmount.testing import BasicAuth, Fault, RegistryOptions, ScriptedRegistry
from crossmount.testing.faults import html
from support.certificates import self_signed
from support.proxies import error_code, proxy_before
from support.waiting import until

PLAIN = ProxySettings(upstreams=("http://127.0.0.1:1",), port=0)


async def refusal(**settings: Any) -> str:
    """Return the error message of invalid settings."""
    with pytest.raises((InvalidInputError, ListenError)) as caught:
        async with running(replace(PLAIN, **settings), MemoryMountIndex()):
            pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"upstreams": ("127.0.0.1:5000",)}, "--upstream: begin with https:// or http://"),
        ({"upstreams": ("ftp://r.example",)}, "--upstream: begin with https:// or http://"),
        ({"upstreams": ("https://r.example/v2",)}, "--upstream: give https://host"),
        ({"upstreams": ("https://ann:secret@r.example",)}, "--upstream: give https://host"),
        ({"upstreams": ("https://r.example:port",)}, "--upstream: not a URL"),
        ({"public_url": "hub.test"}, "--public-url: begin with https:// or http://"),
        ({"public_url": "https://hub.test/x"}, "--public-url: give https://host"),
        ({"allow_sources": ("",)}, "--allow-source: '' fits no repository"),
        ({"allow_sources": ("ok/*", "Base/*")}, "'Base/*' fits no repository"),
        ({"allow_sources": ("base/[",)}, "'base/[' fits no repository"),
        ({"allow_sources": ("127.0.0.1:1/base",)}, "fits no repository"),
        ({"host": "192.0.2.1"}, "cannot listen there"),
        ({"host": "no such host"}, "no such address"),
    ],
)
async def test_settings_that_cannot_be_used(settings: dict[str, Any], words: str) -> None:
    """An error names the option and the fault, and never a password."""
    said = await refusal(**settings)
    assert words in said
    assert "secret" not in said


@pytest.mark.parametrize("kind", ["nobody", "no registry"])
async def test_a_registry_that_does_not_serve_is_named_at_the_start(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy whose registry does not answer warns at the start, runs, and is not ready."""
    proxies: list[RunningProxy] = []
    async with ScriptedRegistry(faults=[Fault(times=None, action=html(404))]) as registry:
        upstream = "http://127.0.0.1:1" if kind == "nobody" else registry.url
        serving = asyncio.create_task(
            serve(replace(PLAIN, upstreams=(upstream,)), MemoryMountIndex(), ready=proxies.append)
        )
        await until(lambda: "until the registry serves" in caplog.text)
        async with httpx.AsyncClient(base_url=proxies[0].server.url) as client:
            assert (await client.get("/_crossmount/readyz")).status_code == 503
            assert (await client.get("/_crossmount/healthz")).status_code == 200
        proxies[0].server.stop()
        await serving


@pytest.mark.parametrize("spoken", ["http", "https"])
async def test_an_upstream_of_the_wrong_scheme(
    spoken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says how the upstream's URL has to begin, at the start and at each request."""
    tls = self_signed(tmp_path)[0] if spoken == "https" else None
    async with ScriptedRegistry(tls=tls) as registry:
        other = {"http": "https", "https": "http"}[spoken]
        async with proxy_before(f"{other}://{registry.address}") as proxy:
            assert f"begin its URL with {spoken}://" in str(await proxy.app.endpoints.registry_trouble())
            assert (await proxy.client.get("/v2/")).status_code == 502
    assert f"begin its URL with {spoken}://" in caplog.text


async def test_credentials_of_the_proxys_own_that_do_not_work(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Rejected credentials of the proxy's own are logged without the secret and counted, and it is not ready."""
    auth = tmp_path / "auth.json"
    login = base64.b64encode(b"ann:wrong").decode()
    async with ScriptedRegistry(RegistryOptions(auth=BasicAuth(users={"ann": "pw"}, grants={}))) as registry:
        auth.write_text(json.dumps({"auths": {registry.address: {"auth": login}}}))
        async with proxy_before(registry.url, auth="service", options=ClientOptions(authfile=auth)) as proxy:
            answer = await proxy.client.get("/v2/a/tags/list")
            assert (answer.status_code, error_code(answer)) == (403, "DENIED")
            assert (await proxy.client.get("/_crossmount/readyz")).status_code == 503
            page = (await proxy.client.get("/_crossmount/metrics")).text
    assert 'failures_total{cause="credentials",where="tags"} 1.0' in page
    assert "own credentials" in caplog.text
    assert login not in caplog.text


async def test_a_port_in_use() -> None:
    """A port that is in use is an error that names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen there" in await refusal(port=taken.getsockname()[1])


async def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    """Each unusable certificate and key has its own error message."""
    (tmp_path / "other").mkdir()
    _, cert = self_signed(tmp_path)
    _, other = self_signed(tmp_path / "other")
    key = tmp_path / "key.pem"
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    junk = tmp_path / "junk"
    junk.write_text("junk")
    assert "without a certificate" in await refusal(tls_key=key)
    assert "key values mismatch" in await refusal(tls_cert=other, tls_key=key)
    for pair in ({"tls_cert": cert}, {"tls_cert": junk, "tls_key": key}):
        assert "not a certificate and its key" in await refusal(**pair)
    assert "passphrase" in await refusal(tls_cert=cert, tls_key=locked)


async def test_the_access_log_names_callers_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """The access log has one line of JSON for each request, a stable name for each caller, and no probes."""
    caplog.set_level(logging.INFO, "crossmount.proxy.access")
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        path = f"/v2/a/blobs/{Digest.of(b'x')}"
        for user in ("token-as-a-name", "token-as-a-name", "bob"):
            await proxy.client.head(path, auth=(user, "pw-secret"))
        await proxy.client.get("/_crossmount/healthz")
    own = [record for record in caplog.records if record.name.endswith(".access")]
    lines = [json.loads(record.getMessage()) for record in own]
    assert [line["path"] for line in lines] == [path] * 3
    assert lines[0]["caller"] == lines[1]["caller"] != lines[2]["caller"]
    assert lines[0]["time"].endswith("+00:00")
    assert "token-as" not in caplog.text
    assert "secret" not in caplog.text
