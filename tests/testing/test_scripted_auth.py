import httpx
import pytest

from crossmount.oci import Digest
from crossmount.testing import BasicAuth, Fault, Grant, RegistryOptions, Reply, TokenAuth
from crossmount.testing.access_control import read_scopes
from crossmount.testing.options import READ, WRITE
from crossmount.testing.values import DistributionError
from support.scripted import code_of, push_blob, start_upload, talk_to

USERS = {"ci": "secret"}
DATA = b"a layer"
DIGEST = Digest.of(DATA)
APP = "repository:team/app:pull,push"
BASE = "repository:team/base:pull"


async def token(client: httpx.AsyncClient, *scopes: str, password: str | None = USERS["ci"]) -> httpx.Response:
    """Request a token."""
    auth = ("ci", password) if password else None
    return await client.get("/token", params={"scope": list(scopes), "service": "scripted-registry"}, auth=auth)


async def bearer(client: httpx.AsyncClient, *scopes: str) -> dict[str, str]:
    """Return an Authorization header with a new token."""
    return {"Authorization": f"Bearer {(await token(client, *scopes)).json()['token']}"}


async def test_basic_wants_a_password() -> None:
    """Only requests with the login succeed; the log shows its scheme and not its value."""
    async with talk_to(RegistryOptions(auth=BasicAuth(users=USERS))) as (registry, client):
        answer = await client.get("/v2/")
        assert (answer.status_code, code_of(answer)) == (401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"] == 'Basic realm="registry"'
        assert (await client.get("/v2/", auth=("ci", "wrong"))).status_code == 401
        assert (await client.get("/v2/", headers={"Authorization": "Basic ?"})).status_code == 401
        client.auth = httpx.BasicAuth("ci", "secret")
        assert (await client.get("/v2/")).status_code == 200
        await push_blob(client, "team/app", DATA)
        assert (await client.get("/token")).status_code == 404
        assert {record.auth_scheme for record in registry.requests} == {"", "basic"}
        assert "secret" not in repr(registry.requests)


async def test_basic_distinguishes_wrong_credentials_from_none() -> None:
    """A user without the right gets a 403; requests without a user may read public repositories."""
    auth = BasicAuth(users=USERS, grants={"ci": (Grant("team/*", READ),)}, anonymous=(Grant("open/*", READ),))
    async with talk_to(RegistryOptions(auth=auth)) as (registry, client):
        registry.put_blob("team/app", DATA)
        registry.put_blob("open/app", DATA)
        user = ("ci", "secret")
        assert (await client.get(f"/v2/team/app/blobs/{DIGEST}", auth=user)).status_code == 200
        assert code_of(await client.post("/v2/team/app/blobs/uploads/", auth=user)) == "DENIED"
        assert (await client.get(f"/v2/open/app/blobs/{DIGEST}")).status_code == 200
        assert (await client.get(f"/v2/team/app/blobs/{DIGEST}")).status_code == 401


async def test_a_challenge_leads_to_a_token_that_is_taken() -> None:
    """The challenge names realm, service and scope; with that token the request goes through."""
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS))) as (registry, client):
        answer = await start_upload(client, "team/app")
        assert answer.headers["www-authenticate"] == (
            f'Bearer realm="{registry.url}/token",service="scripted-registry",scope="{APP}"'
        )
        assert (await client.get("/v2/")).headers["www-authenticate"].endswith('service="scripted-registry"')
        headers = await bearer(client, APP)
        assert (await client.get("/v2/", headers=headers)).status_code == 200
        assert (await client.post("/v2/team/app/blobs/uploads/", headers=headers)).status_code == 202
        other = await client.post("/v2/team/other/blobs/uploads/", headers=headers)
        assert 'error="insufficient_scope"' in other.headers["www-authenticate"]
        wrong = await client.get("/v2/", headers={"Authorization": "Bearer made-up"})
        assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
        assert (await token(client, APP, password="wrong")).status_code == 401


async def test_every_operation_has_its_scope() -> None:
    """Reads need the action pull; the catalogue and deletions need their own actions."""
    async with talk_to(RegistryOptions(auth=TokenAuth())) as (_, client):
        for method, path, scope in (
            ("GET", "team/app/tags/list", "repository:team/app:pull"),
            ("DELETE", "team/app/manifests/v1", "repository:team/app:delete"),
            ("GET", "_catalog", "registry:catalog:*"),
        ):
            answer = await client.request(method, f"/v2/{path}")
            assert f'scope="{scope}"' in answer.headers["www-authenticate"]


async def test_a_mount_needs_both_repositories_in_one_token() -> None:
    """A mount without the right to pull the source gets a 401; its challenge names both scopes."""
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS))) as (registry, client):
        registry.put_blob("team/base", DATA)
        url = f"/v2/team/app/blobs/uploads/?mount={DIGEST}&from=team/base"
        answer = await client.post(url, headers=await bearer(client, APP))
        assert answer.status_code == 401
        assert f'scope="{APP} {BASE}"' in answer.headers["www-authenticate"]
        assert (await client.post(url, headers=await bearer(client, APP, BASE))).status_code == 201


async def test_a_token_is_refused_whole_or_grants_less() -> None:
    """One refused scope refuses the token, or is silently left out of it."""
    grants = {"ci": (Grant("team/app", WRITE),)}
    for refuses_whole, status in ((True, 403), (False, 200)):
        auth = TokenAuth(users=USERS, grants=grants, refuses_whole=refuses_whole)
        async with talk_to(RegistryOptions(auth=auth)) as (registry, client):
            assert (await token(client, APP, BASE)).status_code == status
            assert (await token(client, APP)).status_code == 200
            if not refuses_whole:
                registry.put_blob("team/base", DATA)
                headers = await bearer(client, APP, BASE)
                url = f"/v2/team/base/blobs/{DIGEST}"
                assert (await client.get(url, headers=headers)).status_code == 401


async def test_only_the_first_scope_may_be_read() -> None:
    """Some token services read only the first of several scopes."""
    auth = TokenAuth(users=USERS, reads_first_scope=True)
    async with talk_to(RegistryOptions(auth=auth)) as (_, client):
        headers = await bearer(client, BASE, APP)
        assert (await client.post("/v2/team/app/blobs/uploads/", headers=headers)).status_code == 401


async def test_an_impossible_scope_fails_the_token() -> None:
    """An invalid repository name in a scope is a 400, as on Docker Hub."""
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS))) as (_, client):
        assert (await token(client, APP, "repository:UPPER:pull")).status_code == 400
    for text in ("team/app:pull", "repository:team/app", "robot:team/app:pull", "repository:team/app:"):
        with pytest.raises(DistributionError):
            read_scopes([text])


async def test_tokens_run_out_after_so_many_uses() -> None:
    """A token with two uses is refused at the third; `expires_in` can be omitted."""
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS, uses=2, expires_in=None))) as (_, client):
        assert "expires_in" not in (await token(client, APP)).json()
        headers = await bearer(client, APP)
        statuses = [(await client.get("/v2/", headers=headers)).status_code for _ in range(3)]
        assert statuses == [200, 200, 401]


async def test_nobody_may_have_a_token_for_what_is_open() -> None:
    """A token for a request without a user has the anonymous rights."""
    auth = TokenAuth(users=USERS, anonymous=(Grant("open/*", READ),))
    async with talk_to(RegistryOptions(auth=auth)) as (registry, client):
        registry.put_blob("open/app", DATA)
        answer = await token(client, "repository:open/app:pull,push", password=None)
        headers = {"Authorization": f"Bearer {answer.json()['token']}"}
        assert (await client.get(f"/v2/open/app/blobs/{DIGEST}", headers=headers)).status_code == 200
        assert (await client.post("/v2/open/app/blobs/uploads/", headers=headers)).status_code == 401


async def test_oauth_takes_passwords_and_identity_tokens() -> None:
    """POST returns a token for either one, and an identity token for offline access; POST can be turned off."""
    auth = TokenAuth(users=USERS, identity_tokens={"identity": "ci"})
    form = {"service": "scripted-registry", "scope": f"{APP} {BASE}"}
    password = {**form, "grant_type": "password", "username": "ci", "password": "secret"}
    async with talk_to(RegistryOptions(auth=auth)) as (_, client):
        first = (await client.post("/token", data={**password, "access_type": "offline"})).json()
        assert first["refresh_token"] == "identity"
        refresh = {**form, "grant_type": "refresh_token", "refresh_token": "identity"}
        second = (await client.post("/token", data=refresh)).json()
        assert "refresh_token" not in second
        headers = {"Authorization": f"Bearer {second['access_token']}"}
        assert (await client.post("/v2/team/app/blobs/uploads/", headers=headers)).status_code == 202
        assert (await client.post("/token", data={**refresh, "refresh_token": "x"})).status_code == 401
        assert (await client.post("/token", data={**password, "password": "x"})).status_code == 401
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS, oauth=False))) as (_, client):
        assert (await client.post("/token", data=password)).status_code == 405
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS))) as (_, client):
        offline = (await client.post("/token", data={**password, "access_type": "offline"})).json()
        assert "refresh_token" not in offline


async def test_the_realm_may_be_hostile_or_on_another_port() -> None:
    """A test chooses the realm in the challenge."""
    async with talk_to(RegistryOptions(auth=TokenAuth(realm="https://evil.test/token"))) as (_, client):
        assert 'realm="https://evil.test/token"' in (await client.get("/v2/")).headers["www-authenticate"]
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS, separate_port=True))) as (registry, client):
        realm = (await client.get("/v2/")).headers["www-authenticate"].split('"')[1]
        assert not realm.startswith(registry.url)
        issued = (await client.get(realm, auth=("ci", "secret"), params={"scope": APP})).json()["token"]
        headers = {"Authorization": f"Bearer {issued}"}
        assert (await client.post("/v2/team/app/blobs/uploads/", headers=headers)).status_code == 202


async def test_the_token_service_has_faults_too() -> None:
    """A token service can be scripted to answer with HTML, or with more than 64 KiB."""
    faults = (
        Fault(path="/token", action=Reply(status=200, body=b"<html>")),
        Fault(path="/token", action=Reply(status=200, body=b" " * 70_000, media_type="application/json")),
    )
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS)), *faults) as (_, client):
        page, large, good = [await token(client, APP) for _ in range(3)]
        assert (page.text, len(large.content), good.json()["expires_in"]) == ("<html>", 70_000, 300)


@pytest.mark.parametrize("kind", [BasicAuth, TokenAuth])
async def test_a_source_that_may_not_be_read_may_be_hidden(kind: type[BasicAuth] | type[TokenAuth]) -> None:
    """With `hides_sources`, a mount from it opens a session; without credentials it is still a 401."""
    auth = kind(users=USERS, grants={"ci": (Grant("team/*", WRITE),)}, hides_sources=True)
    mount = f"?mount={DIGEST}&from=secret/base"
    async with talk_to(RegistryOptions(auth=auth)) as (registry, client):
        registry.put_blob("secret/base", DATA)
        refused = await start_upload(client, "team/app", mount)
        assert refused.status_code == 401
        assert kind is BasicAuth or "secret/base:pull" in refused.headers["www-authenticate"]
        if kind is TokenAuth:
            client.headers.update(await bearer(client, APP))
        else:
            client.auth = httpx.BasicAuth("ci", "secret")
        assert (await start_upload(client, "team/app", mount)).status_code == 202
        assert len(registry.open_sessions) == 1


async def test_the_tokens_that_were_issued_are_known() -> None:
    """All tokens begin with the chosen prefix, so that a test can search for them."""
    async with talk_to(RegistryOptions(auth=TokenAuth(users=USERS, prefix="made-up-"))) as (registry, client):
        tokens = tuple([(await token(client, APP)).json()["token"] for _ in range(2)])
        assert registry.tokens == tokens == ("made-up-1", "made-up-2")
