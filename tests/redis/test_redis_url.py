"""Index URLs: their parts, their errors, and no secret in any message."""

from pathlib import Path

import pytest

from crossmount.errors import InvalidIndexURLError, InvalidInputError
from crossmount.index import blocking as blocking_index
from crossmount.index import open_index
from crossmount.redis.address import Address, Login, Tls
from crossmount.redis.link import Link
from crossmount.redis.url import parse_url
from support.links import async_link, blocking_link

SECRET = "hunter2secret"

BAD_URLS = {
    "http://h": r"did you mean redis://\?",
    "redis": "it has no scheme: put redis://",
    "": "no scheme: put redis://",
    f"redis+clutser://:{SECRET}@h": r"did you mean redis\+cluster://\?",
    f"postgres://:{SECRET}@h": "give redis://",
    "embedded": r"did you mean embedded:\?",
    "redis:h": "begins with redis://",
    "redis:/h": "begins with redis://",
    "redis+cluster:h:1": r"begins with redis\+cluster://",
    f"redis://:{SECRET}@h:0": "port",
    f"redis://:{SECRET}@h:65536": "port",
    f"redis://:{SECRET}@h:x": "port",
    f"redis://:{SECRET}/x@h": "port",
    f"redis+cluster://:{SECRET}@a:1,b:two": "port",
    f"redis://user:1/{SECRET}@h": "database number",
    f"redis://:{SECRET}@h/one": "database number",
    f"redis://:{SECRET}@h/-1": "database number",
    f"redis://:{SECRET}@h/1?db=2": "database number in its path and another",
    f"redis+cluster://:{SECRET}@h/1": "no database but 0",
    "redis+cluster://h?db=1": "one of",
    f"redis://h/0#{SECRET}": "#",
    "redis://h/0#": "#",
    f"redis://user:?{SECRET}@h": "name=value",
    f"redis://h?{SECRET}=1": "not one of client_name, db, password",
    f"redis://h?socket_timeout={SECRET}": "not one of",
    "redis://h?decode_responses=true": "not one of",
    "redis://h?ca_file=/x": "not one of",
    f"redis://h?password={SECRET}&password=b": "twice there",
    f"redis://h?pasword={SECRET}": "called password here",
    f"redis+cluster://h?pasword_file={SECRET}": "called password_file here",
    f"rediss://h?ssl_ca_certs={SECRET}": "called ca_file here",
    f"redis://:{SECRET}@h?password=b": "before the @ and another",
    f"redis://h?password={SECRET}&password_file=/x": "a password and a password_file",
    f"redis+sentinel://h/m?sentinel_username={SECRET}&sentinel_username_file=/x": "a sentinel_username and",
    "redis://h?password_file=": "names no file",
    f"redis://h?password_file={SECRET}": "password_file cannot be read: No such file",
    f"redis://h?username=u&username_file={SECRET}": "a username and a username_file",
    f"redis+sentinel://h/m?sentinel_password_file={SECRET}": "cannot be read: No such file",
    "redis://h?password_file=/": "cannot be read: Is a directory",
    "redis://h?password_file=/dev/null": "cannot be read: it is no file that can be read again",
    "redis://h?password_file=/a%00b": "does not print",
    "redis://h?db=two": "option db",
    f"rediss://h?ca_file={SECRET}": "ca_file cannot be read: No such file",
    f"rediss://h?cert_file={SECRET}": "cert_file or key_file cannot be read: No such file",
    f"rediss://h?key_file={SECRET}": "a key_file without the cert_file",
    f"rediss://h?ca_file={__file__}": "no PEM file",
    f"rediss://h?cert_file={__file__}": "no PEM file",
    f"rediss://h?check_hostname={SECRET}": "check_hostname is none of yes",
    f"redis+cluster://h?read_from={SECRET}": "read_from is none of master, replica, nearest",
    "redis://h?read_from=replica": "read_from is none of master, nearest",
    "redis://h?prefer=eu": "only with read_from=nearest",
    "unix:///s?read_from=nearest": "not one of",
    "redis://a:1,b:2": "take a list",
    "redis+cluster://": "names no server",
    f"redis+cluster://:{SECRET}@": "names no server",
    "redis+sentinel:///main": "names no server",
    "redis+sentinel://a:1,b:2": "names no service",
    f"redis+sentinel://:{SECRET}@a:1/": "names no service",
    "redis+sentinel://a/main/3": r"\?db=NUMBER",
    "redis+cluster://a,,b": "host",
    f"redis://[{SECRET}": "host",
    f"redis+cluster://a,[{SECRET}]": "host",
    "redis://a..b": "host",
    f"redis://{'a' * 64}.b": "host",
    "redis://a b": "host",
    "redis://h%2fx": "host",
    f"unix://{SECRET}/x": "absolute path",
    "unix://": "absolute path",
    "unix:///": "absolute path",
    "unix:///a%00b": "character",
}


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_says_what_is_wrong(url: str) -> None:
    """A mistake is found before anything connects, in both flavours, and its message contains no secret."""
    for connect in (async_link, blocking_link, open_index, blocking_index.open_index):
        if url:
            with pytest.raises(InvalidIndexURLError, match=BAD_URLS[url]) as caught:
                connect(url)
            assert SECRET not in str(caught.value)
            assert "\n" not in str(caught.value)
    with pytest.raises(InvalidIndexURLError, match=BAD_URLS[url]):
        async_link(url)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://", "redis://localhost:6379"),
        ("redis://h", "redis://h:6379"),
        ("REDIS://u:p%2F@H.example.:6380/3?client_name=ci", "redis://h.example.:6380"),
        ("redis://under_score:6379/", "redis://under_score:6379"),
        ("redis://[::1]:7000/0?db=0", "redis://[::1]:7000"),
        ("rediss://h/0?check_certificate=no", "rediss://h:6379"),
        ("unix:///run/v.sock?db=2&password=x", "unix:///run/v.sock"),
        ("unix://user:pw@/run/v.sock", "unix:///run/v.sock"),
        ("redis+cluster://u:p,w@a:7000,b,[::1]:7001/", "redis+cluster://a:7000,b:6379,[::1]:7001"),
        ("rediss+cluster://a/0?read_from=replica&username=u", "rediss+cluster://a:6379"),
        ("redis+sentinel://a:1,b/my%2Dmaster?db=3", "redis+sentinel://a:1,b:26379/my-master"),
        ("rediss+sentinel://a/m?sentinel_password=x&read_from=master", "rediss+sentinel://a:26379/m"),
    ],
)
async def test_a_good_url_is_named_without_its_login(url: str, where: str) -> None:
    """A good URL makes a link in both flavours that is named by its address, and nothing connects."""
    links: tuple[Link, ...] = (async_link(url), blocking_link(url))
    for link in links:
        assert link.where == where
        await link.aclose()


def test_all_that_a_url_says_is_read() -> None:
    """Every option of a URL is read, percent-encoded or not, and `repr` shows no secret."""
    tls = "ca_file=/ca&cert_file=/c%20rt&key_file=/key&check_hostname=no"
    login = f"client_name=ci&db=4&read_from=replica&sentinel_username=s&sentinel_password={SECRET}"
    address = parse_url(f"rediss+sentinel://us%40er:{SECRET}%2F@a:1,b:2/main?{tls}&{login}")
    assert address == Address(
        scheme="rediss+sentinel",
        nodes=(("a", 1), ("b", 2)),
        service="main",
        database=4,
        login=Login(username="us@er", password=f"{SECRET}/"),
        sentinel_login=Login(username="s", password=SECRET),
        tls=Tls(ca_file=Path("/ca"), cert_file=Path("/c rt"), key_file=Path("/key"), check_hostname=False),
        client_name="ci",
        read_from="replica",
    )
    assert SECRET not in repr(address)


def test_a_certificate_that_is_not_checked_needs_no_name() -> None:
    """check_certificate=no turns check_hostname off too."""
    tls = parse_url("rediss://h?check_certificate=no&check_hostname=yes").tls
    assert tls == Tls(check_hostname=False, check_certificate=False)


@pytest.mark.parametrize("url", ["memory:", "embedded:"])
def test_credentials_are_for_a_server(url: str) -> None:
    """A credential provider for an index without a login is an error."""
    import redis  # noqa: PLC0415 beside its use

    provider = redis.UsernamePasswordCredentialProvider("u", "p")
    for opened in (open_index, blocking_index.open_index):
        with pytest.raises(InvalidInputError, match="asks for none"):
            opened(url, credentials=provider)
        with pytest.raises(InvalidInputError, match="give one"):
            opened("redis://u:p@h", credentials=provider)
        with pytest.raises(InvalidInputError, match=r"redis\.CredentialProvider"):
            opened("redis://h", credentials=("u", "p"))  # type: ignore[arg-type]
