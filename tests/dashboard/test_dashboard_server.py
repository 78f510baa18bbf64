"""The page's own server: who may ask it what, by which names, and below which prefix."""

import pytest

from crossmount.errors import InvalidInputError
from crossmount.proxy.page import page_url
from support.dashboards import AccountingIndex, served


async def test_every_answer_has_the_headers_that_protect_a_reader() -> None:
    """Pages, files, errors and metrics have the content security policy and the other security headers."""
    async with served(AccountingIndex()) as page:
        for path in ("/", "/page.css", "/nothing", "/metrics", "/live"):
            headers = (await page.client.get(path)).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "server" not in headers


async def test_a_head_has_no_body_and_nothing_can_be_written() -> None:
    """HEAD answers as GET without the body; every other method is refused."""
    async with served(AccountingIndex()) as page:
        answer = await page.client.head("/")
        assert (answer.status_code, answer.content) == (200, b"")
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert (await page.client.request(method, "/")).status_code == 405


async def test_a_name_that_only_dns_makes_ours_is_refused() -> None:
    """A Host that is neither an address nor the public URL's is misdirected, so DNS rebinding reads nothing."""
    async with served(AccountingIndex(), public_url="https://tools.example.com/crossmount") as page:
        for host, status in (
            ("127.0.0.1", 200),
            ("localhost:8080", 200),
            ("tools.example.com", 200),
            ("attacker.example", 421),
            ("tools.example.com.attacker.example", 421),
        ):
            assert (await page.client.get("/", headers={"host": host})).status_code == status, host


async def test_another_site_may_link_here_but_not_read() -> None:
    """A link on another site's page leads here; its scripts and frames get a 403."""
    async with served(AccountingIndex()) as page:
        for mode, status in (("navigate", 200), ("no-cors", 403), ("cors", 403)):
            headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}
            assert (await page.client.get("/", headers=headers)).status_code == status
        assert (await page.client.get("/", headers={"origin": "https://attacker.example"})).status_code == 403


async def test_the_page_works_behind_a_prefix() -> None:
    """The prefix of the public URL may be forwarded or removed; without its slash it leads to the page."""
    async with served(AccountingIndex(), public_url="https://tools.example.com/team/crossmount/") as page:
        plain = await page.client.get("/")
        prefixed = await page.client.get("/team/crossmount/")
        assert plain.status_code == prefixed.status_code == 200
        assert (await page.client.get("/team/crossmount/page.css")).status_code == 200
        assert (await page.client.get("/team/crossmount/team/crossmount/")).status_code == 404
        bare = await page.client.get("/team/crossmount")
        assert (bare.status_code, bare.headers["location"]) == (308, "/team/crossmount/")


async def test_a_client_that_goes_away_is_nobody_s_error() -> None:
    """A path with bytes that are no text is not found, and the server goes on."""
    async with served(AccountingIndex()) as page:
        assert (await page.client.get("/%ff%00")).status_code == 404
        assert (await page.client.get("/")).status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        "tools.example.com",
        "ftp://tools.example.com",
        "https://",
        "https://h:x/",
        "https://h/?a=b",
        "https://h/#a",
        "https://user:secret@h/",
        "https://h/a b",
        "https://h//a",
        "https://h/%2e",
    ],
)
def test_a_public_url_that_is_none_is_an_error_without_its_password(url: str) -> None:
    """A public URL has scheme, host, port and a plain path; the error never repeats a password."""
    with pytest.raises(InvalidInputError) as caught:
        page_url(url)
    assert "--public-url" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_public_url_ends_in_a_slash() -> None:
    """The URL for people is the one that was given, with one slash at its end."""
    assert page_url(None) is None
    assert page_url("https://h.example:8443/a") == "https://h.example:8443/a/"
    assert page_url("http://h.example") == page_url("http://h.example/") == "http://h.example/"
