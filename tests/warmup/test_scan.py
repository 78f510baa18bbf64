"""A scan tells the index what a registry holds already."""

import asyncio
from importlib import import_module
from pathlib import Path

import pytest
import redis

from crossmount import events
from crossmount.asyncio import (
    AccessDeniedError,
    ClientOptions,
    IndexFailedError,
    InvalidAnswerError,
    InvalidInputError,
    MemoryMountIndex,
    RegistryRefusedError,
    RegistryUnreachableError,
    Repository,
    ScanReport,
    open_index,
    push,
    scan,
)
from crossmount.index import MountIndex, RedisMountIndex
from crossmount.oci import Digest
from crossmount.testing import CutBefore, Fault, RegistryOptions, Reply, ScriptedRegistry, TokenAuth
from crossmount.testing.auth import Grant
from crossmount.warmup.memory import LocalMemory
from crossmount.warmup.outline import Outline
from crossmount.warmup.progress import progress_of
from crossmount.warmup.recorder import BATCH
from crossmount.warmup.scan import REQUESTS
from support.holdings import put_document, put_image, put_index
from support.images import make_layers, make_layout
from support.index_kit import CountingLink, keys_that_stay
from support.registries import DockerRegistry, run
from support.registry_kit import QUICK
from support.servers import Server
from support.waiting import until

scanning = import_module("crossmount.warmup.scan")  # the package has a function of the same name
PLAIN = ClientOptions(plain_http=True, retry=QUICK)
BASE, OWN = b"base layer", b"own layer"


async def scanned(registry: ScriptedRegistry, index: MountIndex, **details: object) -> ScanReport:
    """Scan a registry in this process."""
    return await scan(registry.address, index=index, **{"options": PLAIN, **details})  # type: ignore[arg-type]


async def known(index: MountIndex, layer: bytes) -> set[str]:
    """Return the repositories that hold a layer by the index."""
    return {repository.name for repository in await index.locations(Digest.of(layer))}


def asked(registry: ScriptedRegistry, method: str, path: str) -> int:
    """Return how often something was asked."""
    return len(registry.matching(method=method, path=path))


async def test_every_layer_is_known_where_it_lies_with_its_size(scripted_registry: ScriptedRegistry) -> None:
    """Catalogue, tags, indexes with their children, layers and configs."""
    put_image(scripted_registry, "team/app", "1", [BASE, OWN])
    arm = put_image(scripted_registry, "team/multi", None, [BASE])
    amd = put_image(scripted_registry, "team/multi", None, [b"amd layer"])
    put_index(scripted_registry, "team/multi", "latest", [arm, amd])
    index = MemoryMountIndex()
    report = await scanned(scripted_registry, index)
    assert await known(index, BASE) == {"team/app", "team/multi"}
    assert await known(index, OWN) == {"team/app"}
    assert await known(index, b"amd layer") == {"team/multi"}
    seen = await index.look_up([Digest.of(OWN)], Repository(scripted_registry.address, "x"))
    assert seen.of(Digest.of(OWN)).size == len(OWN)
    assert (report.repositories, report.tags, report.fetched, report.layers) == (2, 2, 4, 7)
    assert (report.failed, report.skipped, report.resumed) == (0, 0, False)


async def test_pages_are_followed_to_their_end() -> None:
    """Of the catalogue and of tags."""
    async with ScriptedRegistry(RegistryOptions(page_size=3)) as registry:
        for number in range(10):
            put_image(registry, f"r/{number}", "t", [b"layer %d" % number])
        for number in range(10):
            put_image(registry, "r/0", f"t{number}", [b"tagged %d" % number])
        index = MemoryMountIndex()
        report = await scanned(registry, index)
        assert (report.repositories, report.tags) == (10, 20)
        assert await known(index, b"tagged 9") == {"r/0"}


async def test_given_names_are_scanned_without_the_catalogue(scripted_registry: ScriptedRegistry) -> None:
    """Patterns choose among them, too."""
    for name in ("team/app", "team/web", "other/app"):
        put_image(scripted_registry, name, "1", [BASE])

    for given, patterns, expected in (
        (["team/app"], (), {"team/app"}),
        (["team/app", "other/app"], ("team/*",), {"team/app"}),
        (["team/web", "other/app"], ("*app",), {"other/app"}),
    ):
        index = MemoryMountIndex()
        await scanned(scripted_registry, index, repositories=given, patterns=patterns)
        assert await known(index, BASE) == expected
    assert asked(scripted_registry, "GET", "/v2/_catalog") == 0


async def test_patterns_choose_from_the_catalogue(scripted_registry: ScriptedRegistry) -> None:
    """Only repositories that fit are asked for anything."""
    for name in ("team/app", "team/deep/web", "other/app"):
        put_image(scripted_registry, name, "1", [BASE])
    index = MemoryMountIndex()
    await scanned(scripted_registry, index, patterns=["team/*"])
    assert await known(index, BASE) == {"team/app", "team/deep/web"}
    assert asked(scripted_registry, "GET", "/v2/other/*") == 0


@pytest.mark.parametrize(("status", "kind"), [(404, RegistryRefusedError), (405, RegistryRefusedError)])
async def test_a_registry_without_a_catalogue_says_what_to_give(
    scripted_registry: ScriptedRegistry, status: int, kind: type[Exception]
) -> None:
    """Docker Hub, GHCR and others do not list: one clear error."""
    scripted_registry.play(Fault(path="/v2/_catalog", action=Reply(status=status), times=None))
    with pytest.raises(kind, match=r"does not list its repositories .* name those to scan, as in"):
        await scanned(scripted_registry, MemoryMountIndex())


async def test_a_catalogue_that_is_not_for_us_says_so_too() -> None:
    """A token that is refused for the catalogue is an access that is denied."""
    auth = TokenAuth(anonymous=(Grant("team/*", frozenset({"pull"})),))
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        put_image(registry, "team/app", "1", [BASE])
        with pytest.raises(AccessDeniedError, match="does not list its repositories"):
            await scanned(registry, MemoryMountIndex())
        index = MemoryMountIndex()
        await scanned(registry, index, repositories=["team/app"])
        assert await known(index, BASE) == {"team/app"}


async def test_what_is_no_image_is_skipped_and_told(scripted_registry: ScriptedRegistry) -> None:
    """Artifacts are images by their manifest; other types, missing children and schema 1 are passed over."""
    put_image(scripted_registry, "a", "good", [BASE])
    put_index(scripted_registry, "a", "sparse", [Digest.of(b"never pushed")])
    odd = {"schemaVersion": 2, "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}
    put_document(scripted_registry, "a", "odd", odd, "application/vnd.oci.artifact.manifest.v1+json")
    index = MemoryMountIndex()
    report = await scanned(scripted_registry, index)
    assert await known(index, BASE) == {"a"}
    assert (report.skipped, report.failed, report.repositories) == (2, 0, 1)
    assert len(report.remarks) == 2


async def test_foreign_layers_are_not_recorded(scripted_registry: ScriptedRegistry) -> None:
    """The registry need not hold them."""
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": "x", "digest": Digest.of(b"{}"), "size": 2},
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "digest": Digest.of(OWN),
                "size": 3,
                "urls": ["https://elsewhere.example/layer"],
            }
        ],
    }
    put_document(scripted_registry, "a", "1", document, "application/vnd.oci.image.manifest.v1+json")
    index = MemoryMountIndex()
    await scanned(scripted_registry, index)
    assert await known(index, OWN) == set()
    assert await known(index, b"{}") == {"a"}


async def test_one_repository_that_fails_does_not_end_the_scan(scripted_registry: ScriptedRegistry) -> None:
    """It is counted, with its cause; the others are recorded."""
    for name in ("a", "b", "c"):
        put_image(scripted_registry, name, "1", [BASE])
    scripted_registry.play(Fault(path="/v2/b/manifests/1", action=Reply(status=500), times=None))
    told: list[events.Event] = []
    index = MemoryMountIndex()
    report = await scanned(scripted_registry, index, observer=told.append)
    assert await known(index, BASE) == {"a", "c"}
    assert (report.repositories, report.failed) == (2, 1)
    assert "/v2/b/manifests/1: 500" in report.remarks[0]
    outcomes = {e.repository.name: e.outcome for e in told if isinstance(e, events.RepositoryScanned)}
    assert outcomes == {"a": "scanned", "b": "failed", "c": "scanned"}


async def test_a_registry_that_only_fails_is_left_alone(scripted_registry: ScriptedRegistry) -> None:
    """After ten repositories in a row the scan ends with the last error."""
    for number in range(40):
        put_image(scripted_registry, f"r/{number}", "1", [BASE])
    scripted_registry.play(Fault(path="/v2/*/tags/list", action=Reply(status=500), times=None))
    with pytest.raises(RegistryRefusedError, match="500"):
        await scanned(scripted_registry, MemoryMountIndex(), requests=2)
    paths = {record.path for record in scripted_registry.matching(path="/v2/*/tags/list")}
    assert len(paths) < 15


async def test_repositories_that_are_not_ours_or_gone_are_no_failure_in_a_catalogue(
    scripted_registry: ScriptedRegistry,
) -> None:
    """A catalogue lists more than one may read; a name that was given must be there."""
    for name in ("a", "b", "c"):
        put_image(scripted_registry, name, "1", [BASE])
    scripted_registry.play(
        Fault(path="/v2/a/*", action=Reply(status=403), times=None),
        Fault(path="/v2/b/*", action=Reply(status=404), times=None),
    )
    index = MemoryMountIndex()
    report = await scanned(scripted_registry, index)
    assert (report.repositories, report.unreadable, report.failed) == (1, 1, 0)
    given = await scanned(scripted_registry, index, repositories=["a", "b", "c"])
    assert (given.repositories, given.unreadable, given.failed) == (1, 0, 2)


async def test_a_pause_that_the_registry_asks_for_is_kept(scripted_registry: ScriptedRegistry) -> None:
    """429 with Retry-After is waited for, and the scan goes on to its end."""
    for number in range(6):
        put_image(scripted_registry, f"r/{number}", "1", [BASE])
    scripted_registry.play(Fault(path="/v2/*/manifests/*", action=Reply(status=429, retry_after=1), times=1))
    told: list[events.Event] = []
    report = await scanned(scripted_registry, MemoryMountIndex(), observer=told.append)
    (retry,) = [event for event in told if isinstance(event, events.Retrying)]
    assert retry.wait >= 1
    assert retry.cause.startswith("429")
    assert (report.repositories, report.failed) == (6, 0)


async def test_a_registry_that_wants_to_be_left_alone_ends_the_scan(scripted_registry: ScriptedRegistry) -> None:
    """A pause past the deadline is not waited for."""
    put_image(scripted_registry, "a", "1", [BASE])
    scripted_registry.play(Fault(path="/v2/a/*", action=Reply(status=429, retry_after=3000), times=None))
    with pytest.raises(RegistryRefusedError, match=r"429|pause"):
        await scanned(scripted_registry, MemoryMountIndex())


async def test_no_more_requests_are_on_their_way_than_were_allowed() -> None:
    """`requests` bounds them, lists included."""
    async with ScriptedRegistry(RegistryOptions(latency=0.01)) as registry:
        for number in range(12):
            put_image(registry, "many", f"t{number}", [b"%d" % number])
            put_image(registry, f"r/{number}", "1", [BASE])
        await scanned(registry, MemoryMountIndex(), requests=3)
        assert len({record.connection for record in registry.requests}) <= 3


async def test_known_manifests_are_not_fetched_again(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """With since_last each tag costs one HEAD; what is known is recorded anew, also in another repository."""
    one = put_image(scripted_registry, "team/app", None, [BASE])
    put_index(scripted_registry, "team/app", "1", [one])
    put_image(scripted_registry, "team/web", "1", [OWN])
    async with open_index(valkey.unix_url) as index:
        first = await scanned(scripted_registry, index)
        assert (first.fetched, first.known) == (3, 0)
        scripted_registry.requests.clear()
        await index.forget(Digest.of(BASE), Repository(scripted_registry.address, "team/app"))
        put_image(scripted_registry, "team/copy", "1", [OWN])
        put_image(scripted_registry, "team/new", "1", [b"new layer"])
        again = await scanned(scripted_registry, index, since_last=True)
        assert (again.fetched, again.known) == (1, 4)
        assert asked(scripted_registry, "GET", "/v2/*/manifests/*") == 1
        assert asked(scripted_registry, "HEAD", "/v2/*/manifests/*") == 4
        assert await known(index, BASE) == {"team/app"}
        assert await known(index, OWN) == {"team/copy", "team/web"}
        assert await known(index, b"new layer") == {"team/new"}
    assert keys_that_stay(redis_of(valkey)) == []


async def test_an_emptied_index_has_seen_nothing(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """What was seen lies beside the index, so that it never outlives it."""
    put_image(scripted_registry, "a", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await scanned(scripted_registry, index)
        valkey.flush()
        report = await scanned(scripted_registry, index, since_last=True)
        assert report.fetched == 1
        assert await known(index, BASE) == {"a"}


@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff\xfe", b"sha256:" + b"0" * 64 + b" x", b"x" * 70_000])
async def test_a_false_memory_is_no_memory(
    scripted_registry: ScriptedRegistry, valkey: Server, junk: bytes
) -> None:
    """What somebody else wrote under our keys is fetched anew."""
    digest = put_image(scripted_registry, "a", "1", [BASE])
    redis_of(valkey).set(f"crossmount:default:{{{digest}}}:manifest", junk)
    async with open_index(valkey.unix_url) as index:
        report = await scanned(scripted_registry, index, since_last=True)
        assert (report.fetched, report.known) == (1, 0)
        assert await known(index, BASE) == {"a"}


async def test_layers_go_to_the_index_in_few_round_trips(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """Repositories share them."""
    for number in range(60):
        put_image(scripted_registry, f"r/{number}", "1", [b"layer %d" % n for n in range(9)])
    async with open_index(valkey.unix_url) as opened:
        assert isinstance(opened, RedisMountIndex)
        link = CountingLink(opened.link)
        report = await scanned(scripted_registry, RedisMountIndex(link), clock=lambda: 0.0)
        assert report.layers == 600
        assert len(link.runs) <= 3 * (600 / BATCH + 3)


async def test_an_index_that_fails_in_the_middle_is_an_error(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """The index is the purpose here. What was recorded stays."""
    for number in range(100):
        put_image(scripted_registry, f"r/{number:03}", "1", [b"%d-%d" % (number, n) for n in range(20)])

    def stop_soon(event: events.Event) -> None:
        if isinstance(event, events.RepositoryScanned) and event.repository.name == "r/050":
            valkey.process.kill()
            valkey.process.wait()

    async with open_index(valkey.unix_url) as index:
        with pytest.raises(IndexFailedError):
            await scanned(scripted_registry, index, observer=stop_soon)


async def ended_early(
    registry: ScriptedRegistry, index: MountIndex, stuck: str, answers: int, **details: object
) -> None:
    """Scan until so many manifests were answered while another one, `stuck`, is not; then be cancelled."""
    registry.play(Fault(path=stuck, delay=60, times=None))
    task = asyncio.create_task(scanned(registry, index, **details))
    await until(lambda: asked(registry, "GET", "/v2/*/manifests/*") >= answers)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    registry.clear_script()
    registry.requests.clear()


async def test_a_scan_that_was_ended_is_gone_on_with(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """What was seen until then is recorded, and what is done is not asked for again; then it is forgotten."""
    for number in range(30):
        put_image(scripted_registry, f"r/{number:02}", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/r/20/manifests/1", 29)
        assert len(await known(index, BASE)) == 29
        report = await scanned(scripted_registry, index)
        assert report.resumed
        assert report.repositories + report.before == 30
        assert report.before >= 29 - REQUESTS
        assert asked(scripted_registry, "GET", "/v2/*/tags/list") == report.repositories
        assert len(await known(index, BASE)) == 30
        finished = await scanned(scripted_registry, index)
        assert (finished.resumed, finished.repositories) == (False, 30)
    assert keys_that_stay(redis_of(valkey)) == []


async def test_a_repository_is_gone_on_with_in_its_middle(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """Tags that were done are not asked for again."""
    for number in range(120):
        put_image(scripted_registry, "big", f"t{number:03}", [b"%d" % number])
    put_image(scripted_registry, "small", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/big/manifests/t110", 120)
        report = await scanned(scripted_registry, index)
        assert (report.before, report.tags) == (1, 20)
        assert asked(scripted_registry, "GET", "/v2/*/manifests/*") == 20
        assert await known(index, b"110") == {"big"}
    assert list(redis_of(valkey).scan_iter("crossmount:*:scan:*")) == []


async def test_the_only_repository_is_gone_on_with_too(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """A scan that is done with no repository yet has tags to go on from all the same."""
    for number in range(120):
        put_image(scripted_registry, "big", f"t{number:03}", [b"%d" % number])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/big/manifests/t110", 119)
        report = await scanned(scripted_registry, index)
        assert (report.resumed, report.before, report.tags) == (True, 0, 20)


async def test_begun_afresh_tags_are_asked_for_again(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """What a forgotten scan was done with stays forgotten, also for one that goes on with the afresh one."""
    for number in range(120):
        put_image(scripted_registry, "big", f"t{number:03}", [b"%d" % number])
    put_image(scripted_registry, "small", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/big/manifests/t110", 120)
        await ended_early(scripted_registry, index, "/v2/big/manifests/t010", 50, afresh=True)
        report = await scanned(scripted_registry, index)
        assert (report.resumed, report.before, report.tags) == (True, 1, 120)


async def test_a_scan_can_be_begun_afresh(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """What an unfinished scan was done with is forgotten; another scan of the registry is another matter."""
    for number in range(30):
        put_image(scripted_registry, f"r/{number:02}", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/r/20/manifests/1", 29)
        other = await scanned(scripted_registry, index, patterns=["r/0*"])
        assert (other.resumed, other.repositories) == (False, 10)
        report = await scanned(scripted_registry, index, afresh=True)
        assert (report.resumed, report.repositories) == (False, 30)


async def test_hostile_lists_end(scripted_registry: ScriptedRegistry) -> None:
    """Nonsense names are left out, a Link to elsewhere is not followed, pages that lead to themselves end."""
    put_image(scripted_registry, "a", "1", [BASE])
    body = b'{"repositories": ["a", "UPPER", "../x", 7, null, "a//b"]}'
    scripted_registry.play(
        Fault(
            path="/v2/_catalog",
            action=Reply(status=200, body=body, media_type="application/json"),
            times=1,
        )
    )
    report = await scanned(scripted_registry, MemoryMountIndex())
    assert (report.repositories, report.failed) == (1, 0)
    for link in ("<https://evil.example/v2/_catalog>; rel=next", "</v2/_catalog>; rel=next"):
        scripted_registry.clear_script()
        scripted_registry.play(
            Fault(
                path="/v2/_catalog",
                action=Reply(status=200, body=body, media_type="application/json", headers=(("Link", link),)),
                times=None,
            )
        )
        with pytest.raises(InvalidAnswerError):
            await scanned(scripted_registry, MemoryMountIndex())


async def test_tags_without_end_are_cut(
    scripted_registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository is followed so far, and it is told."""
    monkeypatch.setattr(scanning, "TAGS_MAX", 50)
    for number in range(120):
        put_image(scripted_registry, "a", f"t{number}", [BASE])
    report = await scanned(scripted_registry, MemoryMountIndex())
    assert (report.tags, report.skipped, report.failed) == (50, 1, 0)
    assert "more than 50 tags" in report.remarks[0]


async def test_what_is_no_image_is_passed_over_by_its_digest_too(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """With since_last a HEAD tells the type, and nothing of it is fetched."""
    kind = "application/vnd.oci.artifact.manifest.v1+json"
    odd = {"schemaVersion": 2, "mediaType": kind, "blobs": []}
    put_document(scripted_registry, "a", "odd", odd, kind)
    put_image(scripted_registry, "a", "gone", [OWN])
    scripted_registry.play(Fault(method="HEAD", path="/v2/a/manifests/gone", action=Reply(status=404), times=None))
    async with open_index(valkey.unix_url) as index:
        report = await scanned(scripted_registry, index, since_last=True)
    assert (report.skipped, report.fetched, report.failed) == (2, 0, 0)
    assert asked(scripted_registry, "GET", "/v2/*/manifests/*") == 0


async def test_memory_is_flat_in_a_repository_without_end(
    scripted_registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen is forgotten now and then; the index hears of all of it."""
    monkeypatch.setattr(scanning, "_SEEN_MAX", 10)
    for number in range(120):
        put_image(scripted_registry, "a", f"t{number}", [b"%d" % number])
    index = MemoryMountIndex()
    report = await scanned(scripted_registry, index)
    assert (report.tags, report.layers) == (120, 240)
    for number in (0, 60, 119):
        assert await known(index, b"%d" % number) == {"a"}


async def test_an_index_that_names_thousands_is_cut(
    scripted_registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many manifests that hang together are followed, and no more."""
    monkeypatch.setattr("crossmount.warmup.walk.MANIFESTS_MAX", 5)
    children = [put_image(scripted_registry, "a", None, [b"%d" % number]) for number in range(9)]
    put_index(scripted_registry, "a", "1", children)
    report = await scanned(scripted_registry, MemoryMountIndex())
    assert report.fetched <= 6
    assert "more than 5 manifests hang together" in report.remarks[0]


async def test_a_catalogue_in_trouble_is_not_taken_for_none(scripted_registry: ScriptedRegistry) -> None:
    """500 is told as it is."""
    scripted_registry.play(Fault(path="/v2/_catalog", action=Reply(status=500), times=None))
    with pytest.raises(RegistryRefusedError, match="500") as raised:
        await scanned(scripted_registry, MemoryMountIndex())
    assert "does not list" not in str(raised.value)


async def test_a_registry_that_goes_away_ends_the_scan(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """What was seen is recorded, and it can be gone on with."""
    for number in range(20):
        put_image(scripted_registry, f"r/{number:02}", "1", [BASE])
    scripted_registry.play(Fault(path="/v2/r/15/*", action=CutBefore(), times=None))
    async with open_index(valkey.unix_url) as index:
        with pytest.raises(RegistryUnreachableError):
            await scanned(scripted_registry, index, requests=1)
        assert len(await known(index, BASE)) == 15
        scripted_registry.clear_script()
        report = await scanned(scripted_registry, index)
        assert (report.resumed, report.before, report.repositories) == (True, 15, 5)


async def test_a_memory_of_one_process_is_bounded() -> None:
    """What was not used for longest makes way."""
    memory = LocalMemory(limit=2)
    one, two, three = (Outline(Digest.of(b"%d" % n), ((Digest.of(b"x"), 1),)) for n in range(3))
    await memory.keep([one, two])
    await memory.recall([one.digest])
    await memory.keep([three])
    assert set(await memory.recall([one.digest, two.digest, three.digest])) == {one.digest, three.digest}


async def test_a_name_that_is_none_is_wrong_input(scripted_registry: ScriptedRegistry) -> None:
    """It was our caller who gave it."""
    with pytest.raises(InvalidInputError, match="not a repository name"):
        await scanned(scripted_registry, MemoryMountIndex(), repositories=["UPPER"])


async def test_indexes_without_end_are_cut(scripted_registry: ScriptedRegistry) -> None:
    """Nesting is bounded, and an index that names many is followed once."""
    child = put_image(scripted_registry, "a", None, [BASE])
    for depth in range(8):
        child = put_index(scripted_registry, "a", f"t{depth}", [child])
    scripted_registry.holdings.find("a").tags = {"deep": child}
    report = await scanned(scripted_registry, MemoryMountIndex())
    assert (report.fetched, report.skipped) == (5, 1)
    assert "indexes in more than" in report.remarks[0]


async def test_tags_without_end_are_cut_when_they_were_done_before_too(
    scripted_registry: ScriptedRegistry, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that is gone on with does not follow a list for ever because it knows what is on it."""
    monkeypatch.setattr(scanning, "TAGS_MAX", 50)
    for number in range(120):
        put_image(scripted_registry, "a", f"t{number}", [BASE])
    where = Repository(scripted_registry.address, "a")
    async with open_index(valkey.unix_url) as index:
        await progress_of(index, where.registry, []).note([], {where: [f"t{number}" for number in range(120)]})
        report = await scanned(scripted_registry, index)
    assert (report.resumed, report.tags, report.skipped) == (True, 0, 1)
    assert "more than 50 tags" in report.remarks[0]


async def test_a_real_registry_is_scanned(docker_registry: DockerRegistry, valkey: Server, tmp_path: Path) -> None:
    """What skopeo pushed past crossmount is mountable afterwards, without a byte sent."""
    image = make_layout(tmp_path / "image", make_layers(3))
    skopeo = ("--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{image.path}:latest")
    for name in ("team/one:1", "team/one:2", "team/two:1"):
        run("skopeo", *skopeo, f"docker://{docker_registry.address}/{name}")
    async with open_index(valkey.unix_url) as index:
        report = await scan(docker_registry.address, index=index, options=PLAIN)
        assert (report.repositories, report.tags, report.layers, report.failed) == (2, 3, 8, 0)
        dest = f"{docker_registry.address}/team/three:1"
        pushed = await push(image.path, dest, index=index, options=PLAIN)
        assert (pushed.count("mounted"), pushed.count("uploaded")) == (4, 0)


def redis_of(server: Server) -> "redis.Redis":
    """Return a client of the server."""
    return redis.Redis(unix_socket_path=str(server.socket))
