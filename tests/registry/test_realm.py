import httpx
import pytest

from crossmount.errors import InvalidAnswerError
from crossmount.registry.auth.challenge import RealmTrust, judge_realm, registrable

OWN = [
    ("https://registry-1.docker.io", "https://auth.docker.io/token"),
    ("https://registry.hub.docker.com", "https://auth.docker.io/token"),
    ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
    ("https://ghcr.io", "https://ghcr.io/token"),
    ("https://quay.io", "https://quay.io/v2/auth"),
    ("https://rg.fr-par.scw.cloud", "https://api.scaleway.com/registry-internal/v1/regions/fr-par/tokens"),
    ("https://registry.cn-hangzhou.aliyuncs.com", "https://dockerauth.cn-hangzhou.aliyuncs.com/auth"),
    ("https://registry.digitalocean.com", "https://api.digitalocean.com/v2/registry/auth"),
    ("https://team.azurecr.io", "https://team.azurecr.io/oauth2/token"),
    ("https://registry.example.co.uk", "https://auth.example.co.uk/t"),
    ("https://registry.example.org:5000", "https://REGISTRY.example.org:5001/token"),
    ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
    ("http://localhost:5000", "http://localhost:5001/token"),
    ("https://[::1]:5000", "https://[::1]/token"),
]

STRANGERS = [
    ("https://registry.example.org", "https://evil.example.net/token"),
    ("https://registry.example.org", "https://registry.example.org.evil.net/token"),
    ("https://registry.example.org", "https://evil-example.org/token"),
    ("https://one.azurecr.io", "https://other.azurecr.io/oauth2/token"),
    ("https://one.jfrog.io", "https://evil.jfrog.io/token"),
    ("https://a.co.uk", "https://evil.co.uk/token"),
    ("https://a.example.com.au", "https://evil.com.au/token"),
    ("https://bucket.s3.amazonaws.com", "https://evil.s3.amazonaws.com/token"),
    ("https://registry.cn-hangzhou.aliyuncs.com", "https://evil.oss-cn-hangzhou.aliyuncs.com/token"),
    ("https://10.0.0.1", "https://11.0.0.1/token"),
    ("https://1.2.3.4", "https://9.2.3.4/token"),
    ("https://registry", "https://auth/token"),
    ("https://localhost:5000", "https://evil.localhost/token"),
    ("https://foo.io", "https://bar.io/token"),
    ("https://x.ab.io", "https://y.ab.io/token"),
    ("https://[::1]", "https://[::2]/token"),
]


@pytest.mark.parametrize(("registry", "realm"), OWN)
def test_a_realm_of_the_registrys_own_domain_gets_credentials(registry: str, realm: str) -> None:
    """The registry's own host and hosts on its registrable domain may get the credentials."""
    assert judge_realm(httpx.URL(realm), registry=httpx.URL(registry)) is RealmTrust.CREDENTIALS


@pytest.mark.parametrize(("registry", "realm"), STRANGERS)
def test_a_realm_of_another_owner_gets_none(registry: str, realm: str) -> None:
    """Any other host gets anonymous requests only, also a neighbour on a shared domain."""
    assert judge_realm(httpx.URL(realm), registry=httpx.URL(registry)) is RealmTrust.ANONYMOUS


def test_a_realm_that_is_trusted_by_name_gets_credentials() -> None:
    """A realm is trusted by host, or by host and port, whatever the case."""
    registry, realm = httpx.URL("https://r.example.org"), httpx.URL("https://sso.example.net/token")
    assert judge_realm(realm, registry=registry, trusted=["SSO.example.net"]) is RealmTrust.CREDENTIALS
    assert judge_realm(realm, registry=registry, trusted=["sso.example.net:443"]) is RealmTrust.CREDENTIALS
    assert judge_realm(realm, registry=registry, trusted=["sso.example.net:8443"]) is RealmTrust.ANONYMOUS
    assert judge_realm(realm, registry=registry, trusted=["example.net"]) is RealmTrust.ANONYMOUS


def test_https_is_never_left_for_http() -> None:
    """A realm on http gets no request for a registry on https, even if it is trusted."""
    registry, realm = httpx.URL("https://r.example.org"), httpx.URL("http://r.example.org/token")
    assert judge_realm(realm, registry=registry, trusted=["r.example.org"]) is RealmTrust.NOTHING


@pytest.mark.parametrize("realm", ["/token", "ftp://r.example.org/", "https://user:pw@r.example.org/", "https://"])
def test_a_realm_must_be_a_plain_url(realm: str) -> None:
    """A realm that is no http or https URL, or has a user name, is an invalid answer."""
    with pytest.raises(InvalidAnswerError, match="realm"):
        judge_realm(httpx.URL(realm), registry=httpx.URL("https://r.example.org"))


def test_the_registrable_domain_is_judged_narrowly() -> None:
    """In doubt the registrable domain has one label more."""
    assert registrable("a.b.example.org") == "example.org"
    assert registrable("a.example.co.uk") == "example.co.uk"
    assert registrable("example.co.uk") == "example.co.uk"
    assert registrable("co.uk") is None
    assert registrable("x.gcr.io") == "x.gcr.io"
    assert registrable("a..b") is None
    assert registrable("example.com.br") == "example.com.br"
