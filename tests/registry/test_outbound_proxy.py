"""Which proxy a request goes through, beside Go's table of the same questions."""

import httpx
import pytest

from crossmount.errors import InvalidInputError
from crossmount.registry.http.outbound_proxy import ProxyRules

PROXY = "http://proxy.corp.example:3128"


def proxied(url: str, **environment: str) -> str | None:
    """Return the proxy for a URL in an environment."""
    found = ProxyRules.from_environment(environment).proxy_for(httpx.URL(url))
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("no_proxy", "url", "exempt"),
    [
        ("", "http://registry.example.com/v2/", False),
        ("*", "http://registry.example.com/v2/", True),
        ("example.com", "http://registry.example.com/v2/", True),
        ("example.com", "http://example.com/v2/", True),
        ("example.com", "http://notexample.com/v2/", False),
        (".example.com", "http://registry.example.com/v2/", True),
        (".example.com", "http://example.com/v2/", False),
        ("*.example.com", "http://registry.example.com/v2/", True),
        ("EXAMPLE.com", "http://registry.Example.COM/v2/", True),
        ("example.com:5000", "http://example.com:5000/v2/", True),
        ("example.com:5000", "http://example.com/v2/", False),
        ("example.com:80", "http://example.com/v2/", True),
        ("192.0.2.0/24", "http://192.0.2.7:5000/v2/", True),
        ("192.0.2.128/25", "http://192.0.2.7/v2/", False),
        ("10.0.0.0/8, 192.0.2.0/25 .internal", "http://192.0.2.7/v2/", True),
        ("192.0.2.7", "http://192.0.2.7/v2/", True),
        ("192.0.2.7:5000", "http://192.0.2.7:5000/v2/", True),
        ("192.0.2.7:5000", "http://192.0.2.7/v2/", False),
        ("2001:db8::/32", "http://[2001:db8::1]:5000/v2/", True),
        ("[2001:db8::1]:5000", "http://[2001:db8::1]:5000/v2/", True),
        ("2001:db8::2", "http://[2001:db8::1]/v2/", False),
        (",,:, .", "http://registry.example.com/v2/", False),
    ],
)
def test_no_proxy_means_what_go_s_clients_read_in_it(no_proxy: str, url: str, exempt: bool) -> None:
    """Names, subdomains, ports, addresses and networks are exempt as they are for docker and skopeo."""
    assert (proxied(url, HTTP_PROXY=PROXY, NO_PROXY=no_proxy) is None) is exempt


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]"])
def test_the_loopback_needs_no_exemption(host: str) -> None:
    """A registry on this host is never asked through a proxy."""
    assert proxied(f"http://{host}:5000/v2/", HTTP_PROXY=PROXY, ALL_PROXY=PROXY) is None


def test_each_scheme_has_its_proxy() -> None:
    """HTTP_PROXY is for http, HTTPS_PROXY for https, ALL_PROXY for what has none of its own."""
    other = "http://other.example:1"
    assert proxied("http://r.example/", HTTP_PROXY=PROXY) == PROXY
    assert proxied("https://r.example/", HTTP_PROXY=PROXY) is None
    assert proxied("https://r.example/", https_proxy=PROXY, ALL_PROXY=other) == PROXY
    assert proxied("http://r.example/", https_proxy=PROXY, all_proxy=other) == other
    assert proxied("http://r.example/", HTTP_PROXY=PROXY, http_proxy=other) == PROXY


def test_a_cgi_program_does_not_take_its_proxy_from_a_client() -> None:
    """HTTP_PROXY is not read where a web server may have set it from a header."""
    assert proxied("http://r.example/", HTTP_PROXY=PROXY, REQUEST_METHOD="GET") is None


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("socks://proxy.example:1080", "socks5://proxy.example:1080"),
        ("socks5h://proxy.example:1080", "socks5h://proxy.example:1080"),
    ],
)
def test_the_usual_spellings_of_a_proxy_are_read(given: str, read: str) -> None:
    """A proxy without a scheme is an http one, and socks is SOCKS 5."""
    assert proxied("http://r.example/", ALL_PROXY=given) == read


@pytest.mark.parametrize("given", ["ftp://proxy.example", "http://", "http://x:port", "http://x:99999"])
def test_what_is_no_proxy_is_refused_by_its_variable(given: str) -> None:
    """The error names the variable, and never repeats a password."""
    with pytest.raises(InvalidInputError, match=r"^HTTPS_PROXY: not the URL of a proxy"):
        ProxyRules.from_environment({"HTTPS_PROXY": given})


def test_a_password_stays_out_of_the_repr() -> None:
    """The rules can be logged."""
    assert "s3cret" not in repr(ProxyRules.from_environment({"HTTP_PROXY": "http://ann:s3cret@proxy.example"}))
