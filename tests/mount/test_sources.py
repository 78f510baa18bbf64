"""Which sources a push tries, and what they cost, on registries that grant tokens in their own ways."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from crossmount.index import MemoryMountIndex
from crossmount.index.exclusions import RemembersDenials
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, Credential, GivenCredentials, RegistryClient, RetryPolicy
from crossmount.testing import BasicAuth, Fault, Grant, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.images import make_layers, make_layout

READ = frozenset({"pull"})
OPTIONS = ClientOptions(
    plain_http=True, retry=RetryPolicy(attempts=2, outage=0.0, wait_initial=0.01, wait_max=0.02)
)
GRANTS = {"ci": (Grant("team/*"), Grant("src*", READ), Grant("base/*", READ))}


def tokens(**traits: object) -> RegistryOptions:
    """Return a registry with a token service of these traits."""
    return RegistryOptions(auth=TokenAuth(users={"ci": "pw"}, grants=GRANTS, **traits))  # type: ignore[arg-type]


async def push_with(
    registry: ScriptedRegistry,
    folder: Path,
    layers: Sequence[bytes],
    names: Mapping[int, Sequence[str]],
    index: MemoryMountIndex | None = None,
) -> PushReport:
    """Push an image whose layers lie in repositories by number, which the index knows."""
    index = index or MemoryMountIndex()
    for number, data in enumerate(layers):
        for name in names[number]:
            registry.put_blob(name, data)
            await index.add_source(Digest.of(data), Repository(registry.address, name))
    image = make_layout(folder / "image", layers)
    ci = GivenCredentials(registry.address, Credential("ci", "pw", origin="a test"))
    async with RegistryClient(registry.address, options=OPTIONS, credentials=ci) as client:
        return await push(image.path, f"{registry.address}/team/app:1", index=index, client=client)


def token_requests(registry: ScriptedRegistry) -> int:
    """Return how many tokens were requested."""
    return len(registry.matching(path="/token*"))


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (RegistryOptions(), 0),
        (RegistryOptions(auth=BasicAuth(users={"ci": "pw"})), 0),
        (tokens(), 4),
        (tokens(refuses_whole=True), 4),
        (tokens(tells_access=True), 4),
        (tokens(scopes_max=2), 45),
        (tokens(scopes_max=2, tells_access=True), 45),
        (tokens(uses=5), 30),
        (tokens(uses=1), 60),
        (tokens(expires_in=1), 60),
    ],
)
async def test_all_layers_are_mounted_however_many_repositories_they_lie_in(
    tmp_path: Path, options: RegistryOptions, most: int
) -> None:
    """Forty layers in forty repositories are all mounted, with few tokens where the token service gives them."""
    layers = make_layers(40, size=500)
    async with ScriptedRegistry(options) as registry:
        report = await push_with(
            registry, tmp_path, layers, {number: [f"src{number:03d}/image"] for number in range(40)}
        )
        assert (report.count("mounted"), report.count("uploaded")) == (40, 1)
        assert token_requests(registry) <= most
        assert max(len(record.query) for record in registry.requests) < 2000


async def test_no_url_of_a_token_request_is_long(tmp_path: Path) -> None:
    """Names of any length are requested in URLs of at most 2 kB."""
    layers = make_layers(30, size=500)
    names = {number: [f"src{number:03d}/{'very-long-name/' * 10}image"] for number in range(30)}
    async with ScriptedRegistry(tokens()) as registry:
        assert (await push_with(registry, tmp_path, layers, names)).count("mounted") == 30
        assert all(len(record.path) + len(record.query) < 2000 for record in registry.requests)


@pytest.mark.parametrize("position", [0, 9, 19])
@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("whole", [False, True])
async def test_one_unreadable_repository_costs_the_others_nothing(
    tmp_path: Path, position: int, tells: bool, whole: bool
) -> None:
    """If one of twenty repositories is unreadable, the others are mounted from, within few token requests."""
    layers = make_layers(20, size=500)
    names = {number: [f"src{number:03d}/image"] for number in range(20)}
    names[position] = ["secret/image"]
    async with ScriptedRegistry(tokens(refuses_whole=whole, tells_access=tells)) as registry:
        report = await push_with(registry, tmp_path, layers, names)
        assert (report.count("mounted"), report.count("uploaded")) == (19, 2)
        assert token_requests(registry) <= 14


@pytest.mark.parametrize("unreadable", [1, 3, 12])
@pytest.mark.parametrize(
    "options",
    [
        tokens(),
        tokens(refuses_whole=True),
        tokens(tells_access=True),
        tokens(hides_sources=True),
        RegistryOptions(auth=BasicAuth(users={"ci": "pw"}, grants=GRANTS)),
        RegistryOptions(auth=BasicAuth(users={"ci": "pw"}, grants=GRANTS, hides_sources=True)),
    ],
)
async def test_a_readable_source_is_found_among_unreadable_ones(
    tmp_path: Path, options: RegistryOptions, unreadable: int
) -> None:
    """Eight layers that all lie in the same repositories are mounted from the readable one."""
    layers = make_layers(8, size=500)
    hidden = [f"private/{number}" for number in range(unreadable)]
    async with ScriptedRegistry(options) as registry:
        report = await push_with(registry, tmp_path, layers, {n: [*hidden, "base/debian"] for n in range(8)})
        assert (report.count("mounted"), report.count("uploaded")) == (8, 1)
        mounts = registry.matching(method="POST", query="*from=*")
        assert len(mounts) <= 4 * len(layers) + 20


@pytest.mark.parametrize("whole", [False, True])
async def test_a_must_mount_layer_is_mounted_however_many_sources_are_stale(tmp_path: Path, whole: bool) -> None:
    """The bound on failed mounts fails no push: the one good source of sixty is found."""
    (layer,) = make_layers(1, size=500)
    async with ScriptedRegistry(tokens(refuses_whole=whole)) as registry:
        index = MemoryMountIndex()
        for number in range(60):
            gone = Repository(registry.address, f"base/gone{number}")
            await index.add_source(Digest.of(layer), gone, must_mount=True)
        report = await push_with(registry, tmp_path, [layer], {0: ["src/good"]}, index)
        assert (report.count("mounted"), report.count("uploaded")) == (1, 1)


async def test_a_search_without_a_readable_source_ends(tmp_path: Path) -> None:
    """A hundred unreadable repositories cost a bounded number of requests, and the layers are uploaded."""
    layers = make_layers(4, size=500)
    names = [f"private/{number}" for number in range(100)]
    for options in (tokens(), tokens(refuses_whole=True), RegistryOptions(mounts=False)):
        async with ScriptedRegistry(options) as registry:
            report = await push_with(registry, tmp_path, layers, dict.fromkeys(range(4), names))
            assert report.count("uploaded") == 5
            assert len(registry.matching(method="POST", query="*from=*")) <= 20 + 7 * len(layers)
            assert token_requests(registry) <= 30


async def test_sources_that_the_token_service_breaks_on_are_left_out(tmp_path: Path) -> None:
    """A token service that answers 500 to one batch gives tokens for the others, and is not asked in halves."""
    layers = make_layers(2, size=500)
    async with ScriptedRegistry(tokens()) as registry:
        registry.play(Fault(path="/token*", query="*src*", action=Reply(status=500), times=None))
        report = await push_with(registry, tmp_path, layers, {0: ["src0/x"], 1: ["src1/x"]})
        assert report.count("uploaded") == 3
        assert token_requests(registry) <= 6


async def test_what_an_account_may_not_read_is_not_named_again(tmp_path: Path) -> None:
    """A second client with the same account does not name a refused repository; one with another account does."""
    secret, other = make_layers(2, size=500)
    index = MemoryMountIndex()
    assert isinstance(index, RemembersDenials)
    async with ScriptedRegistry(tokens(refuses_whole=True)) as registry:
        await push_with(registry, tmp_path / "1", [secret], {0: ["secret/image"]}, index)
        await index.forget(Digest.of(secret), Repository(registry.address, "team/app"))
        seen = len(registry.requests)
        names = {0: ["secret/image"], 1: ["base/x"]}
        report = await push_with(registry, tmp_path / "2", [secret, other], names, index)
        assert report.count("mounted") == 1
        assert [record for record in registry.requests[seen:] if "secret" in record.path + record.query] == []


async def test_a_push_that_the_account_may_not_do_denies_no_source(tmp_path: Path) -> None:
    """If the destination itself is refused, no source is remembered as unreadable."""
    index = MemoryMountIndex()
    [layer] = make_layers(1, size=500)
    options = RegistryOptions(auth=TokenAuth(users={"ci": "pw"}, grants={"ci": (Grant("*", READ),)}))
    async with ScriptedRegistry(options) as registry:
        with pytest.raises(Exception, match="401"):
            await push_with(registry, tmp_path, [layer], {0: ["base/x"]}, index)
    assert index._denials._until == {}
