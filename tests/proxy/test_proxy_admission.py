"""The proxy acts for a caller only by the registry's lately given word, and never with more than is shown."""

import os
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from crossmount._expiring import ExpiringSet
from crossmount.oci import Digest
from crossmount.proxy.auth.admission import ADMITTED_SECONDS, Admission, is_yes, refuses_credentials
from crossmount.proxy.auth.callers import PROBATION_MAX
from crossmount.testing import BasicAuth, Grant, RegistryOptions, ScriptedRegistry, TokenAuth
from support.proxies import ProxyUnderTest, begin_upload, proxy_before

DATA = os.urandom(3000)
DIGEST = Digest.of(DATA)


class Clock:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def answered(status: int, *challenges: str) -> httpx.Response:
    """Return an answer with these challenges."""
    return httpx.Response(status, headers=[("www-authenticate", value) for value in challenges])


def test_a_yes_counts_for_a_minute_and_a_refusal_ends_it() -> None:
    """A caller is let in for a minute after the registry's yes, and not after a refusal."""
    clock = Clock()
    dropped: list[int] = []
    admitted: list[int] = []
    admissions: ExpiringSet[str] = ExpiringSet(ADMITTED_SECONDS, clock=clock)
    one = Admission(admissions, "one", lambda: admitted.append(1), lambda: dropped.append(1))
    counted = [one.is_recent]
    one.observe(answered(404), scheme="basic")
    counted.append(Admission(admissions, "two", lambda: None, lambda: None).is_recent)
    for clock.now in (0.0, 59.9, 60.1):
        counted.append(one.is_recent)
    assert (counted, len(admitted)) == ([False, False, True, True, False], 1)
    one.observe(answered(200), scheme="basic")
    one.observe(answered(401, "Basic realm=x"), scheme="basic")
    assert (one.is_recent, len(dropped)) == (False, 1)


def test_only_a_yes_takes_room() -> None:
    """Refused credentials are not stored, and the oldest yes makes way for a new one."""
    admissions: ExpiringSet[str] = ExpiringSet(ADMITTED_SECONDS, limit=2)
    for name in ("one", "two", "three"):
        admissions.add(name)
    assert [name in admissions for name in ("one", "two", "three")] == [False, True, True]


@pytest.mark.parametrize("status", [200, 202, 206, 301, 307, 404, 416])
def test_these_answers_are_a_yes(status: int) -> None:
    """A registry gives these answers to callers that it let in."""
    assert is_yes(status)


@pytest.mark.parametrize("status", [400, 401, 403, 405, 429, 500, 502, 503, 504])
def test_these_answers_are_no_yes(status: int) -> None:
    """A gateway may give these answers to anybody."""
    assert not is_yes(status)


@pytest.mark.parametrize(
    ("response", "scheme", "refused"),
    [
        (answered(401, "Basic realm=x"), "basic", True),
        (answered(403), "basic", True),
        (answered(403), "bearer", True),
        (answered(401, 'Bearer realm="http://x/"'), "basic", False),
        (answered(401, 'Bearer realm="http://x/",error="invalid_token"'), "bearer", True),
        (answered(401, 'Bearer realm="http://x/",error="insufficient_scope"'), "bearer", False),
    ],
)
def test_a_refusal_of_credentials_differs_from_a_missing_scope(
    response: httpx.Response, scheme: str, *, refused: bool
) -> None:
    """A token without a scope is still good, and a registry of tokens says nothing of a password."""
    assert refuses_credentials(response, scheme=scheme) is refused


async def spooled(proxy: ProxyUnderTest, name: str, auth: tuple[str, str], data: bytes = DATA) -> str:
    """Send an upload up to its last request, and return its location."""
    location = await begin_upload(proxy, name, auth=auth)
    assert (await proxy.client.patch(location, content=data, auth=auth)).status_code == 202
    return location


async def test_a_password_that_was_changed_writes_nothing(tmp_path: Path) -> None:
    """After a change of the password the old one mounts and uploads nothing, and gets the registry's 401."""
    users = {"ann": "first"}
    auth = BasicAuth(users=users)
    async with (
        ScriptedRegistry(RegistryOptions(auth=auth)) as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
    ):
        registry.put_blob("base/os", DATA)
        await proxy.knows(DIGEST, "base/os")
        location = await spooled(proxy, "b/app", ("ann", "first"))
        users["ann"] = "second"
        answers = [
            await proxy.client.head(f"/v2/b/app/blobs/{DIGEST}", auth=("ann", "first")),
            await proxy.client.post(f"/v2/b/app/blobs/uploads/?mount={DIGEST}", auth=("ann", "first")),
            await proxy.client.post(
                f"/v2/b/app/blobs/uploads/?digest={DIGEST}", content=DATA, auth=("ann", "first")
            ),
            await proxy.client.put(f"{location}?digest={DIGEST}", auth=("ann", "first")),
        ]
        assert [answer.status_code for answer in answers] == [401] * 4
        assert registry.mounts(DIGEST) == 0
        good = await proxy.client.head(f"/v2/b/app/blobs/{DIGEST}", auth=("ann", "second"))
        assert good.status_code == 200


async def test_the_session_of_an_upload_survives_a_refusal(tmp_path: Path) -> None:
    """A refused last request can be sent again with a good password, and no byte is sent again."""
    users = {"ann": "word"}
    async with (
        ScriptedRegistry(RegistryOptions(auth=BasicAuth(users=users))) as registry,
        proxy_before(registry.url, spool=tmp_path) as proxy,
    ):
        location = await spooled(proxy, "b/app", ("ann", "word"))
        users["ann"] = "other"
        refused = await proxy.client.put(f"{location}?digest={DIGEST}", auth=("ann", "word"))
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        users["ann"] = "word"
        assert (await proxy.client.put(f"{location}?digest={DIGEST}", auth=("ann", "word"))).status_code == 201


async def test_made_up_credentials_take_no_agent_of_a_known_caller() -> None:
    """Made-up passwords, more than fit on probation, remove no agent of a caller that the registry let in."""
    users = {"ann": "word"}
    async with (
        ScriptedRegistry(RegistryOptions(auth=BasicAuth(users=users))) as registry,
        proxy_before(registry.url) as proxy,
    ):
        agents = proxy.app._authenticator._agents  # type: ignore[attr-defined]
        assert (await proxy.client.get("/v2/", auth=("ann", "word"))).status_code == 200
        known = set(agents._agents)
        for n in range(PROBATION_MAX + 10):
            assert (await proxy.client.get("/v2/", auth=(f"nobody{n}", "junk"))).status_code == 401
        assert set(agents._agents) == known
        assert len(agents._probation) <= PROBATION_MAX


ACCOUNT = TokenAuth(users={"ann": "word"}, grants={"ann": (Grant("a/*"), Grant("b/*"))})


async def token(proxy: ProxyUnderTest, *scopes: str) -> dict[str, str]:
    """Get a token of ann's from the proxy."""
    query = urlencode([("service", "scripted-registry"), *(("scope", scope) for scope in scopes)])
    answer = await proxy.client.get(f"/_crossmount/token?{query}", auth=("ann", "word"))
    return {"Authorization": f"Bearer {answer.json()['token']}"}


async def test_a_narrow_token_mounts_by_itself_only_what_it_covers() -> None:
    """With `--mount-rights token` a client gets one challenge for the missing scope, and mounts with it."""
    async with (
        ScriptedRegistry(RegistryOptions(auth=ACCOUNT)) as registry,
        proxy_before(registry.url, mount_rights="token") as proxy,
    ):
        registry.put_blob("a/base", DATA)
        await proxy.knows(DIGEST, "a/base")
        path = f"/v2/b/app/blobs/{DIGEST}"
        narrow = await token(proxy, "repository:b/app:pull,push")
        refused = await proxy.client.head(path, headers=narrow)
        assert refused.status_code == 401
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
        assert "repository:a/base:pull" in refused.headers["www-authenticate"]
        assert "repository:b/app:pull,push" in refused.headers["www-authenticate"]
        again = await proxy.client.head(path, headers=narrow)
        assert (again.status_code, registry.mounts(DIGEST)) == (404, 0)
        wide = await token(proxy, "repository:b/app:pull,push", "repository:a/base:pull")
        assert (await proxy.client.head(path, headers=wide)).status_code == 200
        assert registry.mounts(DIGEST) == 1


async def test_no_source_is_named_to_an_account_that_may_not_read_it() -> None:
    """A source in a repository of somebody else is neither mounted from nor named."""
    async with (
        ScriptedRegistry(RegistryOptions(auth=ACCOUNT)) as registry,
        proxy_before(registry.url, mount_rights="token") as proxy,
    ):
        registry.put_blob("z/secret", DATA)
        await proxy.knows(DIGEST, "z/secret")
        narrow = await token(proxy, "repository:b/app:pull,push")
        assert (await proxy.client.head(f"/v2/b/app/blobs/{DIGEST}", headers=narrow)).status_code == 404


async def test_a_token_stands_for_its_account_only_at_its_own_address() -> None:
    """By default a token mounts beyond its scopes for the address that it was given to, and for no other."""
    async with ScriptedRegistry(RegistryOptions(auth=ACCOUNT)) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("a/base", DATA)
        await proxy.knows(DIGEST, "a/base")
        path = f"/v2/b/app/blobs/{DIGEST}"
        narrow = await token(proxy, "repository:b/app:pull,push")
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=proxy.url, transport=elsewhere) as other:
            assert (await other.head(path, headers=narrow)).status_code == 404
        assert registry.mounts(DIGEST) == 0
        assert (await proxy.client.head(path, headers=narrow)).status_code == 200
