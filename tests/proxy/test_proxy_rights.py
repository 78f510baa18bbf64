"""Callers' rights: tokens, passwords, two callers at one proxy, service mode."""

import base64
import json
import re
from pathlib import Path

import bcrypt
import httpx
import pytest

from crossmount.errors import InvalidInputError
from crossmount.oci import Digest
from crossmount.proxy.auth.service_mode import AllowedCallers
from crossmount.registry import ClientOptions
from crossmount.testing import BasicAuth, Grant, ScriptedRegistry, TokenAuth
from crossmount.testing.options import ANYTHING, READ, RegistryOptions
from support.proxies import QUICK, ProxyUnderTest, begin_upload, error_code, proxy_before
from support.scripted import manifest_of

DATA = b"private layer" * 100
DIGEST = Digest.of(DATA)
GRANTS = {
    "ann": (Grant("*", ANYTHING),),
    "bob": (Grant("bob/*", ANYTHING), Grant("shared/*", READ)),
    "eve": (Grant("bob/*", READ), Grant("shared/*", READ)),
}
USERS = {name: f"pw-{name}" for name in GRANTS}


def basic(user: str) -> dict[str, str]:
    """Return the header of a user's password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{USERS.get(user, 'wrong')}".encode()).decode()}


async def token(proxy: ProxyUnderTest, user: str | None, *scopes: str) -> httpx.Response:
    """Ask the proxy for a token, as a client that met its challenge does."""
    challenge = (await proxy.client.get("/v2/")).headers["www-authenticate"]
    found = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    assert found["realm"] == f"{proxy.url}/_crossmount/token"
    query = [("service", found["service"]), *(("scope", scope) for scope in scopes)]
    return await proxy.client.get(found["realm"], params=query, headers=basic(user) if user else {})


async def bearer(proxy: ProxyUnderTest, user: str | None, *scopes: str) -> dict[str, str]:
    """Return the header of a token from the proxy."""
    answer = await token(proxy, user, *scopes)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def push(name: str) -> str:
    """Return the scope to push."""
    return f"repository:{name}:pull,push"


TOKENS = RegistryOptions(auth=TokenAuth(users=USERS, grants=GRANTS))
BASIC = RegistryOptions(auth=BasicAuth(users=USERS, grants=GRANTS))


async def test_a_token_for_dest_alone_is_enough_to_mount() -> None:
    """A token for the destination is enough: the proxy requests the sources with the same credentials."""
    async with ScriptedRegistry(TOKENS) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("shared/base", DATA)
        await proxy.knows(DIGEST, "shared/base")
        head = await proxy.client.head(
            f"/v2/bob/app/blobs/{DIGEST}", headers=await bearer(proxy, "bob", push("bob/app"))
        )
        assert head.status_code == 200
        assert registry.mounts(DIGEST) == 1


async def test_a_token_of_the_proxy_is_worth_nothing_elsewhere() -> None:
    """The registry's token stays in the proxy, and the answer contains nothing of it."""
    async with ScriptedRegistry(TOKENS) as registry, proxy_before(registry.url) as proxy:
        answer = await token(proxy, "bob", push("bob/app"))
        document = answer.json()
        assert document["token"] == document["access_token"]
        assert document["token"].startswith("cmp_")
        assert document["expires_in"] > 0
        async with httpx.AsyncClient(base_url=registry.url) as direct:
            refused = await direct.get(
                f"/v2/bob/app/blobs/{DIGEST}", headers={"Authorization": f"Bearer {document['token']}"}
            )
        assert refused.status_code == 401


async def test_wrong_credentials_get_no_token() -> None:
    """Wrong credentials get the realm's own refusal."""
    async with ScriptedRegistry(TOKENS) as registry, proxy_before(registry.url) as proxy:
        answer = await token(proxy, "mallory", push("bob/app"))
        assert answer.status_code in {401, 403}
        assert "token" not in answer.json()


@pytest.mark.parametrize("options", [TOKENS, BASIC], ids=["token", "basic"])
async def test_a_private_source_is_neither_mounted_nor_revealed(options: RegistryOptions) -> None:
    """A HEAD of a layer in a repository that the caller may not read is like that of an unknown layer."""
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("ann/secret", DATA)
        await proxy.knows(DIGEST, "ann/secret")

        async def headers(user: str, name: str) -> dict[str, str]:
            return await bearer(proxy, user, push(name)) if options is TOKENS else basic(user)

        bob = await headers("bob", "bob/app")
        known = await proxy.client.head(f"/v2/bob/app/blobs/{DIGEST}", headers=bob)
        unknown = await proxy.client.head(f"/v2/bob/app/blobs/{Digest.of(b'?')}", headers=bob)
        assert (known.status_code, unknown.status_code) == (404, 404)
        assert set(known.headers) == set(unknown.headers)
        posted = await proxy.client.post(f"/v2/bob/app/blobs/uploads/?mount={DIGEST}&from=ann/secret", headers=bob)
        assert posted.status_code == 202
        assert registry.mounts() == 0
        ann = await headers("ann", "ann/other")
        assert (await proxy.client.head(f"/v2/ann/other/blobs/{DIGEST}", headers=ann)).status_code == 200
        again = await proxy.client.head(f"/v2/bob/app/blobs/{DIGEST}", headers=bob)
        assert again.status_code == 404


@pytest.mark.parametrize("options", [TOKENS, BASIC], ids=["token", "basic"])
async def test_a_read_only_callers_head_writes_nothing(options: RegistryOptions) -> None:
    """A caller that may only read gets no mount, with any request."""
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("shared/base", DATA)
        await proxy.knows(DIGEST, "shared/base")
        for scope in (push("bob/app"), "repository:bob/app:pull"):
            eve = await bearer(proxy, "eve", scope) if options is TOKENS else basic("eve")
            assert (await proxy.client.head(f"/v2/bob/app/blobs/{DIGEST}", headers=eve)).status_code == 404
        assert registry.mounts() == 0
        assert "bob/app" not in await proxy.learnt(DIGEST)


async def test_a_pullers_token_never_writes_though_its_owner_might() -> None:
    """A token for a pull never leads to a write, not even by a POST, though its owner might push."""
    async with ScriptedRegistry(TOKENS) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("shared/base", DATA)
        await proxy.knows(DIGEST, "shared/base")
        bob = await bearer(proxy, "bob", "repository:bob/app:pull")
        assert (await proxy.client.head(f"/v2/bob/app/blobs/{DIGEST}", headers=bob)).status_code == 404
        assert not registry.matching(method="POST", path="*uploads*")


async def test_a_push_with_tokens_from_first_to_last(tmp_path: Path) -> None:
    """A whole push with tokens works: spooled uploads, then the manifest."""
    async with ScriptedRegistry(TOKENS) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        bob = await bearer(proxy, "bob", push("bob/app"))
        location = await begin_upload(proxy, "bob/app", headers=bob)
        fresh = await bearer(proxy, "bob", push("bob/app"))  # a new token in the middle is still bob's
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA, headers=fresh)
        assert answer.status_code == 201
        assert registry.uploads(DIGEST) == 1


async def test_a_token_that_is_not_known_here_is_asked_for_anew() -> None:
    """A token that the proxy does not know, as after a restart, gets a challenge with the proxy's realm."""
    async with ScriptedRegistry(TOKENS) as registry, proxy_before(registry.url) as proxy:
        answer = await proxy.client.get(
            f"/v2/bob/app/blobs/{DIGEST}", headers={"Authorization": "Bearer cmp_forgotten"}
        )
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        assert f'realm="{proxy.url}/_crossmount/token"' in challenge
        assert 'scope="repository:bob/app:pull"' in challenge


@pytest.mark.parametrize("options", [TOKENS, BASIC], ids=["token", "basic"])
async def test_who_comes_to_a_session_without_a_name_is_asked_for_it(
    tmp_path: Path, options: RegistryOptions
) -> None:
    """A request on a session without credentials, or with an expired token, gets a challenge."""
    async with ScriptedRegistry(options) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        bob = await bearer(proxy, "bob", push("bob/app")) if options is TOKENS else basic("bob")
        location = await begin_upload(proxy, "bob/app", headers=bob)
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert (answer.status_code, error_code(answer)) == (401, "UNAUTHORIZED")
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith("Basic") or f'scope="{push("bob/app")}"' in challenge
        again = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA, headers=bob)
        assert again.status_code == 201


async def test_tokens_by_post() -> None:
    """A token can be requested by POST (OAuth2), with a password or a refresh token."""
    auth = TokenAuth(users=USERS, grants=GRANTS, identity_tokens={"idt": "bob"})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("shared/base", DATA)
        await proxy.knows(DIGEST, "shared/base")
        common = {"service": "scripted-registry", "scope": push("bob/app"), "client_id": "t"}
        for form in (
            {"grant_type": "password", "username": "bob", "password": USERS["bob"]},
            {"grant_type": "refresh_token", "refresh_token": "idt"},
        ):
            answer = await proxy.client.post("/_crossmount/token", data=common | form)
            assert answer.status_code == 200, answer.text
            headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
            assert (await proxy.client.head(f"/v2/bob/app/blobs/{DIGEST}", headers=headers)).status_code == 200
        assert (await proxy.client.put("/_crossmount/token")).status_code == 405


async def test_credentials_never_go_to_a_strangers_realm() -> None:
    """Credentials are never sent to a realm on a foreign host; the client gets an error."""
    async with ScriptedRegistry() as stranger:
        realm = stranger.url.replace("127.0.0.1", "localhost") + "/token"
        auth = TokenAuth(users=USERS, grants=GRANTS, realm=realm)
        async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry, proxy_before(registry.url) as proxy:
            answer = await token(proxy, "bob", push("bob/app"))
            assert (answer.status_code, error_code(answer)) == (502, "UNAVAILABLE")
            assert stranger.requests == []


async def test_a_registry_without_tokens_gives_none() -> None:
    """The token endpoint is a 404 if the registry has no realm."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        assert (await proxy.client.get("/_crossmount/token")).status_code == 404


async def test_a_foreign_authorization_is_passed_on_as_it_is() -> None:
    """A registry's own bearer token, or an unknown scheme, is forwarded with that request alone."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        registry.put_blob("base", DATA)
        await proxy.knows(DIGEST, "base")
        for value in ("Bearer eyJ.real.one", "Digest x", "Basic %%%"):
            head = await proxy.client.head(f"/v2/app/blobs/{DIGEST}", headers={"Authorization": value})
            assert head.status_code == 404
        assert registry.mounts() == 0
        assert [r.auth_scheme for r in registry.requests] == ["bearer", "digest", "basic"]


async def test_a_host_header_that_is_none_gets_no_challenge() -> None:
    """A malformed Host header gets no challenge; a public URL replaces the Host."""
    async with ScriptedRegistry(TOKENS) as registry:
        async with proxy_before(registry.url) as proxy:
            answer = await proxy.client.get("/v2/", headers={"Host": 'x" evil="'})
            assert answer.status_code == 400
        async with proxy_before(registry.url, public_url="https://hub.test/") as proxy:
            answer = await proxy.client.get("/v2/")
            assert 'realm="https://hub.test/_crossmount/token"' in answer.headers["www-authenticate"]


def _authfile(folder: Path, registry: str, user: str) -> Path:
    file = folder / "auth.json"
    auth = basic(user)["Authorization"].partition(" ")[2]
    file.write_text(json.dumps({"auths": {registry.removeprefix("http://"): {"auth": auth}}}))
    return file


@pytest.mark.parametrize("options", [TOKENS, BASIC], ids=["token", "basic"])
async def test_service_mode_lends_the_proxys_rights_to_those_let_in(
    tmp_path: Path, options: RegistryOptions
) -> None:
    """Callers are identified by password or token; the registry sees the proxy's credentials alone."""
    htpasswd, tokens = tmp_path / "htpasswd", tmp_path / "tokens"
    htpasswd.write_text("# people\nzoe:" + bcrypt.hashpw(b"zoe-pw", bcrypt.gensalt(4)).decode() + "\n")
    tokens.write_text("robot:t0ken-of-the-robot\n")
    async with ScriptedRegistry(options) as registry:
        registry.put_blob("shared/base", DATA)
        client = ClientOptions(authfile=_authfile(tmp_path, registry.url, "bob"), retry=QUICK)
        async with proxy_before(
            registry.url, auth="service", htpasswd=htpasswd, tokens=tokens, options=client, spool=tmp_path / "s"
        ) as proxy:
            await proxy.knows(DIGEST, "shared/base")
            path = f"/v2/bob/app/blobs/{DIGEST}"
            nobody = await proxy.client.head(path)
            assert nobody.status_code == 401
            assert nobody.headers["www-authenticate"].startswith("Basic ")
            for pair in ("zoe:wrong", "ann:" + USERS["ann"], "zoe:" + "x" * 100):
                wrong = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
                assert (await proxy.client.get(path, headers=wrong)).status_code == 401
            for value in (
                "Basic " + base64.b64encode(b"zoe:zoe-pw").decode(),
                "Basic " + base64.b64encode(b"any:t0ken-of-the-robot").decode(),
                "Bearer t0ken-of-the-robot",
            ):
                good = {"Authorization": value}
                assert (await proxy.client.head(path, headers=good)).status_code == 200
                data = value.encode()
                location = await begin_upload(proxy, "bob/app", headers=good)
                put = await proxy.client.put(f"{location}?digest={Digest.of(data)}", content=data, headers=good)
                assert put.status_code == 201
                assert (await proxy.client.get("/v2/", headers=good)).status_code == 200
            denied = await proxy.client.get(f"/v2/ann/x/blobs/{DIGEST}", headers=good)
            assert denied.status_code in {401, 403, 502}
            assert "www-authenticate" not in denied.headers
            assert (await proxy.client.get("/_crossmount/token")).status_code == 404
        assert registry.mounts(DIGEST) == 1


@pytest.mark.parametrize("uses", [1, 2])
async def test_service_mode_renews_a_token_that_the_registry_takes_no_more(tmp_path: Path, uses: int) -> None:
    """A revoked token is renewed, and a request without a stream is sent again once, unseen by the client."""
    auth = TokenAuth(users=USERS, grants=GRANTS, uses=uses)
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        digest = registry.put_blob("bob/app", DATA)
        client = ClientOptions(authfile=_authfile(tmp_path, registry.url, "bob"), retry=QUICK)
        async with proxy_before(registry.url, auth="service", options=client, spool=tmp_path / "s") as proxy:
            manifest = manifest_of([digest])
            kind = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
            for _ in range(5):
                assert (await proxy.client.head(f"/v2/bob/app/blobs/{digest}")).status_code == 200
                assert (await proxy.client.get(f"/v2/bob/app/blobs/{digest}")).content == DATA
                put = await proxy.client.put("/v2/bob/app/manifests/t", content=manifest, headers=kind)
                assert put.status_code == 201
                location = await begin_upload(proxy, "bob/app")
                done = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
                assert done.status_code == 201


async def test_a_token_that_was_refused_with_a_body_is_not_used_again(tmp_path: Path) -> None:
    """After a 401 to a streamed body, the client's next request has a new token."""
    auth = TokenAuth(users=USERS, grants=GRANTS, uses=1)
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        client = ClientOptions(authfile=_authfile(tmp_path, registry.url, "bob"), retry=QUICK)
        async with proxy_before(registry.url, auth="service", options=client) as proxy:
            location = await begin_upload(proxy, "bob/app")
            refused = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
            assert refused.status_code == 403
            again = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
            assert again.status_code == 201


async def test_rights_that_are_not_there_are_asked_for_once(tmp_path: Path) -> None:
    """A 401 that a new token does not change is not repeated; the caller gets a 403."""
    async with ScriptedRegistry(TOKENS) as registry:
        client = ClientOptions(authfile=_authfile(tmp_path, registry.url, "eve"), retry=QUICK)
        async with proxy_before(registry.url, auth="service", options=client) as proxy:
            assert (await proxy.client.get("/v2/ann/x/manifests/t")).status_code == 403
            assert len(registry.matching(path="/v2/ann/x/*")) <= 2


async def test_service_mode_without_callers_is_for_loopback_alone() -> None:
    """Service mode without permitted callers is refused on all addresses but loopback."""
    with pytest.raises(InvalidInputError, match="--htpasswd"):
        async with proxy_before("http://127.0.0.1:1", auth="service", host="0.0.0.0"):  # noqa: S104 what is refused
            pass
    async with ScriptedRegistry() as registry, proxy_before(registry.url, auth="service") as proxy:
        assert (await proxy.client.get("/v2/")).status_code == 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("htpasswd", "a:plain\n"),
        ("htpasswd", "# only a word\na:$2y$05$short\n"),
        ("htpasswd", ""),
        ("tokens", "no colon\n"),
        ("tokens", ":x\n"),
        ("tokens", "a:short\n"),
        ("tokens", "a:long-enough-to-be-one\na:another-that-is-long\n"),
        ("tokens", None),
    ],
)
def test_a_file_of_callers_that_is_none_is_refused(tmp_path: Path, name: str, content: str | None) -> None:
    """An empty or malformed file of callers is refused."""
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidInputError):
        AllowedCallers.read(file if name == "htpasswd" else None, file if name == "tokens" else None)
