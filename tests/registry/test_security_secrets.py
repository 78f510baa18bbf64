"""No log, error, repr or header of the HTTP client shows a secret."""

import logging
import pickle

import httpx
import pytest

from crossmount.errors import AccessDeniedError
from crossmount.oci import Digest, Repository
from crossmount.registry import Credential, GivenCredentials, RegistryClient
from crossmount.registry.http.transport import exchange
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from support.hostile import BASIC, DIGEST, EVIL, SECRET, authorised, carried, given
from support.registry_kit import DEST, HOST, TLS, Recorder, blob, client_of, recorded


async def test_signed_urls_and_headers_reach_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a Location's signature nor a token is in a log."""
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
    """Neither a Location's query nor a request's secrets are in a message or a repr."""
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


async def test_the_client_has_no_credentials() -> None:
    """The HTTP client, which sends to every host, adds no Authorization and no cookie."""
    transport = Recorder(
        authorised(lambda _: httpx.Response(404, headers={"Set-Cookie": f"sid=1; Domain={HOST}"}))
    )
    async with RegistryClient(HOST, options=TLS, credentials=given(), transport=transport) as client:
        await client.head_blob(DEST, DIGEST)
        await exchange(client._http, "GET", httpx.URL(f"https://{EVIL}/"), headers={})
        assert "cookie" not in transport.to(EVIL)[0].headers
    assert SECRET not in carried(transport.to(EVIL))
    assert BASIC not in carried(transport.to(EVIL))


async def test_a_secret_that_fits_in_no_header_is_not_quoted() -> None:
    """A secret that h11 refuses and quotes is not in our error."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(action=Reply(status=401, headers=(("WWW-Authenticate", "Basic realm=x"),))))
        source = GivenCredentials(registry.address, Credential("", f"{SECRET}\r\nX-Evil: 1", "registry"))
        async with client_of(registry.address, credentials=source) as client:
            with pytest.raises(Exception, match="could not be sent") as caught:
                await client.head_blob(Repository(registry.address, "a"), Digest.of(b""))
    assert SECRET not in str(caught.value)
