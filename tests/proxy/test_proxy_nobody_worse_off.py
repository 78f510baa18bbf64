"""Requests that must not have a worse end through the proxy than straight."""

import asyncio
import base64
import json
import re
import ssl
from pathlib import Path

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.registry import ClientOptions
from crossmount.testing import (
    Alter,
    BasicAuth,
    CutReceiving,
    Fault,
    Grant,
    RegistryOptions,
    Reply,
    ScriptedRegistry,
    TokenAuth,
)
from support.certificates import Authority
from support.holdings import put_image
from support.proxies import QUICK, ProxyUnderTest, begin_upload, error_code, proxy_before
from support.scripted import manifest_of, push_manifest
from support.waiting import PATIENCE, until

DATA = b"layer" * 1000
DIGEST = Digest.of(DATA)
USERS = RegistryOptions(auth=TokenAuth(users={"ann": "word"}))


async def push_blob(proxy: ProxyUnderTest, name: str, data: bytes = DATA) -> int:
    """Upload a blob whose digest comes last, and return the last status."""
    location = await begin_upload(proxy, name)
    await proxy.client.patch(location, content=data)
    return (await proxy.client.put(f"{location}?digest={Digest.of(data)}")).status_code


@pytest.fixture(params=["spooled", "relayed"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Both ways of an upload."""
    return tmp_path / "spool" if request.param == "spooled" else None


async def test_a_deleted_blob_stays_deleted() -> None:
    """A HEAD after a deletion is a 404 for everybody, and the repository is no source any more."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        for name in ("team/one", "team/two"):
            registry.put_blob(name, DATA)
        await proxy.knows(DIGEST, "team/one", "team/two")
        assert (await proxy.client.delete(f"/v2/team/one/blobs/{DIGEST}")).status_code == 202
        async with proxy_before(registry.url, index=proxy.index) as other:  # every proxy of this index
            for each in (proxy, other):
                assert (await each.client.head(f"/v2/team/one/blobs/{DIGEST}")).status_code == 404
        assert registry.mounts() == 0
        assert await proxy.learnt(DIGEST) == {"team/two"}
        assert (await proxy.client.head(f"/v2/team/three/blobs/{DIGEST}")).status_code == 200


async def test_a_manifest_that_is_read_brings_no_deleted_layer_back() -> None:
    """Pulling the manifest of a deleted layer does not make its repository a source of that layer again."""
    other = b"other"
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        put_image(registry, "base", "v1", [DATA, other])
        await proxy.knows(DIGEST, "base")
        assert (await proxy.client.delete(f"/v2/base/blobs/{DIGEST}")).status_code == 202
        assert (await proxy.client.get("/v2/base/manifests/v1")).status_code == 200
        assert await proxy.learnt(Digest.of(other)) == {"base"}
        assert await proxy.learnt(DIGEST) == set()


async def test_a_refused_deletion_is_none() -> None:
    """A blob that the registry did not delete is still mounted into its repository."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("team/two", DATA)
        await proxy.knows(DIGEST, "team/two")
        assert (await proxy.client.delete(f"/v2/team/one/blobs/{DIGEST}")).status_code == 404
        assert (await proxy.client.head(f"/v2/team/one/blobs/{DIGEST}")).status_code == 200


@pytest.mark.parametrize("way", ["from", "mount", "whole", "put", "last"])
async def test_a_client_brings_a_deleted_blob_back(way: str, spool: Path | None) -> None:
    """When a client begins to bring a deleted blob back, it is mounted, and HEADs mount it again."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=spool) as proxy:
        registry.put_blob("one", DATA)
        registry.put_blob("two", DATA)
        await proxy.knows(DIGEST, "two")
        assert (await proxy.client.delete(f"/v2/one/blobs/{DIGEST}")).status_code == 202
        uploads = "/v2/one/blobs/uploads/"
        if way == "from":
            status = (await proxy.client.post(f"{uploads}?mount={DIGEST}&from=two")).status_code
        elif way == "mount":
            status = (await proxy.client.post(f"{uploads}?mount={DIGEST}")).status_code
        elif way == "whole":
            status = (await proxy.client.post(f"{uploads}?digest={DIGEST}", content=DATA)).status_code
        elif way == "put":
            location = await begin_upload(proxy, "one")
            status = (await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)).status_code
        else:
            status = await push_blob(proxy, "one")
        assert status == 201
        await proxy.app.core.recorder.flush()
        await registry_deletes(registry)
        assert (await proxy.client.head(f"/v2/one/blobs/{DIGEST}")).status_code == 200


async def registry_deletes(registry: ScriptedRegistry) -> None:
    """Delete the blob straight, which no proxy sees."""
    async with httpx.AsyncClient(base_url=registry.url) as straight:
        assert (await straight.delete(f"/v2/one/blobs/{DIGEST}")).status_code == 202


async def test_a_digest_that_comes_last_is_asked_for_first(tmp_path: Path) -> None:
    """Nothing is uploaded that is in the repository already, whatever the index knows."""
    async with ScriptedRegistry() as registry:
        for _ in range(3):
            async with proxy_before(registry.url, spool=tmp_path) as proxy:
                assert await push_blob(proxy, "app") == 201
                assert registry.uploads() == 1
                assert registry.open_sessions == ()
                assert await proxy.learnt(DIGEST) == {"app"}


@pytest.mark.parametrize("size", [0, 1, 5000])
async def test_a_digest_that_comes_last_is_believed_whatever_the_size(size: int, tmp_path: Path) -> None:
    """A blob of any size that is there is not uploaded again, also an empty one."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        data = b"x" * size
        registry.put_blob("app", data)
        assert await push_blob(proxy, "app", data) == 201
        assert registry.uploads() == 0


async def test_a_head_that_reports_blobs_of_other_repositories_is_not_believed(tmp_path: Path) -> None:
    """Where a HEAD says yes to blobs of other repositories, a blob that is not there is uploaded."""
    options = RegistryOptions(blob_heads="anywhere", mounts=False)
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        registry.put_blob("other", DATA)
        assert await push_blob(proxy, "app") == 201
        assert DIGEST in registry.holdings.find("app").blobs


@pytest.mark.parametrize("way", ["post", "put"])
async def test_a_whole_upload_of_what_the_index_knows_in_dest_is_not_sent(way: str) -> None:
    """A blob that the index knows in the repository is asked for before any of its bytes is sent."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("app", DATA)
        await proxy.knows(DIGEST, "app")
        if way == "post":
            answer = await proxy.client.post(f"/v2/app/blobs/uploads/?digest={DIGEST}", content=DATA)
        else:
            location = await begin_upload(proxy, "app")
            answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert (answer.status_code, registry.upload_bytes) == (201, 0)


async def test_pulls_teach_once_a_day() -> None:
    """A manifest that a caller reads makes its layers known in that repository, once a day."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("base", DATA)
        registry.put_blob("base", b"{}")
        async with httpx.AsyncClient(base_url=registry.url) as straight:
            assert (await push_manifest(straight, "base", "v1", manifest_of([DIGEST]))).status_code == 201
        for _ in range(2):
            answer = await proxy.client.get("/v2/base/manifests/v1")
            assert answer.status_code == 200
            assert await proxy.learnt(DIGEST) == {"base"}
        await proxy.index.forget(DIGEST, proxy.repository("base"))
        assert (await proxy.client.get("/v2/base/manifests/v1")).status_code == 200
        assert await proxy.learnt(DIGEST) == set()
        proxy.app.core.recorder._epoch = lambda: 4e9
        assert (await proxy.client.get("/v2/base/manifests/v1")).status_code == 200
        assert await proxy.learnt(DIGEST) == {"base"}


@pytest.mark.parametrize("body", [b"no JSON", b"{}", b"[" * 5000, b"x" * 300_000, b""])
async def test_a_document_that_is_no_manifest_teaches_nothing(body: bytes) -> None:
    """Whatever the registry answers to a GET of a manifest is passed on unchanged."""
    fault = Fault(method="GET", path="*/manifests/*", action=Reply(status=200, body=body))
    async with ScriptedRegistry(faults=[fault]) as registry, proxy_before(registry.url) as proxy:
        answer = await proxy.client.get("/v2/base/manifests/v1")
        assert (answer.status_code, answer.content) == (200, body)


async def test_the_challenge_to_a_clients_own_mount_is_its_own() -> None:
    """The 401 to a mount whose source the token lacks goes to the client, which comes again and mounts."""
    async with ScriptedRegistry(USERS) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("base", DATA)
        page = f"{proxy.url}/_crossmount/token?service=scripted-registry"
        target, scopes = f"/v2/app/blobs/uploads/?mount={DIGEST}&from=base", ["repository:app:pull,push"]
        statuses = []
        for _ in range(2):
            query = "".join(f"&scope={scope}" for scope in scopes)
            token = (await proxy.client.get(page + query, auth=("ann", "word"))).json()["token"]
            answer = await proxy.client.post(target, headers={"Authorization": f"Bearer {token}"})
            statuses.append(answer.status_code)
            challenge = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers.get("www-authenticate", "")))
            if challenge:
                assert challenge["realm"] == f"{proxy.url}/_crossmount/token"
                scopes += challenge["scope"].split()
        assert statuses == [401, 201]
        assert registry.mounts(DIGEST) == 1


async def test_a_repeated_chunk_is_refused_with_the_range_that_is_there(spool: Path | None) -> None:
    """A chunk that comes twice is a 416 with the range that is there, and the upload goes on."""
    unchecked = RegistryOptions(checks_ranges=False)
    async with ScriptedRegistry(unchecked) as registry, proxy_before(registry.url, spool=spool) as proxy:
        location, half = await begin_upload(proxy, "app"), len(DATA) // 2
        first = {"Content-Range": f"0-{half - 1}"}
        assert (await proxy.client.patch(location, content=DATA[:half], headers=first)).status_code == 202
        again = await proxy.client.patch(location, content=DATA[:half], headers=first)
        assert (again.status_code, again.headers["range"]) == (416, f"0-{half - 1}")
        assert error_code(again) == "BLOB_UPLOAD_INVALID"
        skipped = {"Content-Range": f"{half + 1}-{len(DATA) - 1}"}
        assert (await proxy.client.patch(location, content=DATA[half + 1 :], headers=skipped)).status_code == 416
        rest = {"Content-Range": f"{half}-{len(DATA) - 1}"}
        assert (await proxy.client.patch(location, content=DATA[half:], headers=rest)).status_code == 202
        assert (await proxy.client.put(f"{location}?digest={DIGEST}")).status_code == 201


async def test_after_a_failed_chunk_the_registry_says_where_to_go_on() -> None:
    """After a chunk that arrived in part, the next one is compared with what the registry has."""
    cut = Fault(method="PATCH", action=CutReceiving(1000))
    async with ScriptedRegistry(faults=[cut]) as registry, proxy_before(registry.url) as proxy:
        location = await begin_upload(proxy, "app")
        whole = {"Content-Range": f"0-{len(DATA) - 1}"}
        assert (await proxy.client.patch(location, content=DATA, headers=whole)).status_code == 502
        there = 1000
        refused = await proxy.client.patch(location, content=DATA, headers=whole)
        if there:
            assert (refused.status_code, refused.headers["range"]) == (416, f"0-{there - 1}")
            rest = {"Content-Range": f"{there}-{len(DATA) - 1}"}
            refused = await proxy.client.patch(location, content=DATA[there:], headers=rest)
        assert refused.status_code == 202
        assert (await proxy.client.put(f"{location}?digest={DIGEST}")).status_code == 201


@pytest.mark.parametrize("way", ["whole", "put", "last"])
async def test_a_slow_commit_is_waited_for(way: str, spool: Path | None) -> None:
    """A registry that stores a blob for longer than it may be silent elsewhere gets the bytes once."""
    patient = ClientOptions(read_timeout=1.0, retry=QUICK)
    async with (
        ScriptedRegistry(RegistryOptions(commit_seconds=2.0)) as registry,
        proxy_before(registry.url, spool=spool, options=patient) as proxy,
    ):
        if way == "last":
            status = await push_blob(proxy, "app")
        elif way == "put":
            location = await begin_upload(proxy, "app")
            status = (await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)).status_code
        else:
            target = f"/v2/app/blobs/uploads/?digest={DIGEST}"
            status = (await proxy.client.post(target, content=DATA)).status_code
        assert status == 201
        assert (registry.uploads(DIGEST), registry.upload_bytes) == (1, len(DATA))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/a/manifests/.hidden", "MANIFEST_UNKNOWN"),
        (f"/v2/a/manifests/{'a' * 129}", "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/sha256:zz", "MANIFEST_UNKNOWN"),
        ("/v2/A/manifests/x", "NAME_UNKNOWN"),
        ("/v2/a/-b/tags/list", "NAME_UNKNOWN"),
        (f"/v2/A/blobs/{DIGEST}", "NAME_UNKNOWN"),
        (f"/v2/A/referrers/{DIGEST}", "NAME_UNKNOWN"),
    ],
)
async def test_a_read_of_a_malformed_name_finds_nothing(path: str, code: str) -> None:
    """A GET or HEAD under a malformed name is a 404, as at registries; a write is refused."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        answer = await proxy.client.get(path)
        assert (answer.status_code, error_code(answer)) == (404, code)
        assert (await proxy.client.head(path)).status_code == 404
        assert (await proxy.client.put(path, content=b"{}")).status_code == 400
        assert registry.requests == []


@pytest.mark.parametrize("how", ["parameter", "header", "tag"])
async def test_a_push_that_ends_with_its_digest_and_tags_has_ended(how: str) -> None:
    """A manifest put by digest ends the push if the request or the answer names tags."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        assert (
            await proxy.client.post(f"/v2/app/blobs/uploads/?digest={DIGEST}", content=DATA)
        ).status_code == 201
        config = Digest.of(b"{}")
        assert (await proxy.client.post(f"/v2/app/blobs/uploads/?digest={config}", content=b"{}")).is_success
        assert proxy.app.core.sessions.any_push_active()
        if how == "header":
            tagged = Alter(set_headers=(("OCI-Tag", "v1"),))
            registry.play(Fault(method="PUT", path="*/manifests/*", action=tagged))
        document = manifest_of([DIGEST])
        target = "v1" if how == "tag" else str(Digest.of(document))
        query = "?tag=v1&tag=v2" if how == "parameter" else ""
        assert (await push_manifest(proxy.client, "app", target + query, document)).status_code == 201
        await until(lambda: not proxy.app.core.sessions.any_push_active())


@pytest.mark.parametrize("how", ["reset", "closed"])
async def test_clients_that_hang_up_leave_no_traceback(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that goes while its request is answered over TLS is no error of the event loop."""
    loop, errors = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    issued = Authority(tmp_path).issue("proxy")
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    async with (
        ScriptedRegistry(RegistryOptions(latency=0.1)) as registry,
        proxy_before(registry.url, tls_cert=issued.certificate, tls_key=issued.key) as proxy,
    ):
        for _ in range(3):
            _, writer = await asyncio.open_connection(*proxy.address, ssl=trust)
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            await writer.drain()
            if how == "reset":
                writer.transport.abort()
            else:
                writer.close()
        await until(lambda: len(registry.requests) == 3 and proxy.app.active == 0)
        assert (await proxy.client.get("/v2/")).status_code == 200
    assert errors == []
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_source_that_the_service_may_not_read_is_a_session(tmp_path: Path) -> None:
    """In service mode a client's own mount from where the proxy may not read leads to an upload, not to a 403."""
    rights = BasicAuth(users={"bob": "pw"}, grants={"bob": (Grant("app"),)})
    async with ScriptedRegistry(RegistryOptions(auth=rights, denied_sources=frozenset({"secret"}))) as registry:
        registry.put_blob("secret", DATA)
        file = tmp_path / "auth.json"
        auth = base64.b64encode(b"bob:pw").decode()
        file.write_text(json.dumps({"auths": {registry.address: {"auth": auth}}}))
        options = ClientOptions(authfile=file, retry=QUICK)
        async with proxy_before(registry.url, auth="service", options=options) as proxy:
            answer = await proxy.client.post(f"/v2/app/blobs/uploads/?mount={DIGEST}&from=secret")
            assert answer.status_code == 202


@pytest.mark.parametrize("packets", ["one", "two", "bytes"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upgrade_that_is_offered_is_declined(packets: str, chunked: bool) -> None:
    """A request with a body that offers HTTP/2, as Java's client does, is answered as one without the offer."""
    content = b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n"  # no request of its own
    digest = Digest.of(content)
    head = (
        f"POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\n"
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
        + ("Transfer-Encoding: chunked\r\n\r\n" if chunked else f"Content-Length: {len(content)}\r\n\r\n")
    ).encode()
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if chunked else content
    rest = body + b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    parts = {"one": [head + rest], "two": [head, rest], "bytes": [bytes([byte]) for byte in head + rest]}
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        for part in parts[packets]:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        answers = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        assert [line.split()[1] for line in answers.splitlines() if line.startswith(b"HTTP/")] == [b"201", b"200"]
        assert registry.uploads(digest) == 1
        assert not registry.matching(path="*_catalog*")
