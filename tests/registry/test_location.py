import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import InvalidAnswerError
from crossmount.registry.http.location import Origin, resolve, shown, with_query

HERE = httpx.URL("https://r.example.org/v2/a/b/blobs/uploads/?mount=x&from=y")


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("https://r.example.org/v2/a/b/blobs/uploads/1?_state=x%2Fy", None),
        ("/v2/a/b/blobs/uploads/1?_state=x%2Fy", "https://r.example.org/v2/a/b/blobs/uploads/1?_state=x%2Fy"),
        ("1?_state=x", "https://r.example.org/v2/a/b/blobs/uploads/1?_state=x"),
        ("//store.example.net/u/1", "https://store.example.net/u/1"),
        ("https://store.example.net/blobs/upload/1#part", "https://store.example.net/blobs/upload/1"),
    ],
)
def test_a_location_is_resolved_against_the_request(location: str, url: str | None) -> None:
    """A Location may be absolute or relative to host or path; its query stays and its fragment is dropped."""
    assert str(resolve(location, request=HERE)) == (url or location)


@pytest.mark.parametrize(
    "location",
    [None, "", "http://r.example.org/u", "http://other/u", "ftp://r.example.org/u", "https://u:p@r.example.org/u",
     "https://[::1/u", "x" * 20_000, "file:///etc/passwd", "https://r.example.org:99999/u"],
)  # fmt: skip
def test_what_may_not_be_followed_is_refused(location: str | None) -> None:
    """A Location that is no URL, has another scheme or a user name, or leaves https, is an invalid answer."""
    with pytest.raises(InvalidAnswerError, match=r"^https://r\.example\.org: "):
        resolve(location, request=HERE)


def test_plain_http_may_change_the_port_of_its_host_only() -> None:
    """From http a Location may lead to the same host or to any https host, not to http on another host."""
    here = httpx.URL("http://127.0.0.1:5000/v2/")
    assert str(resolve("http://127.0.0.1:5001/u", request=here)) == "http://127.0.0.1:5001/u"
    assert str(resolve("https://store.example.net/u", request=here)) == "https://store.example.net/u"
    with pytest.raises(InvalidAnswerError, match="another host must be on https"):
        resolve("http://127.0.0.2:5000/u", request=here)


def test_an_origin_is_scheme_host_and_port() -> None:
    """Case, a final dot and the scheme's default port do not change an origin; everything else does."""
    one = Origin.of(httpx.URL("https://R.example.org.:443/x"))
    assert one == Origin.of(httpx.URL("https://r.example.org/y"))
    assert one != Origin.of(httpx.URL("http://r.example.org/"))
    assert one != Origin.of(httpx.URL("https://r.example.org:444/"))
    assert str(Origin.of(httpx.URL("http://[::1]:5000/"))) == "http://[::1]:5000"


@given(st.text(st.sampled_from("abc%2F+=&~._-:/?"), max_size=30))
def test_the_query_is_kept_byte_for_byte(query: str) -> None:
    """Adding the digest keeps the bytes of the query, so that a signature stays valid."""
    url = httpx.URL("https://r.example.org/u").copy_with(query=query.encode())
    assert with_query(url, "digest=sha256:ab").query.endswith(b"digest=sha256:ab")
    assert with_query(url, "digest=sha256:ab").query.startswith(url.query)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@r.example.org:5000/v2/a%20b?_state=x%2Fy#part",
        "https://bücher.example/ü/é?sig=1",
        "http://[::1]:5000/v2/?n=1",
        "http://[::1]:5000?n=1",
        "//r.example.org/u?n=1",
        "/u?n=1",
        "",
    ],
)
def test_a_url_is_shown_as_httpx_writes_it_without_what_may_be_secret(url: str) -> None:
    """A message shows a URL without its user name and its query."""
    assert shown(httpx.URL(url)) == str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
