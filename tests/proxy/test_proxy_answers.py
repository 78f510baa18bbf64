"""Malformed answers of registries: the client gets valid HTTP, and the proxy goes on."""

import logging
import re
from collections.abc import Iterable, Iterator

import httpx
import pytest

from crossmount.errors import InvalidAnswerError
from crossmount.oci import Digest
from crossmount.proxy.http.headers import request_headers, rewritten_location
from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.registry.http.location import Origin, resolve
from crossmount.testing import RegistryOptions, ScriptedRegistry, TokenAuth
from support.proxies import begin_upload, error_code, proxy_before
from support.wire import answering, raw

DIGEST = Digest.of(b"x")
REQUESTS = [
    "GET /v2/a/manifests/x",
    f"HEAD /v2/a/blobs/{DIGEST}",
    "POST /v2/a/blobs/uploads/",
    f"POST /v2/a/blobs/uploads/?mount={DIGEST}&from=b",
]
ANSWER = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [^\r\n]*\r\n(?:[!-9;-~]+: [\t -~\x80-\xff]*\r\n)*\r\n", re.DOTALL)


def answer(status: str, *lines: bytes, body: bytes = b"", length: bool = True) -> bytes:
    """Return an answer with these header lines."""
    counted = [b"Content-Length: %d" % len(body)] if length else []
    return b"\r\n".join([f"HTTP/1.1 {status}".encode(), *lines, *counted, b"", body])


ANSWERS: dict[str, tuple[bytes | Iterable[bytes], int | set[int]]] = {
    "a control character": (answer("200 OK", b"X-A: a\x01b"), 200),
    "an escape": (answer("401 No", b'WWW-Authenticate: Bearer realm="https://a/",service="\x1b[2J"'), 401),
    "a status beyond HTTP": (answer("799 Odd"), 502),
    "a length without a body": (answer("304 Not Modified", b"Content-Length: 10", length=False), {304, 502}),
    "another": (answer("204 No Content", b"Content-Length: 10", length=False), {204, 502}),
    "two framings": (answer("200 OK", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"), 200),
    "a fragment that is no Latin-1": (answer("307 There", b"Location: /v2/x#%E2%82%AC"), 307),
    "a fragment with a line in it": (answer("307 There", b"Location: /v2/x#%0d%0aX-Evil:%201"), 307),
    "a host that cannot be decoded": (answer("307 There", b"Location: https://xn--a/x"), {307, 502}),
    "a host that is none": (answer("307 There", b"Location: https://[::1/x"), {307, 502}),
    "bytes beyond ASCII": (answer("307 There", b"Location: /v2/\xe9\xff", b"Link: </\xff>; rel=next"), 307),
    "a realm that cannot be decoded": (answer("401 No", b'WWW-Authenticate: Bearer realm="https://xn--a/"'), 401),
    "endless headers": (answer("200 OK", b"X-A: " + b"a" * 200_000), 502),
    "another protocol": (answer("101 Switching", b"Upgrade: x", b"Connection: upgrade"), 502),
    "hints first": (
        (answer("103 Early", length=False), answer("100 Continue", length=False), answer("200 OK")),
        200,
    ),
    "no HTTP": (b"HELLO\r\n\r\n", 502),
    "a type beyond ASCII": (answer("401 No", b"Content-Type: \xe2\x82\xac"), 401),
}


@pytest.fixture(autouse=True)
def nothing_is_unexpected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test whose proxy met an exception that nobody had thought of."""
    caplog.set_level(logging.ERROR)
    yield
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("asked", REQUESTS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_whatever_a_registry_answers_the_client_gets_one_answer(name: str, asked: str) -> None:
    """The client gets the registry's status if it is valid, else 502, and no malformed header."""
    content, expected = ANSWERS[name]
    async with answering(content) as url, proxy_before(url) as proxy:
        got = await raw(proxy.address, f"{asked} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        match = ANSWER.match(got)
        assert match is not None, got
        assert int(match[1]) in (expected if isinstance(expected, set) else {expected})
        assert b"x-evil" not in match[0].lower().splitlines()[0]
        assert not re.search(rb"\r\nx-evil", match[0].lower())
        assert (await proxy.client.get("/_crossmount/healthz")).status_code == 200


@pytest.mark.parametrize("asked", REQUESTS[1:])
async def test_an_error_body_without_end_is_not_read_to_its_end(asked: str) -> None:
    """An error body without end is read up to a bound."""

    def endless() -> Iterator[bytes]:
        yield answer("503 Later", length=False)
        while True:
            yield b"x" * 65536

    async with answering(endless()) as url, proxy_before(url) as proxy:
        method, _, path = asked.partition(" ")
        got = await proxy.client.request(method, path)
        assert got.status_code == 503


def test_a_path_on_the_registry_that_looks_like_another_host_does_not_become_one() -> None:
    """A path `//evil/x` on the registry is not sent as a Location, since clients would read it as another host."""
    asked = httpx.URL("https://registry.test/v2/a/blobs/uploads/")
    for location in ("https://registry.test//evil.test/x", "https://registry.test//evil.test"):
        seen = rewritten_location(location, upstream=Origin.of(asked), asked=asked)
        assert httpx.URL("https://proxy.test/v2/").join(seen).host != "evil.test"


@pytest.mark.parametrize("location", ["https://xn--a/x", "//xn--0000000000/x", "https://xn--\u0080/x"])
def test_a_host_that_cannot_be_decoded_is_an_invalid_answer(location: str) -> None:
    """A host that cannot be decoded is a 502, not an exception of the library that decodes it."""
    with pytest.raises(InvalidAnswerError):
        resolve(location, request=httpx.URL("https://registry.test/"))


def test_a_header_is_not_sent_on_by_another_spelling() -> None:
    """A header with an underscore is dropped, since WSGI servers read `X_Forwarded_Host` as `X-Forwarded-Host`."""
    spelt = [(b"x_forwarded_host", b"evil.test"), (b"content_length", b"1"), (b"accept", b"*/*")]
    assert request_headers(spelt) == [(b"accept", b"*/*")]


async def test_another_host_does_not_become_the_realm() -> None:
    """Callers are not sent to the realm of another host that an upload's Location leads to."""
    async with ScriptedRegistry(RegistryOptions(auth=TokenAuth(users={"a": "b"}))) as other:
        options = RegistryOptions(location_base=other.url)
        async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
            location = await begin_upload(proxy, "a")
            put = await proxy.client.put(f"{location}?digest={DIGEST}", content=b"x")
            assert put.status_code == 401
            assert "www-authenticate" not in put.headers
            token = await proxy.client.get("/_crossmount/token", headers={"Authorization": "Basic YTpi"})
            assert token.status_code == 404
            assert not other.matching(path="/token")


@pytest.mark.parametrize(
    ("method", "details"),
    [
        ("GET", {"headers": {"Authorization": "Bearer a.real.token"}}),
        ("GET", {"headers": {"Authorization": "Basic bm9jb2xvbg=="}}),
        ("POST", {"data": {"grant_type": "password", "password": "secret"}}),
        ("POST", {"data": {"grant_type": "authorization_code", "code": "secret"}}),
    ],
)
async def test_nothing_secret_goes_to_a_strangers_realm(method: str, details: dict[str, object]) -> None:
    """Credentials never go to a foreign realm, not even in a form that the proxy cannot parse."""
    async with ScriptedRegistry() as stranger:
        realm = stranger.url.replace("127.0.0.1", "localhost") + "/token"
        auth = TokenAuth(users={"a": "b"}, realm=realm)
        async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry, proxy_before(registry.url) as proxy:
            got = await proxy.client.request(method, "/_crossmount/token", **details)  # type: ignore[arg-type]
            assert (got.status_code, error_code(got)) == (502, "UNAVAILABLE")
            assert stranger.requests == []
            await proxy.client.get("/_crossmount/token")
            assert [record.auth_scheme for record in stranger.requests] == [""]


@pytest.mark.parametrize(
    "content",
    [answer("401 No", b"Content-Type: \xe2\x82\xac"), answer("799 Odd"), answer("200 OK", body=b"[" * 9999)],
)
async def test_a_realm_that_answers_oddly_is_survived(content: bytes) -> None:
    """A malformed answer of a realm becomes a valid answer, or a 502."""
    async with answering(content) as realm:
        challenge = f'WWW-Authenticate: Bearer realm="{realm}/token"'.encode()
        async with answering(answer("401 No", challenge)) as url, proxy_before(url) as proxy:
            got = await proxy.client.get("/_crossmount/token")
            assert got.status_code in {401, 502}


async def test_a_realm_that_never_ends_is_given_up() -> None:
    """A token request ends although the realm sends byte after byte without end."""

    def dripping() -> Iterator[bytes]:
        yield answer("200 OK", b"Content-Length: 60000", length=False)
        while True:
            yield b" "

    options = ClientOptions(retry=RetryPolicy(timeout=0.3, outage=0.0))
    async with answering(dripping()) as realm:
        challenge = f'WWW-Authenticate: Bearer realm="{realm}/token"'.encode()
        async with (
            answering(answer("401 No", challenge)) as url,
            proxy_before(url, options=options) as proxy,
        ):
            got = await proxy.client.get("/_crossmount/token")
            assert got.status_code in {502, 504}
