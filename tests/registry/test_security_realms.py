"""Credentials are sent to their registry after a challenge, and to its own or a trusted realm (CVE-2026-48978)."""

import re

import httpx
import pytest

from crossmount.errors import AccessDeniedError, CredentialsError, InvalidAnswerError
from crossmount.registry import Credential, GivenCredentials
from support.hostile import BASIC, DIGEST, EVIL, SECRET, bearer, carried, given
from support.registry_kit import DEST, HOST, recorded


@pytest.mark.parametrize("kind", ["password", "identity"])
async def test_a_foreign_realm_gets_no_credentials_and_the_error_names_it(kind: str) -> None:
    """A realm on another domain gets no credentials, and the error names it (oras-go CVE-2026-48978)."""
    source = GivenCredentials(HOST, Credential("ci", SECRET, "password" if kind == "password" else "identity"))
    client, transport = recorded(lambda _: bearer(f"https://{EVIL}/token"), credentials=source)
    async with client:
        with pytest.raises(CredentialsError, match=f"trust the realm {re.escape(EVIL)} by name"):
            await client.start_upload(DEST)
    assert transport.to(EVIL) == []


async def test_a_realm_trusted_by_name_gets_the_credentials() -> None:
    """A realm in `ClientOptions.trusted_realms` gets the credentials."""

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


async def test_a_foreign_realm_gets_anonymous_requests() -> None:
    """Without credentials a token is requested from a realm on another domain."""

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
    """A registry on https cannot move its credentials to http, even if the realm is trusted."""
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
    """A realm that is no plain URL is an invalid answer, and nothing is sent."""
    client, transport = recorded(lambda _: bearer(realm), credentials=given())
    async with client:
        with pytest.raises(InvalidAnswerError, match="realm"):
            await client.start_upload(DEST)
    assert len(transport.requests) == 1


async def test_a_realm_that_redirects_is_not_followed() -> None:
    """A realm's redirect is not followed with the credentials."""

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
    """Another registry's challenge does not get the credentials."""
    client, transport = recorded(
        lambda _: httpx.Response(401, headers={"WWW-Authenticate": "Basic realm=x"}),
        credentials=given("other.example.org"),
    )
    async with client:
        with pytest.raises(AccessDeniedError, match="no credentials"):
            await client.start_upload(DEST)
    assert SECRET not in carried(transport.requests)


async def test_no_credentials_are_sent_unasked() -> None:
    """A registry that sends no challenge gets no credentials, and none are looked up."""

    class Untouched:
        async def find(self, registry: str, name: str = "") -> Credential | None:
            raise AssertionError((registry, name))

    client, _ = recorded(lambda _: httpx.Response(404), credentials=Untouched())
    async with client:
        assert await client.head_blob(DEST, DIGEST) is None
