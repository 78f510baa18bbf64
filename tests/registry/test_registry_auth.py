"""Tokens: from a real registry with a token server, and from a scripted one for rare cases."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crossmount.errors import AccessDeniedError, RegistryRefusedError
from crossmount.index import MemoryMountIndex
from crossmount.oci import Digest, Reference, Repository
from crossmount.registry import (
    Credential,
    GivenCredentials,
    Mounted,
    RegistryClient,
    UploadSession,
)
from crossmount.registry.credentials.lookup import CredentialSource
from crossmount.registry.http.requester import housekeeping
from crossmount.testing import BasicAuth, Fault, Grant, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from crossmount.transfer.push import push
from support.images import make_layers, make_layout
from support.registries import PASSWORD, USER, TokenRegistry
from support.registry_kit import PLAIN, blob, client_of, manifest

DIGEST = blob().descriptor.digest


def client_to(address: str, credential: Credential | None = None, **changes: Any) -> RegistryClient:
    """Return a client that has a credential."""
    known = credential or Credential(USER, PASSWORD, origin="the test")
    return client_of(address, credentials=GivenCredentials(address, known), **changes)


async def put(client: RegistryClient, repository: Repository, data: bytes) -> Digest:
    """Upload a blob."""
    item = blob(data)
    await client.upload_blob(await client.start_upload(repository), item)
    return item.descriptor.digest


async def test_a_push_of_many_layers_asks_for_one_token(token_registry: TokenRegistry) -> None:
    """After `prepare` one token covers the mounts and uploads of all layers."""
    address = token_registry.registry.address
    dest, sources = Repository(address, "team/app"), [Repository(address, f"base/{n}") for n in range(4)]
    async with client_to(address) as client:
        digests = [await put(client, source, bytes([n])) for n, source in enumerate(sources)]
    token_registry.tokens.requests.clear()
    async with client_to(address) as client:
        await client.prepare(dest, sources)
        pairs = list(zip(digests, sources, strict=True))
        mounts, heads, sessions = await asyncio.gather(
            asyncio.gather(*(client.mount_blob(dest, digest, source) for digest, source in pairs)),
            asyncio.gather(*(client.head_blob(source, digest) for digest, source in pairs)),
            asyncio.gather(*(client.start_upload(dest) for _ in range(4))),
        )
        assert mounts == [Mounted()] * 4
        assert heads == [1] * 4
        await client.upload_blob(sessions[0], blob())
        await client.put_manifest(Reference(dest, tag="v1"), manifest(blob()))
        assert await client.head_blob(dest, DIGEST) == blob().descriptor.size
    [asked] = token_registry.tokens.requests
    assert set(asked.scopes) == {"repository:team/app:pull,push", *(f"repository:base/{n}:pull" for n in range(4))}


async def test_a_known_registry_is_asked_for_its_token_up_front(token_registry: TokenRegistry) -> None:
    """After one challenge `prepare` fetches the token, and the mount is not refused first."""
    address = token_registry.registry.address
    dest, source = Repository(address, "team/app"), Repository(address, "team/base")
    async with client_to(address) as client:
        digest = await put(client, source, b"x")
        await client.prepare(dest, [source])
        assert await client.mount_blob(dest, digest, source) == Mounted()
    assert [access.status for access in token_registry.registry.accesses()].count(401) == 1
    assert token_registry.tokens.requests[-1].scopes == (
        "repository:team/app:pull,push",
        "repository:team/base:pull",
    )


async def test_refused_for_its_sources_dest_gets_a_token_of_its_own(token_registry: TokenRegistry) -> None:
    """A token that is refused with the sources is requested without them; the caller gets the refused ones."""
    address, tokens = token_registry.registry.address, token_registry.tokens
    dest, source = Repository(address, "team/app"), Repository(address, "secret/base")
    tokens.refuses_whole = True
    tokens.denied.add((USER, "secret/base"))
    async with client_to(address) as client:
        assert (await client.prepare(dest, [source])).refused == frozenset()
        await client.ping()
        assert (await client.prepare(dest, [source])).refused == {source}
        with pytest.raises(AccessDeniedError):
            await client.mount_blob(dest, DIGEST, source)
        await client.upload_blob(await client.start_upload(dest), blob())
    assert [request.status for request in tokens.requests] == [403, 200]


async def test_a_source_that_is_silently_not_granted_is_denied_once(token_registry: TokenRegistry) -> None:
    """After insufficient_scope for a token that was requested with all scopes, no further token is requested."""
    address, tokens = token_registry.registry.address, token_registry.tokens
    dest, source = Repository(address, "team/app"), Repository(address, "secret/base")
    async with client_to(address) as client:
        await put(client, source, b"x")
    tokens.denied.add((USER, "secret/base"))
    tokens.requests.clear()
    async with client_to(address) as client:
        await client.prepare(dest, [source])
        with pytest.raises(AccessDeniedError, match="credentials from the test"):
            await client.mount_blob(dest, Digest.of(b"x"), source)
        await client.upload_blob(await client.start_upload(dest), blob())
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("oauth", [True, False])
async def test_an_identity_token(token_registry: TokenRegistry, oauth: bool) -> None:
    """An identity token is exchanged by POST; if the realm has no POST it is sent by GET, as docker does."""
    address, tokens = token_registry.registry.address, token_registry.tokens
    tokens.identity_tokens["refresh"] = USER
    tokens.users["<token>"] = "refresh"
    tokens.oauth = oauth
    async with client_to(address, Credential("", "refresh", "identity")) as client:
        await put(client, Repository(address, "team/app"), b"x")
    assert {request.method for request in tokens.requests} == {"POST" if oauth else "GET"}


async def test_anonymous_tokens(token_registry: TokenRegistry) -> None:
    """Without credentials an anonymous token is requested; a push is denied, a pull is not."""
    address = token_registry.registry.address
    repository = Repository(address, "team/app")
    async with client_to(address) as client:
        await put(client, repository, b"x")
    async with client_of(address) as client:
        assert await client.head_blob(repository, Digest.of(b"x")) == 1
        with pytest.raises(AccessDeniedError, match="no credentials"):
            await client.start_upload(repository)


async def test_wrong_credentials_name_their_origin(token_registry: TokenRegistry) -> None:
    """The realm's refusal names the origin of the credentials."""
    address = token_registry.registry.address
    async with client_to(address, Credential(USER, "hunter2", origin="config.json: auths: x")) as client:
        with pytest.raises(AccessDeniedError, match=r"credentials from config\.json: auths: x") as caught:
            await client.start_upload(Repository(address, "team/app"))
    assert "hunter2" not in str(caught.value)


async def test_many_at_once_on_an_unknown_registry_ask_for_one_token(token_registry: TokenRegistry) -> None:
    """Ten first requests at once get ten challenges and request one token."""
    address = token_registry.registry.address
    async with client_to(address) as client:
        await asyncio.gather(*(client.start_upload(Repository(address, "team/app")) for _ in range(10)))
    assert len(token_registry.tokens.requests) == 1


async def test_a_token_that_expires_in_an_upload_is_replaced() -> None:
    """After a 401 to a chunk one new token is requested and the chunk is sent again."""
    auth = TokenAuth(users={USER: PASSWORD}, uses=2)
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry, client_to(registry.address) as client:
        repository = Repository(registry.address, "team/app")
        item = blob(b"x" * 5000)
        await client.upload_blob(await client.start_upload(repository), item, chunk_size=1000)
        assert registry.uploads(item.descriptor.digest) == 1
        tokens = len(registry.matching(path="/token*"))
        assert 3 <= tokens <= 4
        assert registry.upload_bytes == 5000


async def test_a_401_that_stays_is_no_loop() -> None:
    """After at most one new token a second 401 is a denial."""
    auth = TokenAuth(users={USER: PASSWORD}, grants={USER: (Grant(actions=frozenset({"pull"})),)})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry, client_to(registry.address) as client:
        repository = Repository(registry.address, "team/app")
        with pytest.raises(AccessDeniedError):
            await client.start_upload(repository)
        assert len(registry.matching(method="POST", path="/v2/*")) <= 3
        registry.clear_script()
        challenge = ("WWW-Authenticate", f'Bearer realm="{registry.url}/token",service="s"')
        registry.play(Fault(method="HEAD", action=Reply(status=401, headers=(challenge,)), times=None))
        before = len(registry.requests)
        with pytest.raises(AccessDeniedError):
            await client.head_blob(repository, DIGEST)
        assert len(registry.requests) - before <= 4


@pytest.mark.parametrize("expires_in", [None, 300])
async def test_a_realm_that_reads_one_scope_only(expires_in: int | None) -> None:
    """The challenge's scopes are requested first, so that a realm that reads only one is of use."""
    auth = TokenAuth(users={USER: PASSWORD}, reads_first_scope=True, expires_in=expires_in)
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry, client_to(registry.address) as client:
        dest, source = Repository(registry.address, "team/app"), Repository(registry.address, "team/base")
        registry.put_blob("team/base", b"x")
        assert await client.head_blob(source, Digest.of(b"x")) == 1
        assert isinstance(await client.start_upload(dest), UploadSession)


class Rotating:
    """A source whose second secret is valid, like a cloud's helper after an expiry."""

    def __init__(self, *secrets: str) -> None:
        self.secrets = list(secrets)
        self.asked = 0

    async def find(self, registry: str, name: str = "") -> Credential | None:
        """Return the next secret."""
        del registry, name
        self.asked += 1
        await asyncio.sleep(0)
        return Credential(USER, self.secrets[min(self.asked, len(self.secrets)) - 1])


async def test_an_expired_password_is_looked_up_again() -> None:
    """A helper's expired password is looked up again after a 401, and the request is sent again."""
    now = [100.0]
    source: CredentialSource = Rotating("old", PASSWORD)
    async with (
        ScriptedRegistry(RegistryOptions(auth=BasicAuth(users={USER: "old"}))) as registry,
        client_of(registry.address, credentials=source, clock=lambda: now[0]) as client,
    ):
        repository = Repository(registry.address, "team/app")
        await asyncio.gather(*(client.head_blob(repository, DIGEST) for _ in range(5)))
        assert source.asked == 1  # type: ignore[attr-defined]  # it is Rotating
        registry._authorizer._auth = BasicAuth(users={USER: PASSWORD})
        now[0] += 60.0
        assert await client.head_blob(repository, DIGEST) is None
        assert source.asked == 2  # type: ignore[attr-defined]


async def test_one_helper_is_asked_once_however_many_wait(token_registry: TokenRegistry) -> None:
    """Twenty requests at once look the credentials up once."""
    address, source = token_registry.registry.address, Rotating(PASSWORD)
    async with client_of(address, credentials=source) as client:
        await asyncio.gather(*(client.start_upload(Repository(address, "team/app")) for _ in range(20)))
    assert source.asked == 1


async def test_a_registry_token_goes_to_the_registry_itself() -> None:
    """A `registrytoken` is sent as the bearer token after a challenge of either kind."""
    for scheme in ("Basic realm=x", 'Bearer realm="https://nowhere.example/token"'):
        async with ScriptedRegistry() as registry:
            challenge = Reply(status=401, headers=(("WWW-Authenticate", scheme),))
            registry.play(Fault(action=challenge))
            async with client_to(registry.address, Credential("", "t", "registry")) as client:
                assert await client.head_blob(Repository(registry.address, "a"), DIGEST) is None
            assert [record.auth_scheme for record in registry.requests] == ["", "bearer"]


@pytest.mark.parametrize("header", [(), (("WWW-Authenticate", "Negotiate"),)])
async def test_a_401_without_a_known_challenge_is_a_denial(header: tuple[tuple[str, str], ...]) -> None:
    """Without a challenge of a known scheme no credentials are sent."""
    async with ScriptedRegistry() as registry, client_to(registry.address) as client:
        registry.play(Fault(action=Reply(status=401, headers=header), times=None))
        with pytest.raises(AccessDeniedError):
            await client.head_blob(Repository(registry.address, "a"), DIGEST)
        assert [record.auth_scheme for record in registry.requests] == [""]


async def test_a_request_for_a_token_is_retried() -> None:
    """A failed request for a token is sent again like any other."""
    async with (
        ScriptedRegistry(RegistryOptions(auth=TokenAuth(users={USER: PASSWORD}))) as registry,
        client_to(registry.address) as client,
    ):
        registry.play(Fault(path="/token*", action=Reply(status=503), times=2))
        await client.start_upload(Repository(registry.address, "team/app"))
        registry.play(Fault(path="/token*", action=Reply(status=400), times=None))
        with pytest.raises(RegistryRefusedError) as caught:
            await client.start_upload(Repository(registry.address, "other/app"))
        assert caught.value.status == 400


async def test_a_realm_that_breaks_on_a_source_fails_no_push(tmp_path: Path) -> None:
    """If a realm answers 500 to a token with the index's sources, the token is requested without them."""
    image = make_layout(tmp_path / "image", make_layers(2, size=5000))
    async with ScriptedRegistry(RegistryOptions(auth=TokenAuth(anonymous=(Grant(),)))) as registry:
        index = MemoryMountIndex()
        for blob in image.blobs:
            await index.add_source(blob.digest, Repository.parse(f"{registry.address}/team/hostile"))
        registry.play(Fault(method="GET", query="*hostile*", times=None, action=Reply(status=500)))
        report = await push(image.path, f"{registry.address}/team/a:1", index=index, options=PLAIN)
    assert report.count("uploaded") == len(image.blobs)


async def test_housekeeping_costs_no_other_request_its_token() -> None:
    """A cancel that is not allowed, and a question about a hidden source, drop no token of a push."""
    rights = {USER: (Grant("team/*", frozenset({"pull", "push"})),)}
    auth = TokenAuth(users={USER: PASSWORD}, refuses_whole=True, grants=rights)
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry, client_to(registry.address) as client:
        dest, hidden = Repository(registry.address, "team/app"), Repository(registry.address, "secret/base")
        sessions = [await client.start_upload(dest) for _ in range(4)]
        tokens = len(registry.matching(path="/token"))

        async def ask_about_a_source() -> None:
            with housekeeping(), pytest.raises(AccessDeniedError):
                await client.head_blob(hidden, DIGEST)

        await asyncio.gather(
            *(client.cancel_upload(session) for session in sessions[1:]),
            ask_about_a_source(),
            client.upload_blob(sessions[0], blob()),
        )
        refused = registry.matching(path="/token")[tokens:]
        assert refused
        assert {record.status for record in refused} <= {401, 403}
        await client.start_upload(dest)
        assert len(registry.matching(path="/token")) == tokens + len(refused)


async def test_a_cancel_that_is_allowed_gets_a_token_of_its_own() -> None:
    """Where the account may delete, the session is cancelled."""
    auth = TokenAuth(users={USER: PASSWORD}, grants={USER: (Grant("*", frozenset({"pull", "push", "delete"})),)})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry, client_to(registry.address) as client:
        dest = Repository(registry.address, "team/app")
        await client.cancel_upload(await client.start_upload(dest))
        assert registry.open_sessions == ()
        assert registry.matching(method="DELETE")
