"""Scans of registries that fail, disappear or have endless lists end, and report the parts they skipped."""

from importlib import import_module

import pytest

from crossmount import events
from crossmount.asyncio import (
    IndexFailedError,
    InvalidAnswerError,
    MemoryMountIndex,
    RegistryRefusedError,
    RegistryUnreachableError,
    Repository,
    open_index,
)
from crossmount.discovery.scan_state import ScanCheckpoint
from crossmount.index.protocol import backing_server
from crossmount.testing import CutBefore, Fault, Reply, ScriptedRegistry
from support.holdings import put_image, put_index
from support.scans import BASE, known, scanned
from support.servers import Server

scanning = import_module("crossmount.discovery.scan")  # the package has a function of the same name


async def test_one_repository_that_fails_does_not_end_the_scan(scripted_registry: ScriptedRegistry) -> None:
    """One failing repository is counted with its cause, and the others are recorded."""
    for name in ("a", "b", "c"):
        put_image(scripted_registry, name, "1", [BASE])
    scripted_registry.play(Fault(path="/v2/b/manifests/1", action=Reply(status=500), times=None))
    received: list[events.Event] = []
    index = MemoryMountIndex()
    report = await scanned(scripted_registry, index, observer=received.append)
    assert await known(index, BASE) == {"a", "c"}
    assert (report.repositories, report.failed) == (2, 1)
    assert "/v2/b/manifests/1: 500" in report.remarks[0]
    outcomes = {e.repository.name: e.outcome for e in received if isinstance(e, events.RepositoryScanned)}
    assert outcomes == {"a": "scanned", "b": "failed", "c": "scanned"}


async def test_a_registry_that_only_fails_is_not_asked_again(scripted_registry: ScriptedRegistry) -> None:
    """After ten failing repositories in a row the scan ends with the last error."""
    for number in range(40):
        put_image(scripted_registry, f"r/{number}", "1", [BASE])
    scripted_registry.play(Fault(path="/v2/*/tags/list", action=Reply(status=500), times=None))
    with pytest.raises(RegistryRefusedError, match="500"):
        await scanned(scripted_registry, MemoryMountIndex(), requests=2)
    paths = {record.path for record in scripted_registry.matching(path="/v2/*/tags/list")}
    assert len(paths) < 15


async def test_unreadable_and_missing_repositories_of_a_catalogue_are_no_failure(
    scripted_registry: ScriptedRegistry,
) -> None:
    """Unreadable and missing repositories of a catalogue are no failure, but those the caller named are."""
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


async def test_a_pause_that_the_registry_requests_is_kept(scripted_registry: ScriptedRegistry) -> None:
    """The scan waits as long as 429 with Retry-After says, and then completes."""
    for number in range(6):
        put_image(scripted_registry, f"r/{number}", "1", [BASE])
    scripted_registry.play(Fault(path="/v2/*/manifests/*", action=Reply(status=429, retry_after=1), times=1))
    received: list[events.Event] = []
    report = await scanned(scripted_registry, MemoryMountIndex(), observer=received.append)
    (retry,) = [event for event in received if isinstance(event, events.Retrying)]
    assert retry.wait >= 1
    assert retry.cause.startswith("429")
    assert (report.repositories, report.failed) == (6, 0)


async def test_a_requested_pause_that_is_too_long_ends_the_scan(scripted_registry: ScriptedRegistry) -> None:
    """A requested pause longer than the deadline ends the scan."""
    put_image(scripted_registry, "a", "1", [BASE])
    scripted_registry.play(Fault(path="/v2/a/*", action=Reply(status=429, retry_after=3000), times=None))
    with pytest.raises(RegistryRefusedError, match=r"429|pause"):
        await scanned(scripted_registry, MemoryMountIndex())


async def test_an_index_that_fails_in_the_middle_is_an_error(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """A failing index ends the scan with an error."""
    for number in range(100):
        put_image(scripted_registry, f"r/{number:03}", "1", [b"%d-%d" % (number, n) for n in range(20)])

    def stop_soon(event: events.Event) -> None:
        if isinstance(event, events.RepositoryScanned) and event.repository.name == "r/050":
            valkey.process.kill()
            valkey.process.wait()

    async with open_index(valkey.unix_url) as index:
        with pytest.raises(IndexFailedError):
            await scanned(scripted_registry, index, observer=stop_soon)


async def test_hostile_lists_end(scripted_registry: ScriptedRegistry) -> None:
    """Invalid names are ignored, a Link to another host is not followed, and circular pages end."""
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
    """The tags of one repository are limited, and the report says so."""
    monkeypatch.setattr(scanning, "TAGS_MAX", 50)
    for number in range(120):
        put_image(scripted_registry, "a", f"t{number}", [BASE])
    report = await scanned(scripted_registry, MemoryMountIndex())
    assert (report.tags, report.skipped, report.failed) == (50, 1, 0)
    assert "more than 50 tags" in report.remarks[0]


async def test_memory_is_flat_in_a_repository_without_end(
    scripted_registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory for seen manifests is bounded, and the index records all layers nevertheless."""
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
    """The number of manifests that one index names is limited."""
    monkeypatch.setattr("crossmount.discovery.manifest_walker.MANIFESTS_MAX", 5)
    children = [put_image(scripted_registry, "a", None, [b"%d" % number]) for number in range(9)]
    put_index(scripted_registry, "a", "1", children)
    report = await scanned(scripted_registry, MemoryMountIndex())
    assert report.fetched <= 6
    assert "more than 5 manifests" in report.remarks[0]


async def test_a_failing_catalogue_is_not_a_missing_one(scripted_registry: ScriptedRegistry) -> None:
    """A catalogue that answers 500 is reported as a failure, not as missing."""
    scripted_registry.play(Fault(path="/v2/_catalog", action=Reply(status=500), times=None))
    with pytest.raises(RegistryRefusedError, match="500") as raised:
        await scanned(scripted_registry, MemoryMountIndex())
    assert "does not list" not in str(raised.value)


async def test_a_registry_that_goes_away_ends_the_scan(
    scripted_registry: ScriptedRegistry, valkey: Server
) -> None:
    """When the registry disappears, the scan records its findings, and the next scan resumes."""
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


async def test_indexes_without_end_are_cut(scripted_registry: ScriptedRegistry) -> None:
    """The nesting of indexes is limited."""
    child = put_image(scripted_registry, "a", None, [BASE])
    for depth in range(8):
        child = put_index(scripted_registry, "a", f"t{depth}", [child])
    scripted_registry.holdings.find("a").tags = {"deep": child}
    report = await scanned(scripted_registry, MemoryMountIndex())
    assert (report.fetched, report.skipped) == (5, 1)
    assert "an index in more than" in report.remarks[0]


async def test_finished_tags_count_towards_the_limit(
    scripted_registry: ScriptedRegistry, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed scan also limits the tags of a repository, finished tags included."""
    monkeypatch.setattr(scanning, "TAGS_MAX", 50)
    for number in range(120):
        put_image(scripted_registry, "a", f"t{number}", [BASE])
    where = Repository(scripted_registry.address, "a")
    async with open_index(valkey.unix_url) as index:
        checkpoint = ScanCheckpoint(backing_server(index), where.registry, [], run="0" * 16)
        await checkpoint.save([], {where: [f"t{number}" for number in range(120)]})
        report = await scanned(scripted_registry, index)
    assert (report.resumed, report.tags, report.skipped) == (True, 0, 1)
    assert "more than 50 tags" in report.remarks[0]
