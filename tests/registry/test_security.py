"""Each rule about what may be sent where; the facts behind them are CVEs of 2024 to 2026.

What is sent is read off the wire of a transport that plays every host, the hostile ones too; where two real
servers can show it, they do.
"""

import base64
import json
import logging
import pickle
import re

import httpx
import pytest

from crossmount.errors import (
    AccessDeniedError,
    CredentialsError,
    InvalidAnswerError,
    InvalidDigestError,
    InvalidReferenceError,
    RegistryRefusedError,
)
from crossmount.oci import Descriptor, Digest, Manifest, Reference, Repository
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.registry import Credential, GivenCredentials, RegistryClient, UploadSession
from crossmount.registry.http import ERROR_BYTES_MAX
from crossmount.testing import Alter, BasicAuth, Fault, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from support.registry_kit import (
    DATA,
    DEST,
    HOST,
    SOURCE,
    TLS,
    Handler,
    Recorder,
    blob,
    client_of,
    manifest,
    recorded,
)

EVIL = "evil.example.net"
SECRET = "hunter2"
BASIC = "Basic " + base64.b64encode(f"ci:{SECRET}".encode()).decode()
DIGEST = blob().descriptor.digest
CREDENTIAL = Credential("ci", SECRET, origin="the test")


def given(registry: str = HOST) -> GivenCredentials:
    """Return the credentials for a registry."""
    return GivenCredentials(registry, CREDENTIAL)


def bearer(realm: str) -> httpx.Response:
    """Return a challenge for a token."""
    return httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})


def authorised(then: Handler) -> Handler:
    """Answer as a registry with Basic: a challenge first, then `then`."""

    def handler(request: httpx.Request) -> httpx.Response:
        if str(request.url).startswith(f"https://{HOST}/") and "authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic realm=x"})
        return then(request)

    return handler


def carried(requests: list[httpx.Request]) -> str:
    """Return everything that requests carried, for looking for secrets."""
    return "\n".join(f"{r.method} {r.url}\n{r.headers.raw!r}\n{r.content!r}" for r in requests)


# Credentials go to a realm on the registry's own domain, or one that is trusted by name


@pytest.mark.parametrize("kind", ["password", "identity"])
async def test_a_foreign_realm_gets_no_credentials_and_the_error_names_it(kind: str) -> None:
    """oras-go CVE-2026-48978: a challenge that names a stranger gets nothing, and the error says whom to trust."""
    source = GivenCredentials(HOST, Credential("ci", SECRET, "password" if kind == "password" else "identity"))
    client, transport = recorded(lambda _: bearer(f"https://{EVIL}/token"), credentials=source)
    async with client:
        with pytest.raises(CredentialsError, match=f"trust the realm {re.escape(EVIL)} by name"):
            await client.start_upload(DEST)
    assert transport.to(EVIL) == []


async def test_a_realm_trusted_by_name_gets_the_credentials() -> None:
    """`ClientOptions.trusted_realms` is the user's word."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == EVIL:
            return httpx.Response(200, json={"token": "t"})
        if request.headers.get("authorization") == "Bearer t":
            return httpx.Response(202, headers={"Location": "/u"})
        return bearer(f"https://{EVIL}/token")

    client, transport = recorded(handler, credentials=given(), options={"trusted_realms": (EVIL,)})
    async with client:
        await client.start_upload(DEST)
    assert [request.headers["authorization"] for request in transport.to(EVIL)] == [BASIC]


async def test_a_foreign_realm_may_be_asked_in_nobodys_name() -> None:
    """Without credentials there is nothing to lose: an anonymous token may come from elsewhere."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == EVIL:
            return httpx.Response(200, json={"token": "t"})
        return httpx.Response(404) if "authorization" in request.headers else bearer(f"https://{EVIL}/token")

    client, transport = recorded(handler)
    async with client:
        assert await client.head_blob(DEST, DIGEST) is None
    assert "authorization" not in transport.to(EVIL)[0].headers


@pytest.mark.parametrize("trusted", [(), (HOST,)])
async def test_a_realm_on_http_gets_nothing(trusted: tuple[str, ...]) -> None:
    """A registry on https cannot have its credentials fetched over http, trusted or not."""
    options = {"trusted_realms": trusted}
    client, transport = recorded(lambda _: bearer(f"http://{HOST}/token"), credentials=given(), options=options)
    async with client:
        with pytest.raises(InvalidAnswerError, match="https is never left"):
            await client.start_upload(DEST)
    assert {request.url.scheme for request in transport.requests} == {"https"}
    assert SECRET not in carried(transport.requests)


@pytest.mark.parametrize(
    "realm", [f"https://ci:x@{HOST}/t", "ftp://x/t", "/token", "https://x:y/", f"https://{HOST}:99999/"]
)
async def test_a_realm_that_is_no_plain_url_gets_nothing(realm: str) -> None:
    """An invalid answer, before anything is sent."""
    client, transport = recorded(lambda _: bearer(realm), credentials=given())
    async with client:
        with pytest.raises(InvalidAnswerError, match="realm"):
            await client.start_upload(DEST)
    assert len(transport.requests) == 1


async def test_a_realm_that_redirects_is_not_followed() -> None:
    """The realm's own Location cannot pass the credentials on."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(307, headers={"Location": f"https://{EVIL}/token"})
        return bearer(f"https://{HOST}/token")

    client, transport = recorded(handler, credentials=given())
    async with client:
        with pytest.raises(InvalidAnswerError):
            await client.start_upload(DEST)
    assert transport.to(EVIL) == []


async def test_credentials_are_for_their_registry_alone() -> None:
    """Another registry's challenge does not get them."""
    client, transport = recorded(
        lambda _: httpx.Response(401, headers={"WWW-Authenticate": "Basic realm=x"}),
        credentials=given("other.example.org"),
    )
    async with client:
        with pytest.raises(AccessDeniedError, match="no credentials"):
            await client.start_upload(DEST)
    assert SECRET not in carried(transport.requests)


async def test_no_credentials_are_sent_unasked() -> None:
    """A registry that asks for none is given none, and none are looked up."""

    class Untouched:
        async def find(self, registry: str, name: str = "") -> Credential | None:
            raise AssertionError((registry, name))

    client, _ = recorded(lambda _: httpx.Response(404), credentials=Untouched())
    async with client:
        assert await client.head_blob(DEST, DIGEST) is None


# A Location on another scheme, host or port gets no Authorization, https only

FOREIGN = [f"https://{EVIL}/u?sig=1", f"https://{HOST}:8443/u?sig=1", f"https://sub.{HOST}/u?sig=1"]


@pytest.mark.parametrize("location", FOREIGN)
@pytest.mark.parametrize("chunk_size", [None, 100])
async def test_a_foreign_location_gets_no_authorization(location: str, chunk_size: int | None) -> None:
    """oras-go CVE-2026-50151: bytes may go to a storage elsewhere, who we are may not."""

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
    """Its 401 with a challenge is a refusal, not a question."""

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
    """No fall from https to http; nor is a user's name in a URL taken for credentials."""
    client, transport = recorded(lambda _: httpx.Response(202, headers={"Location": location}))
    async with client:
        with pytest.raises(InvalidAnswerError, match="Location"):
            await client.start_upload(DEST)
    assert len(transport.requests) == 1


async def test_another_port_of_a_plain_http_host_gets_no_authorization() -> None:
    """Two real servers on one host: the second gets the bytes without Authorization."""
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
    """A client on plain http agreed to that one host only."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        registry.play(Fault(method="POST", action=Alter(location_base="http://127.0.0.2:5000")))
        with pytest.raises(InvalidAnswerError, match="another host must be on https"):
            await client.start_upload(Repository(registry.address, "team/app"))


async def test_a_session_of_elsewhere_gets_no_authorization() -> None:
    """A session that was made by hand, or kept from before, is judged by where it points."""

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


async def test_the_query_of_a_location_comes_back_as_it_was() -> None:
    """A `params=` of httpx would replace it; a signature or a `_state` must survive."""
    location = "/u/1?_state=a%2Fb%3D%3D&sig=x+y%20z"
    answers = {"POST": httpx.Response(202, headers={"Location": location}), "PUT": httpx.Response(201)}
    client, transport = recorded(lambda request: answers[request.method])
    async with client:
        await client.upload_blob(await client.start_upload(DEST), blob())
    assert transport.requests[-1].url.raw_path.decode() == f"{location}&digest={DIGEST}"


# Redirects


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_redirect_to_another_origin_goes_without_authorization(method: str) -> None:
    """Not there, and not on any later hop, should it lead back."""
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
    """The same origin is the same registry."""

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
    """No fall from https to http, nor to anything else."""
    headers = {} if location is None else {"Location": location}
    client, transport = recorded(lambda _: httpx.Response(302, headers=headers))
    async with client:
        with pytest.raises(InvalidAnswerError, match="redirect"):
            await client.head_blob(DEST, DIGEST)
    assert len(transport.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_what_changes_something_is_not_redirected(status: int) -> None:
    """POST, PUT and PATCH go where they were sent, or nowhere: no bytes to a redirect's target."""
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
    """A circle is an error."""
    client, transport = recorded(lambda request: httpx.Response(302, headers={"Location": str(request.url)}))
    async with client:
        with pytest.raises(InvalidAnswerError, match="redirects in a row"):
            await client.head_blob(DEST, DIGEST)
    assert len(transport.requests) == 10


@pytest.mark.parametrize("link", [f"https://{EVIL}/v2/x", f"http://{HOST}/v2/x", f"https://{HOST}:8443/v2/x"])
async def test_a_link_to_another_origin_is_not_followed(link: str) -> None:
    """Pages come from the registry itself."""
    headers = {"Link": f'<{link}>; rel="next"'}
    client, transport = recorded(lambda _: httpx.Response(200, headers=headers, json={"tags": ["a"]}))
    async with client:
        with pytest.raises(InvalidAnswerError, match="Link"):
            [tag async for tag in client.list_tags(DEST)]
    assert len(transport.requests) == 1


# Digests and names are checked by grammar before they reach a URL


@pytest.mark.parametrize(
    "digest", ["sha256:../../x", "sha256:" + "a" * 63, "md5:" + "a" * 32, "", "sha256:" + "A" * 64]
)
async def test_no_digest_reaches_a_url_unchecked(digest: str) -> None:
    """CVE-2024-3727: also one that was smuggled past the types."""
    client, transport = recorded(lambda _: httpx.Response(200))
    async with client:
        with pytest.raises(InvalidDigestError):
            await client.head_blob(DEST, digest)  # type: ignore[arg-type]  # the point of it
        with pytest.raises(InvalidDigestError):
            await client.mount_blob(DEST, digest, None)  # type: ignore[arg-type]
    assert transport.requests == []


@pytest.mark.parametrize("name", ["../etc", "a//b", "a/../b", "a?mount=x", "a%2fb", "a b", "A", "a/", "a\n"])
def test_no_name_reaches_a_url_unchecked(name: str) -> None:
    """A repository's name is checked where it is made."""
    with pytest.raises(InvalidReferenceError):
        Repository(HOST, name)


async def test_from_is_percent_encoded() -> None:
    """The mount's query holds what it was given and nothing else."""
    client, transport = recorded(lambda _: httpx.Response(201))
    async with client:
        await client.mount_blob(DEST, DIGEST, SOURCE)
        await client.mount_blob(DEST, DIGEST, None)
    named, found = (request.url.query.decode() for request in transport.requests)
    assert named == f"mount=sha256%3A{DIGEST.encoded}&from=team%2Fbase"
    assert found == f"mount=sha256%3A{DIGEST.encoded}"


@pytest.mark.parametrize("text", ["sha256:zz", "x", "sha256:" + "a" * 64 + "/../x"])
async def test_a_digest_in_an_answer_is_checked(text: str) -> None:
    """What a registry calls a digest is one, or its answer is invalid."""
    client, _ = recorded(lambda _: httpx.Response(200, headers={"Docker-Content-Digest": text}))
    async with client:
        with pytest.raises(InvalidAnswerError, match="Docker-Content-Digest"):
            await client.get_manifest(Reference(DEST, tag="v1"))


async def test_foreign_urls_of_a_layer_are_never_fetched() -> None:
    """A manifest that points elsewhere makes nobody go there."""
    layer = {"mediaType": "x/y", "digest": DIGEST, "size": len(DATA), "urls": [f"https://{EVIL}/layer"]}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer, "layers": [layer]}
    content = json.dumps(document).encode()

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=content if "manifests" in request.url.path else DATA)

    client, transport = recorded(handler)
    async with client:
        fetched: Manifest = await client.get_manifest(Reference(DEST, tag="v1"))
        for item in fetched.blobs:
            assert isinstance(item, Descriptor)
            assert item.urls
            async with client.stream_blob(DEST, item.digest) as stream:
                assert [part async for part in stream] == [DATA]
    assert {request.url.host for request in transport.requests} == {HOST}


# Limits


async def test_a_token_answer_over_64_kib_is_refused() -> None:
    """A realm cannot fill our memory."""
    auth = TokenAuth(users={"ci": SECRET})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        huge = json.dumps({"token": "x" * ERROR_BYTES_MAX}).encode()
        registry.play(Fault(path="/token*", action=Reply(status=200, body=huge, media_type="application/json")))
        async with client_of(registry.address, credentials=given(registry.address)) as client:
            with pytest.raises(InvalidAnswerError, match="more than 65536 bytes"):
                await client.start_upload(Repository(registry.address, "team/app"))


async def test_an_error_body_over_64_kib_is_not_read_on() -> None:
    """The status counts; the words are left where they are."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        registry.play(Fault(action=Reply(status=400, body=b"x" * (ERROR_BYTES_MAX + 1))))
        with pytest.raises(RegistryRefusedError, match="too long to read") as caught:
            await client.start_upload(Repository(registry.address, "team/app"))
        assert caught.value.status == 400


# Secrets stay out of logs, errors, reprs


async def test_signed_urls_and_headers_reach_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Not httpx's INFO, nor httpcore's DEBUG: neither the Location's signature nor the token."""
    caplog.set_level(logging.DEBUG)
    auth = TokenAuth(users={"ci": SECRET})
    async with (
        ScriptedRegistry(RegistryOptions(auth=auth)) as registry,
        client_of(registry.address, credentials=given(registry.address)) as client,
    ):
        dest = Repository(registry.address, "team/app")
        session = await client.start_upload(dest)
        assert "_state" in session.location
        await client.upload_blob(session, blob())
        async with client.stream_blob(dest, DIGEST) as stream:
            assert [part async for part in stream]
    for word in ("_state", SECRET, "Bearer", "Authorization", session.location):
        assert word not in caplog.text


async def test_no_error_shows_a_secret_or_a_signature() -> None:
    """Neither the location's query, nor what was sent, is in any message or repr."""
    location = f"https://{HOST}/u?X-Signature=s3cr3t"

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": location})
        return httpx.Response(403, json={"errors": [{"code": "DENIED", "message": "no\r\nSet-Cookie: x\x1b[2J"}]})

    client, _ = recorded(authorised(handler), credentials=given())
    async with client:
        session = await client.start_upload(DEST)
        assert "s3cr3t" not in repr(session)
        with pytest.raises(AccessDeniedError) as caught:
            await client.upload_blob(session, blob())
    text = str(caught.value)
    assert "s3cr3t" not in text
    assert SECRET not in text
    assert text.isprintable()
    assert str(pickle.loads(pickle.dumps(caught.value))) == text  # noqa: S301 our own


async def test_the_client_holds_no_credentials() -> None:
    """A client's headers go to every host in httpx: ours has no Authorization, cookie or auth."""
    transport = Recorder(
        authorised(lambda _: httpx.Response(404, headers={"Set-Cookie": f"sid=1; Domain={HOST}"}))
    )
    async with RegistryClient(HOST, options=TLS, credentials=given(), transport=transport) as client:
        await client.head_blob(DEST, DIGEST)
        inner = client._http
        assert "authorization" not in inner.headers
        assert inner.auth is None
        assert list(inner.cookies.jar) == []
        await inner.get(f"https://{EVIL}/")
    assert SECRET not in carried(transport.to(EVIL))
    assert BASIC not in carried(transport.to(EVIL))


async def test_a_secret_that_fits_in_no_header_is_not_quoted() -> None:
    """h11 would quote it in its exception; ours does not."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(action=Reply(status=401, headers=(("WWW-Authenticate", "Basic realm=x"),))))
        source = GivenCredentials(registry.address, Credential("", f"{SECRET}\r\nX-Evil: 1", "registry"))
        async with client_of(registry.address, credentials=source) as client:
            with pytest.raises(Exception, match="could not be sent") as caught:
                await client.head_blob(Repository(registry.address, "a"), Digest.of(b""))
    assert SECRET not in str(caught.value)
