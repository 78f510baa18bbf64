"""Service mode answers only for the names that it is called by, and to no web page of another site."""

import pytest

from crossmount.proxy.auth.own_names import OwnNames
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange, Message
from crossmount.testing import ScriptedRegistry
from support.proxies import proxy_before

NAMES = OwnNames.of("127.0.0.1", "https://hub.example.com", any_host=False)


def request(**headers: str) -> Exchange:
    """Return a request with these headers."""

    async def receive() -> Message:
        return {}

    async def send(_: Message) -> None:
        return

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"method": "POST", "raw_path": b"/v2/", "query_string": b"", "headers": pairs, "scheme": "http"}
    return Exchange(scope, receive, send, idle=1.0)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:5000",
        "localhost",
        "LOCALHOST:5000",
        "[::1]:5000",
        "10.1.2.3",
        "hub.example.com",
        "hub.example.com:443",
    ],
)
def test_own_names_and_addresses_are_served(host: str) -> None:
    """An address, localhost and the host of the public URL are the proxy's own."""
    NAMES.check(request(host=host))


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:5000",
        "127.0.0.1.attacker.example",
        "127.0.0.1@attacker.example",
        "attacker.example/127.0.0.1",
        "hub.example.com.attacker.example",
        "localhost.attacker.example",
        "127.0.0.1:x",
        "2130706433",
    ],
)
def test_another_name_is_misdirected(host: str) -> None:
    """A name that only DNS makes ours gets a 421."""
    with pytest.raises(RequestRefusedError) as refused:
        NAMES.check(request(host=host))
    assert refused.value.status == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://attacker.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://hub.example.com"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": "http://127.0.0.1:5000"},
    ],
)
def test_a_page_of_another_site_is_refused(headers: dict[str, str]) -> None:
    """A browser says where a page comes from, and a page from elsewhere gets a 403, whoever its user is."""
    for names in (NAMES, OwnNames.of("127.0.0.1", None, any_host=True)):
        with pytest.raises(RequestRefusedError) as refused:
            names.check(request(host="127.0.0.1:5000", **headers))
        assert refused.value.status == 403


@pytest.mark.parametrize("origin", ["http://127.0.0.1:5000", "https://hub.example.com"])
def test_the_proxys_own_pages_are_served(origin: str) -> None:
    """A page of the proxy itself, by its address or its public URL, may use it."""
    NAMES.check(request(host="127.0.0.1:5000", origin=origin, sec_fetch_site="same-origin"))


async def test_a_proxy_with_its_own_rights_checks_names() -> None:
    """Nothing that a foreign page sends reaches the registry in service mode; client mode lends nothing."""
    foreign = {"Host": "attacker.example"}
    async with ScriptedRegistry() as registry:
        async with proxy_before(registry.url, auth="service") as proxy:
            assert (await proxy.client.get("/v2/_catalog", headers=foreign)).status_code == 421
            assert (await proxy.client.get("/_crossmount/metrics", headers=foreign)).status_code == 421
            assert registry.requests == []
        async with proxy_before(registry.url) as proxy:
            assert (await proxy.client.get("/v2/", headers=foreign)).status_code == 200
