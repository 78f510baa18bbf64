"""Attempts of callers to bypass the rules of the operator, of the registry, or of a must-mount flag."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crossmount.index import Sighting
from crossmount.oci import Digest
from crossmount.proxy.auth.callers import Agents
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.routes import parse_route
from crossmount.proxy.settings import ServerLimits
from crossmount.testing import Fault, Grant, Reply, ScriptedRegistry, TokenAuth
from crossmount.testing.options import ANYTHING, RegistryOptions
from support.proxies import ProxyUnderTest, begin_upload, error_code, proxy_before
from support.registries import DockerRegistry

DATA = b"layer" * 1000
DIGEST = Digest.of(DATA)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SPOOLS = pytest.mark.parametrize("spooled", [True, False], ids=["spooled", "straight"])


async def put_blob(registry: DockerRegistry, proxy: ProxyUnderTest, name: str, data: bytes) -> Digest:
    """Upload a blob through the proxy."""
    location = await begin_upload(proxy, name)
    digest = Digest.of(data)
    assert (await proxy.client.put(f"{location}?digest={digest}", content=data)).status_code == 201
    assert registry.uploads(digest) == 1
    return digest


async def flagged(proxy: ProxyUnderTest, digest: Digest = DIGEST) -> None:
    """Flag a layer that nobody holds."""
    await proxy.index.record([Sighting(digest, proxy.repository("gone"), must_mount=True)])


async def test_a_form_in_the_body_of_an_upload_names_no_source(docker_registry: DockerRegistry) -> None:
    """A form in an upload's body names no source, though distribution would read `mount` and `from` there."""
    async with proxy_before(docker_registry.url, allow_sources=("base/*",)) as proxy:
        secret = await put_blob(docker_registry, proxy, "secret/x", b"secret")
        form = f"mount={secret}&from=secret/x"
        for query in (f"?digest={Digest.of(form.encode())}", ""):
            await proxy.client.post(f"/v2/app/blobs/uploads/{query}", content=form, headers=FORM)
        assert docker_registry.mounts() == 0
        assert (await proxy.client.head(f"/v2/app/blobs/{secret}")).status_code == 404


async def test_a_form_in_the_body_of_the_last_put_names_no_digest(docker_registry: DockerRegistry) -> None:
    """A form in the body of the last PUT cannot name another digest than the one that was checked."""
    async with proxy_before(docker_registry.url) as proxy:
        location = await begin_upload(proxy, "app")
        patched = await proxy.client.patch(location, content=DATA)
        other = Digest.of(b"another")
        put = f"{patched.headers['location']}?digest={other}"
        done = await proxy.client.put(put, content=f"digest={DIGEST}", headers=FORM)
        assert done.status_code == 400
        assert "app" not in await proxy.learnt(other)


@pytest.mark.parametrize("query", [f"x=1;mount={DIGEST};from=secret/x", f"digest={DIGEST};from=a"])
def test_a_separator_that_only_some_know_is_refused(query: str) -> None:
    """A semicolon in a query is refused, since some servers split parameters there."""
    with pytest.raises(RequestRefusedError) as refused:
        parse_route(b"/v2/app/blobs/uploads/", query.encode())
    assert refused.value.status == 400


async def test_what_is_asked_upstream_is_what_was_understood() -> None:
    """Only the parameters that the proxy parsed reach the registry."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        location = await begin_upload(proxy, "app", params={"from": "secret/x"})
        await proxy.client.put(f"{location}?_state=forged&digest={DIGEST}", content=DATA)
        queries = [record.query for record in registry.requests]
        assert not any("secret" in query or "forged" in query for query in queries)
        assert registry.uploads(DIGEST) == 1


@SPOOLS
async def test_a_flagged_layer_is_not_uploaded_by_naming_it_last(tmp_path: Path, spooled: bool) -> None:
    """A blob that is flagged must-mount is refused at the last PUT too, spooled or relayed."""
    # the last bytes do not fit into the spool, so the upload is relayed
    limits = ServerLimits(spool_bytes=len(DATA) - 1, grace=1)
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, spool=tmp_path if spooled else None, limits=limits) as proxy,
    ):
        await flagged(proxy)
        location = await begin_upload(proxy, "app")
        await proxy.client.patch(location, content=DATA[:100])
        put = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA[100:])
        assert (put.status_code, error_code(put)) == (403, "DENIED")
        assert registry.uploads() == 0
        assert registry.open_sessions == ()
        assert len(proxy.app.core.sessions) == 0


async def test_a_flagged_layer_is_mounted_at_the_final_put_if_it_can_be() -> None:
    """A flagged blob that can be mounted is mounted at the last PUT."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("base", DATA)
        await proxy.index.record([Sighting(DIGEST, proxy.repository("base"), must_mount=True)])
        location = await begin_upload(proxy, "app")
        put = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert put.status_code == 201
        assert (registry.mounts(DIGEST), registry.uploads()) == (1, 0)
        assert registry.open_sessions == ()


async def test_a_flagged_layer_is_not_uploaded_with_credentials_that_the_proxy_cannot_use() -> None:
    """A flagged blob is not uploaded for a caller that the proxy cannot act for."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        await flagged(proxy)
        foreign = {"Authorization": "Bearer eyJ.real.one"}
        whole = await proxy.client.post(f"/v2/app/blobs/uploads/?digest={DIGEST}", content=DATA, headers=foreign)
        asked = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={DIGEST}", headers=foreign)
        location = await begin_upload(proxy, "app", headers=foreign)
        last = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA, headers=foreign)
        assert {answer.status_code for answer in (whole, asked, last)} == {403}
        assert registry.uploads() == 0


async def test_a_flagged_layer_is_not_uploaded_because_its_mount_failed_otherwise(tmp_path: Path) -> None:
    """A flagged blob is not uploaded when its mount fails for want of a token or an answer."""
    auth = TokenAuth(users={"bob": "pw"})
    async with (
        ScriptedRegistry(RegistryOptions(auth=auth)) as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
    ):
        await flagged(proxy)
        pushes = await bearer(proxy, "repository:app:pull,push")
        await proxy.knows(Digest.of(b"another"), "other")
        await proxy.client.head(f"/v2/app/blobs/{Digest.of(b'another')}", headers=pushes)  # a token for these two
        location = await begin_upload(proxy, "app", headers=pushes)
        registry.play(Fault(method="POST", times=None, action=Reply(status=503)))
        registry.play(Fault(method="GET", path="/token", times=None, action=Reply(status=503)))
        put = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA, headers=pushes)
        assert (put.status_code, error_code(put)) == (403, "DENIED")
        assert registry.uploads() == 0


async def bearer(proxy: ProxyUnderTest, scope: str) -> dict[str, str]:
    """Return bob's token from the proxy."""
    await proxy.client.get("/v2/")
    answer = await proxy.client.get("/_crossmount/token", params={"scope": scope}, auth=("bob", "pw"))
    return {"Authorization": f"Bearer {answer.json()['token']}"}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "GET", "DELETE"])
async def test_a_pullers_token_does_not_go_on_with_an_upload(tmp_path: Path, method: str) -> None:
    """A token for a pull cannot continue its owner's upload: the client gets the registry's challenge."""
    auth = TokenAuth(users={"bob": "pw"}, grants={"bob": (Grant("*", ANYTHING),)})
    async with (
        ScriptedRegistry(RegistryOptions(auth=auth)) as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
    ):
        pushes = await bearer(proxy, "repository:app:pull,push")
        pulls = await bearer(proxy, "repository:app:pull")
        location = await begin_upload(proxy, "app", headers=pushes)
        answer = await proxy.client.request(method, f"{location}?digest={Digest.of(b'')}", headers=pulls)
        assert answer.status_code == 401
        assert 'scope="repository:app:pull,push"' in answer.headers["www-authenticate"]
        assert registry.uploads() == 0
        assert len(proxy.app.core.sessions) == 1


async def test_mounts_that_become_uploads_count_as_uploads() -> None:
    """A session that a failed mount opens counts against the limit like any other."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        proxy.app.core.sessions._limit_each = 3
        answers = [await proxy.client.post(f"/v2/a/blobs/uploads/?mount={DIGEST}&from=b") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202, 202, 202, 503, 503]
        assert len(registry.open_sessions) == 3


async def test_a_callers_agent_that_made_way_still_serves_the_requests_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload completes although so many callers come meanwhile that its agent is removed."""
    monkeypatch.setattr(Agents.__init__, "__kwdefaults__", {**(Agents.__init__.__kwdefaults__ or {}), "limit": 8})
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        registry.put_blob("base", DATA)
        await proxy.knows(DIGEST, "base")
        mine = {"Authorization": "Basic YTpi"}
        location = await begin_upload(proxy, "app", headers=mine)
        go_on = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield DATA[:10]
            await go_on.wait()
            yield DATA[10:]

        put = asyncio.create_task(proxy.client.put(f"{location}?digest={DIGEST}", content=slowly(), headers=mine))
        for number in range(8 + 5):
            await proxy.client.get("/v2/", auth=(f"caller{number}", "x"))
        go_on.set()
        assert (await put).status_code == 201
        assert registry.mounts(DIGEST) == 1
