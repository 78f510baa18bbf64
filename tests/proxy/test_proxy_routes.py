"""The routes of requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.oci import Digest
from crossmount.oci.reference import is_repository_name
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.routes import (
    ApiBase,
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    OtherRoute,
    OwnEndpoint,
    ReferrersRoute,
    Route,
    SessionRoute,
    TagsRoute,
    UploadsRoute,
    parse_route,
    route_name,
)

D = Digest.of(b"x")
WORD = st.from_regex(r"[a-z0-9]{1,6}([._-][a-z0-9]{1,4})?", fullmatch=True)
NAME = st.lists(
    st.one_of(WORD, st.sampled_from(["blobs", "uploads", "manifests", "tags", "list", "referrers"])),
    min_size=1,
    max_size=5,
).map("/".join)
TAG = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)


@given(NAME, TAG)
def test_names_made_of_the_grammars_own_words_are_unambiguous(name: str, tag: str) -> None:
    """A repository may be named `blobs/uploads`: the last segments decide the route."""
    base = f"/v2/{name}"
    expectations: list[tuple[str, Route]] = [
        (f"{base}/blobs/{D}", BlobRoute(name, D)),
        (f"{base}/blobs/uploads/", UploadsRoute(name)),
        (f"{base}/blobs/uploads", UploadsRoute(name)),
        (f"{base}/blobs/uploads/abc-_9", SessionRoute(name, "abc-_9")),
        (f"{base}/manifests/{D}", ManifestRoute(name, D)),
        (f"{base}/manifests/{tag}", ManifestRoute(name, tag)),
        (f"{base}/tags/list", TagsRoute(name)),
        (f"{base}/referrers/{D}", ReferrersRoute(name, D)),
    ]
    for path, expected in expectations:
        assert parse_route(path.encode(), b"") == expected


def judged(path: bytes, query: bytes) -> Route | RequestRefusedError:
    """Return what comes of a request."""
    try:
        return parse_route(path, query)
    except RequestRefusedError as error:
        return error


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_comes_is_a_route_or_is_refused(path: bytes, query: bytes) -> None:
    """Any bytes are a route or a refusal, and every route has a valid repository name and digest."""
    for raw in (path, b"/" + path, b"/v2/" + path, b"/v2/a/blobs/uploads/" + path):
        found = judged(raw, query)
        if isinstance(found, RequestRefusedError):
            assert 400 <= found.status < 500
            continue
        assert route_name(found)
        name = getattr(found, "name", None)
        assert name is None or is_repository_name(name)
        assert b".." not in raw.split(b"/")


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_base_has_two_spellings(path: str) -> None:
    """`/v2` and `/v2/` are the same route."""
    assert parse_route(path.encode(), b"") == ApiBase()


def test_the_catalog_own_pages_and_unknown_ones() -> None:
    """The catalog, the proxy's own endpoints and unknown paths have routes of their own."""
    assert parse_route(b"/v2/_catalog", b"n=5") == CatalogRoute()
    assert parse_route(b"/_crossmount/healthz", b"") == OwnEndpoint("healthz")
    assert parse_route(b"/v2/_oci/ext/discover", b"") == OtherRoute()


@pytest.mark.parametrize(
    "path",
    [
        "/v2/a/../b/manifests/x",
        "/v2/a/./manifests/x",
        "/v2/a%2Fb/manifests/x",
        "/v2/a%2fb/manifests/x",
        "/v2/%2e%2e/manifests/x",
        "/v2//a/manifests/x",
        "/v2/a//manifests/x",
        "/v2/a\\b/manifests/x",
        "/v2/a/manifests/x%00",
        "/v2/a/manifests/x%0d%0aHost:y",
        "/v2/A/manifests/x",
        "/v2/a;b/manifests/x",
        "/v2/_a/manifests/x",
        f"/v2/{'a' * 256}/manifests/x",
        "http://elsewhere/v2/",
        "*",
        "",
    ],
)
def test_paths_that_two_readers_could_understand_differently_are_refused(path: str) -> None:
    """Traversal, encoded slashes, empty segments and invalid names are refused with NAME_INVALID."""
    with pytest.raises(RequestRefusedError) as refused:
        parse_route(path.encode(), b"")
    assert (refused.value.status, refused.value.code) == (400, "NAME_INVALID")


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/v2/a/blobs/sha256:abc", "", "DIGEST_INVALID"),
        ("/v2/a/blobs/uploads/s", "digest=md5:1", "DIGEST_INVALID"),
        ("/v2/a/blobs/uploads/s", f"digest={D}&digest={D}", "DIGEST_INVALID"),
        ("/v2/a/blobs/uploads/", f"mount={D}&mount={D}", "DIGEST_INVALID"),
        ("/v2/a/blobs/uploads/", f"mount={D}&from=a&from=b", "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/", f"Mount={D}&From=b", "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/", f"mount={D}&from=b&fro%4D=c", "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/s", f"digest={D}&DIGEST={D}", "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/", "x=%ff", "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/", "x= y", "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/", "&".join(f"a{i}=1" for i in range(100)), "UNSUPPORTED"),
        ("/v2/a/manifests/-x", "", "TAG_INVALID"),
        ("/v2/a/manifests/sha256:zz", "", "DIGEST_INVALID"),
    ],
)
def test_a_bad_digest_tag_or_query_is_refused_with_its_code(path: str, query: str, code: str) -> None:
    """An invalid digest, tag or query is refused with the specification's code."""
    with pytest.raises(RequestRefusedError) as refused:
        parse_route(path.encode(), query.encode())
    assert (refused.value.status, refused.value.code) == (400, code)


def test_what_is_not_v2_is_not_served() -> None:
    """Only paths under `/v2/` are forwarded, so service credentials reach nothing else on that host."""
    with pytest.raises(RequestRefusedError) as refused:
        parse_route(b"/api/v2.0/projects", b"")
    assert refused.value.status == 404


def test_a_target_that_is_too_long_is_refused() -> None:
    """A path and query of more than 8 KiB are refused."""
    with pytest.raises(RequestRefusedError) as refused:
        parse_route(b"/v2/a/manifests/x", b"a=" + b"b" * 9000)
    assert refused.value.status == 414


def test_an_unknown_session_name_is_an_unknown_session() -> None:
    """A session name that was never issued is answered like an expired one."""
    with pytest.raises(RequestRefusedError) as refused:
        parse_route(b"/v2/a/blobs/uploads/has.dots", b"")
    assert (refused.value.status, refused.value.code) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_a_digests_colon_may_be_encoded() -> None:
    """A digest's colon may be encoded as `%3A`."""
    assert parse_route(b"/v2/a/blobs/" + D.replace(":", "%3A").encode(), b"") == BlobRoute("a", D)


def test_the_mounts_query_is_made_anew() -> None:
    """The registry gets the query that was parsed; an invalid `from` is a mount that fails."""
    asked = parse_route(b"/v2/a/blobs/uploads/", f"from=b/c&mount={D}&x=1".encode())
    assert isinstance(asked, UploadsRoute)
    assert (asked.mount, asked.source, asked.digest) == (D, "b/c", None)
    assert asked.query() == f"mount={D.replace(':', '%3A')}&from=b%2Fc&x=1"
    odd = parse_route(b"/v2/a/blobs/uploads/", f"from=HOST:1/c&mount={D}".encode())
    assert isinstance(odd, UploadsRoute)
    assert odd.query() == f"mount={D.replace(':', '%3A')}"
    assert ManifestRoute("a", "tag").digest is None
    assert ManifestRoute("a", D).digest == D
