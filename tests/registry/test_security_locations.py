"""Locations and redirects to other hosts: bytes may be sent there, credentials never (CVE-2026-50151)."""

import httpx
import pytest

from crossmount.errors import InvalidAnswerError, RegistryRefusedError
from crossmount.oci import Reference, Repository
from crossmount.registry import UploadSession
from crossmount.testing import Alter, BasicAuth, Fault, RegistryOptions, ScriptedRegistry
from support.hostile import BASIC, DIGEST, EVIL, SECRET, authorised, carried, given
from support.registry_kit import DATA, DEST, HOST, SOURCE, blob, client_of, manifest, recorded

# A Location on another scheme, host or port gets no Authorization, https only

FOREIGN = [f"https://{EVIL}/u?sig=1", f"https://{HOST}:8443/u?sig=1", f"https://sub.{HOST}/u?sig=1"]


@pytest.mark.parametrize("location", FOREIGN)
@pytest.mark.parametrize("chunk_size", [None, 100])
async def test_a_foreign_location_gets_no_authorization(location: str, chunk_size: int | None) -> None:
    """A Location on another host gets the bytes and no Authorization (oras-go CVE-2026-50151)."""

    def handler(request: httpx.Request) -> httpx.Response:
        statuses = {"POST": 202, "PATCH": 202, "PUT": 201}
        return httpx.Response(statuses[request.method], headers={"Location": location})

    client, transport = recorded(authorised(handler), credentials=given())
    async with client:
        await client.upload_blob(await client.start_upload(DEST), blob(), chunk_size=chunk_size)
    away = [request for request in transport.requests if str(request.url).startswith(location.partition("?")[0])]
    assert len(away) > 0
    assert all("authorization" not in request.headers for request in away)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_foreign_location_cannot_ask_for_credentials(status: int) -> None:
    """A challenge of another host is a refusal, and no credentials are sent to it."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == EVIL:
            return httpx.Response(status, headers={"WWW-Authenticate": "Basic realm=x"})
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": f"https://{EVIL}/u"})
        return httpx.Response(404)

    client, transport = recorded(authorised(handler), credentials=given())
    async with client:
        with pytest.raises(RegistryRefusedError):
            await client.upload_blob(await client.start_upload(DEST), blob())
    assert "authorization" not in carried(transport.to(EVIL)).lower()


@pytest.mark.parametrize(
    "location", [f"http://{HOST}/u", f"http://{EVIL}/u", f"https://ci:x@{HOST}/u", "file:///x"]
)
async def test_a_location_off_https_is_refused(location: str) -> None:
    """A Location from https to http, or with a user name, is refused."""
    client, transport = recorded(lambda _: httpx.Response(202, headers={"Location": location}))
    async with client:
        with pytest.raises(InvalidAnswerError, match="Location"):
            await client.start_upload(DEST)
    assert len(transport.requests) == 1


async def test_another_port_of_a_plain_http_host_gets_no_authorization() -> None:
    """A second server on the same host gets the bytes and no Authorization."""
    auth = BasicAuth(users={"ci": SECRET})
    async with ScriptedRegistry() as storage:
        async with client_of(storage.address) as other:
            session = await other.start_upload(Repository(storage.address, "team/app"))
        async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
            registry.play(
                Fault(method="POST", skip=1, action=Alter(set_headers=(("Location", session.location),)))
            )
            async with client_of(registry.address, credentials=given(registry.address)) as client:
                dest = Repository(registry.address, "team/app")
                await client.upload_blob(await client.start_upload(dest), blob())
        assert storage.uploads(DIGEST) == 1
        assert {record.auth_scheme for record in storage.requests} == {""}


async def test_another_host_on_plain_http_is_refused() -> None:
    """A client on plain http follows no Location to http on another host."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        registry.play(Fault(method="POST", action=Alter(location_base="http://127.0.0.2:5000")))
        with pytest.raises(InvalidAnswerError, match="another host must be on https"):
            await client.start_upload(Repository(registry.address, "team/app"))


async def test_a_session_on_another_host_gets_no_authorization() -> None:
    """A session that the caller made is judged by its URL."""

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(201 if request.url.host == EVIL else 404)

    client, transport = recorded(authorised(handler), credentials=given())
    async with client:
        await client.head_blob(DEST, DIGEST)
        session = UploadSession(repository=DEST, location=f"https://{EVIL}/u")
        await client.upload_blob(session, blob())
        await client.cancel_upload(session)
    assert len(transport.to(EVIL)) == 2
    assert SECRET not in carried(transport.to(EVIL))
    assert "authorization" not in carried(transport.to(EVIL)).lower()


async def test_the_query_of_a_location_keeps_its_bytes() -> None:
    """A signature or a `_state` in a Location's query is sent back unchanged."""
    location = "/u/1?_state=a%2Fb%3D%3D&sig=x+y%20z"
    answers = {"POST": httpx.Response(202, headers={"Location": location}), "PUT": httpx.Response(201)}
    client, transport = recorded(lambda request: answers[request.method])
    async with client:
        await client.upload_blob(await client.start_upload(DEST), blob())
    assert transport.requests[-1].url.raw_path.decode() == f"{location}&digest={DIGEST}"


# Redirects


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_redirect_to_another_origin_goes_without_authorization(method: str) -> None:
    """After a redirect to another origin no request has Authorization, even if it leads back."""
    hops = {
        f"/v2/team/app/blobs/{DIGEST}": f"https://{EVIL}/1",
        "/1": f"https://{HOST}/back",
        "/back": f"https://{EVIL}/2",
    }

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path in hops:
            return httpx.Response(307, headers={"Location": hops[request.url.path]})
        return httpx.Response(200, content=DATA)

    def lenient(request: httpx.Request) -> httpx.Response:
        return handler(request) if request.url.path == "/back" else authorised(handler)(request)

    client, transport = recorded(lenient, credentials=given())
    async with client:
        if method == "HEAD":
            await client.head_blob(DEST, DIGEST)
        else:
            async with client.stream_blob(DEST, DIGEST) as stream:
                assert b"".join([part async for part in stream]) == DATA
    later = [request for request in transport.requests if request.url.path in {"/1", "/2", "/back"}]
    assert [request.url.path for request in later] == ["/1", "/back", "/2"]
    assert all("authorization" not in request.headers for request in later)


async def test_a_redirect_within_the_registry_keeps_authorization() -> None:
    """A redirect to the same origin keeps Authorization."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/moved":
            return httpx.Response(301, headers={"Location": "/moved"})
        return httpx.Response(200, headers={"Content-Length": "7"}, stream=httpx.ByteStream(b""))

    client, transport = recorded(authorised(handler), credentials=given())
    async with client:
        assert await client.head_blob(DEST, DIGEST) == 7
    assert transport.requests[-1].headers["authorization"] == BASIC


@pytest.mark.parametrize("location", [f"http://{HOST}/x", f"http://{EVIL}/x", "ftp://x/", None])
async def test_a_redirect_off_https_is_refused(location: str | None) -> None:
    """A redirect from https to http or another scheme is refused."""
    headers = {} if location is None else {"Location": location}
    client, transport = recorded(lambda _: httpx.Response(302, headers=headers))
    async with client:
        with pytest.raises(InvalidAnswerError, match="redirect"):
            await client.head_blob(DEST, DIGEST)
    assert len(transport.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_request_that_changes_something_is_not_redirected(status: int) -> None:
    """POST, PUT and PATCH are not sent to a redirect's target."""
    client, transport = recorded(lambda _: httpx.Response(status, headers={"Location": f"https://{EVIL}/x"}))
    async with client:
        with pytest.raises(RegistryRefusedError):
            await client.mount_blob(DEST, DIGEST, SOURCE)
        with pytest.raises(RegistryRefusedError):
            await client.put_manifest(Reference(DEST, tag="v1"), manifest(blob()))
        session = UploadSession(repository=DEST, location=f"https://{HOST}/u")
        with pytest.raises(RegistryRefusedError):
            await client.upload_blob(session, blob())
    assert transport.to(EVIL) == []


async def test_redirects_end() -> None:
    """Redirects in a circle are an error."""
    client, transport = recorded(lambda request: httpx.Response(302, headers={"Location": str(request.url)}))
    async with client:
        with pytest.raises(InvalidAnswerError, match="redirects in a row"):
            await client.head_blob(DEST, DIGEST)
    assert len(transport.requests) == 10


@pytest.mark.parametrize("link", [f"https://{EVIL}/v2/x", f"http://{HOST}/v2/x", f"https://{HOST}:8443/v2/x"])
async def test_a_link_to_another_origin_is_not_followed(link: str) -> None:
    """Pages are requested from the registry itself only."""
    headers = {"Link": f'<{link}>; rel="next"'}
    client, transport = recorded(lambda _: httpx.Response(200, headers=headers, json={"tags": ["a"]}))
    async with client:
        with pytest.raises(InvalidAnswerError, match="Link"):
            [tag async for tag in client.list_tags(DEST)]
    assert len(transport.requests) == 1
