"""An interrupted scan is resumed, and a scan with since_last fetches only new manifests."""

import asyncio

import pytest

from crossmount import events
from crossmount.asyncio import Repository, open_index
from crossmount.discovery.manifest_summary import LocalManifestCache, ManifestSummary
from crossmount.discovery.scan import REQUESTS
from crossmount.index import MountIndex
from crossmount.oci import Digest
from crossmount.testing import Fault, Reply, ScriptedRegistry
from support.holdings import put_document, put_image, put_index
from support.index_kit import keys_that_stay
from support.scans import BASE, OWN, asked, known, scanned
from support.servers import Server
from support.waiting import until


async def test_known_manifests_are_not_fetched_again(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """With since_last each tag costs one HEAD; layers of known manifests are recorded again."""
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
    with valkey.client() as raw:
        assert keys_that_stay(raw) == []


async def test_an_emptied_index_has_an_empty_cache(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """The manifest cache is emptied together with the index."""
    put_image(scripted_registry, "a", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await scanned(scripted_registry, index)
        valkey.flush()
        report = await scanned(scripted_registry, index, since_last=True)
        assert report.fetched == 1
        assert await known(index, BASE) == {"a"}


@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff\xfe", b"sha256:" + b"0" * 64 + b" x", b"x" * 70_000])
async def test_an_invalid_cache_entry_is_missing(
    scripted_registry: ScriptedRegistry, valkey: Server, junk: bytes
) -> None:
    """An invalid cache entry counts as missing, and the manifest is fetched."""
    digest = put_image(scripted_registry, "a", "1", [BASE])
    with valkey.client() as raw:
        raw.set(f"crossmount:default:{{{digest}}}:manifest", junk)
    async with open_index(valkey.unix_url) as index:
        report = await scanned(scripted_registry, index, since_last=True)
        assert (report.fetched, report.known) == (1, 0)
        assert await known(index, BASE) == {"a"}


async def ended_early(
    registry: ScriptedRegistry, index: MountIndex, stuck: str, answers: int, *, through: int, **details: object
) -> None:
    """Scan until that many manifests are answered and repositories finished, while `stuck` waits; then cancel."""
    done: list[events.Event] = []
    registry.play(Fault(path=stuck, delay=60, times=None))
    task = asyncio.create_task(scanned(registry, index, observer=done.append, **details))
    await until(
        lambda: (
            asked(registry, "GET", "/v2/*/manifests/*") >= answers
            and sum(isinstance(event, events.RepositoryScanned) for event in done) >= through
        )
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    registry.clear_script()
    registry.requests.clear()


async def test_an_interrupted_scan_is_resumed(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """A resumed scan skips finished repositories; afterwards the checkpoint is deleted."""
    for number in range(30):
        put_image(scripted_registry, f"r/{number:02}", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/r/20/manifests/1", 29, through=29)
        assert len(await known(index, BASE)) == 29
        report = await scanned(scripted_registry, index)
        assert report.resumed
        assert report.repositories + report.before == 30
        assert report.before >= 29 - REQUESTS
        assert asked(scripted_registry, "GET", "/v2/*/tags/list") == report.repositories
        assert len(await known(index, BASE)) == 30
        finished = await scanned(scripted_registry, index)
        assert (finished.resumed, finished.repositories) == (False, 30)
    with valkey.client() as raw:
        assert keys_that_stay(raw) == []


async def test_a_repository_is_resumed_in_its_middle(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """A resumed scan skips the finished tags of an unfinished repository."""
    for number in range(120):
        put_image(scripted_registry, "big", f"t{number:03}", [b"%d" % number])
    put_image(scripted_registry, "small", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/big/manifests/t110", 120, through=1)
        report = await scanned(scripted_registry, index)
        assert (report.before, report.tags) == (1, 20)
        assert asked(scripted_registry, "GET", "/v2/*/manifests/*") == 20
        assert await known(index, b"110") == {"big"}
    with valkey.client() as raw:
        assert list(raw.scan_iter("crossmount:*:scan:*")) == []


async def test_a_scan_of_one_repository_is_resumed(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """A scan that finished no repository yet resumes after its finished tags."""
    for number in range(120):
        put_image(scripted_registry, "big", f"t{number:03}", [b"%d" % number])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/big/manifests/t110", 119, through=0)
        report = await scanned(scripted_registry, index)
        assert (report.resumed, report.before, report.tags) == (True, 0, 20)


async def test_a_fresh_start_scans_all_tags_again(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """After a fresh start the finished tags of the deleted scan do not count again."""
    for number in range(120):
        put_image(scripted_registry, "big", f"t{number:03}", [b"%d" % number])
    put_image(scripted_registry, "small", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/big/manifests/t110", 120, through=1)
        await ended_early(scripted_registry, index, "/v2/big/manifests/t010", 50, through=1, afresh=True)
        report = await scanned(scripted_registry, index)
        assert (report.resumed, report.before, report.tags) == (True, 1, 120)


async def test_a_scan_can_start_afresh(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """A fresh start ignores the unfinished scan, and so does a scan with other patterns."""
    for number in range(30):
        put_image(scripted_registry, f"r/{number:02}", "1", [BASE])
    async with open_index(valkey.unix_url) as index:
        await ended_early(scripted_registry, index, "/v2/r/20/manifests/1", 29, through=29)
        other = await scanned(scripted_registry, index, patterns=["r/0*"])
        assert (other.resumed, other.repositories) == (False, 10)
        report = await scanned(scripted_registry, index, afresh=True)
        assert (report.resumed, report.repositories) == (False, 30)


async def test_other_content_is_skipped_by_its_head_too(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """With since_last, tags of other types are skipped by their HEAD, and not fetched."""
    kind = "application/vnd.oci.artifact.manifest.v1+json"
    odd = {"schemaVersion": 2, "mediaType": kind, "blobs": []}
    put_document(scripted_registry, "a", "odd", odd, kind)
    put_image(scripted_registry, "a", "gone", [OWN])
    scripted_registry.play(Fault(method="HEAD", path="/v2/a/manifests/gone", action=Reply(status=404), times=None))
    async with open_index(valkey.unix_url) as index:
        report = await scanned(scripted_registry, index, since_last=True)
    assert (report.skipped, report.fetched, report.failed) == (2, 0, 0)
    assert asked(scripted_registry, "GET", "/v2/*/manifests/*") == 0


async def test_the_in_process_cache_is_bounded() -> None:
    """The in-process cache evicts the least recently used entry."""
    cache = LocalManifestCache(limit=2)
    one, two, three = (ManifestSummary(Digest.of(b"%d" % n), ((Digest.of(b"x"), 1),)) for n in range(3))
    await cache.store([one, two])
    await cache.load([one.digest])
    await cache.store([three])
    assert set(await cache.load([one.digest, two.digest, three.digest])) == {one.digest, three.digest}
