"""The headers that the proxy forwards, and how it rewrites Locations."""

from typing import cast

import httpx
import pytest

from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import (
    ClientPaths,
    answer_headers,
    check_framing,
    request_headers,
    rewritten_location,
)
from crossmount.proxy.http.upstream import Upstream
from crossmount.proxy.uploads.sessions import check_content_range
from crossmount.registry.http.location import Origin
from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.transport import make_client

UPSTREAM = Origin.of(httpx.URL("https://registry.test/"))
ASKED = httpx.URL("https://registry.test/v2/a/blobs/uploads/")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"1, 1")],
        [(b"content-length", b"9" * 30)],
        [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"identity")],
        [(b"host", b"a"), (b"host", b"b")],
    ],
)
def test_what_could_be_cut_differently_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """Headers that two servers could read as different lengths are refused (request smuggling)."""
    with pytest.raises(RequestRefusedError) as refused:
        check_framing(headers)
    assert (refused.value.status, refused.value.close) == (400, True)


def test_ordinary_framing_is_fine() -> None:
    """A request with one length, one encoding, or neither is accepted."""
    check_framing([(b"host", b"a"), (b"content-length", b"12")])
    check_framing([(b"host", b"a"), (b"transfer-encoding", b"Chunked")])


def test_headers_of_one_connection_and_of_forwarding_stay_behind() -> None:
    """Hop-by-hop headers, headers that Connection names, and forwarding headers do not reach the registry."""
    given = [
        (b"connection", b"keep-alive, X-Mine"),
        (b"x-mine", b"1"),
        (b"te", b"trailers"),
        (b"host", b"proxy"),
        (b"expect", b"100-continue"),
        (b"authorization", b"Basic abc"),
        (b"content-length", b"3"),
        (b"x-forwarded-host", b"evil.test"),
        (b"x-forwarded-proto", b"http"),
        (b"forwarded", b"host=evil.test"),
        (b"accept-encoding", b"gzip"),
        (b"x-unknown", b"kept"),
        (b"range", b"bytes=1-2"),
    ]
    assert request_headers(given) == [
        (b"accept-encoding", b"gzip"),
        (b"x-unknown", b"kept"),
        (b"range", b"bytes=1-2"),
    ]


@pytest.mark.parametrize("own_credentials", [True, False])
async def test_a_session_of_the_proxys_own_account_stays_in_the_proxy(own_credentials: bool) -> None:
    """A cookie that the registry sets for the proxy's own credentials reaches no caller: it may stand for them."""
    url = httpx.URL("https://r.example/v2/")
    answer = httpx.Response(200, headers={"set-cookie": "sid=1"}, request=httpx.Request("GET", url))
    async with make_client(ClientOptions()) as client:
        upstream = Upstream(
            url, client, rewrite_challenges=lambda _, headers: headers, own_credentials=own_credentials
        )
        headers = upstream.answer_headers(cast(Exchange, None), answer)
    assert headers == ([] if own_credentials else [(b"set-cookie", b"sid=1")])


def test_an_answers_headers_come_back_but_for_those_of_the_connection() -> None:
    """Unknown headers of an answer reach the client; those of the connection do not."""
    headers = httpx.Headers(
        [
            ("Connection", "close"),
            ("Transfer-Encoding", "chunked"),
            ("Alt-Svc", 'h3=":443"'),
            ("Strict-Transport-Security", "max-age=1"),
            ("Docker-Content-Digest", "sha256:1"),
            ("Location", "https://registry.test/v2/a/manifests/1"),
            ("Link", '<https://registry.test/v2/_catalog?n=2&last=b>; rel="next"'),
            ("X-Any", "thing"),
        ]
    )
    assert answer_headers(headers, upstream=UPSTREAM, asked=lambda: ASKED) == [
        (b"docker-content-digest", b"sha256:1"),
        (b"location", b"/v2/a/manifests/1"),
        (b"link", b'</v2/_catalog?n=2&last=b>; rel="next"'),
        (b"x-any", b"thing"),
    ]


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("https://registry.test/v2/a/x?_state=a%2Fb%3D", "/v2/a/x?_state=a%2Fb%3D"),
        ("https://registry.test:443/v2/a/x", "/v2/a/x"),
        ("http://registry.test/v2/a/x", "/v2/a/x"),
        ("/v2/a/x?y=1", "/v2/a/x?y=1"),
        ("other", "/v2/a/blobs/uploads/other"),
        ("https://storage.test/signed?x=1", "https://storage.test/signed?x=1"),
        ("https://user:pw@registry.test/x", "https://user:pw@registry.test/x"),
        ("http://[bad", "http://[bad"),
        ("/v2/a/\xc3\xa9#\xc3", "/v2/a/%C3%A9#\xc3"),
    ],
)
def test_a_location_on_the_registry_becomes_a_path(location: str, seen: str) -> None:
    """A Location on the registry becomes a path, whatever its form; one elsewhere stays as it is."""
    assert rewritten_location(location, upstream=UPSTREAM, asked=ASKED) == seen


def test_a_namespace_comes_before_the_fragment() -> None:
    """The `ns` that a client names goes into the query of a Location, not behind its fragment."""
    paths = ClientPaths(namespace="hub.example:5000")
    for location, seen in (
        (b"/v2/a/x#y", b"/v2/a/x?ns=hub.example:5000#y"),
        (b"/v2/a/x?n=1#y?", b"/v2/a/x?n=1&ns=hub.example:5000#y?"),
    ):
        assert paths.rewritten([(b"location", location)]) == [(b"location", seen)]


@pytest.mark.parametrize(
    ("given", "offset", "length"),
    [("0-9", 0, 10), ("bytes 5-9/10", 5, 5), ("bytes=5-9", 5, None), ("7-6", 7, 0), ("7-7", 7, 0)],
)
def test_a_chunk_that_follows_is_taken(given: str, offset: int, length: int | None) -> None:
    """A chunk that follows the bytes before it is accepted, in each spelling that clients use."""
    check_content_range(given, offset=offset, length=length)


@pytest.mark.parametrize(
    ("given", "offset", "length"),
    [
        ("0-9", 1, 10),
        ("5-4", 5, 3),
        ("0-9", 0, 9),
        ("x", 0, 1),
        ("0-" + "9" * 30, 0, 1),
        ("", 0, 1),
        ("-1-2", 0, 1),
    ],
)
def test_a_chunk_that_does_not_follow_is_not(given: str, offset: int, length: int | None) -> None:
    """A chunk that is out of order, has another length, or has a malformed range is refused."""
    with pytest.raises(ValueError, match=r"chunk|Content-Range"):
        check_content_range(given, offset=offset, length=length)
