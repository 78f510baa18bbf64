"""Pushes and copies on real servers are counted as they happened."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

import crossmount
from crossmount import events
from crossmount.errors import RegistryError
from crossmount.fleet import Patience
from crossmount.index import GuardedIndex, Keys, MountIndex, open_index
from crossmount.oci import Reference
from crossmount.oci.layout import load_image
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.savings import Savings, Tally, read_savings
from crossmount.savings.accountant import LAYERS_A_PUSH
from crossmount.testing import Fault, Reply, ScriptedRegistry, running_registry
from crossmount.transfer.accounting import Accounting
from crossmount.transfer.copy import copy
from crossmount.transfer.image_pusher import ImagePusher, Limits
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.copies import OPTIONS
from support.images import MadeImage, make_layers, make_layout
from support.index_kit import CountingLink
from support.registries import DockerRegistry
from support.servers import Server, StartServer

PATIENT = Patience(small=100, limit=20)


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of four layers and a config."""
    return make_layout(tmp_path / "image", make_layers(4, size=50_000))


def size_of(image: MadeImage) -> int:
    """Return the bytes of all blobs."""
    return sum(blob.size for blob in image.blobs)


async def today(index: object) -> Savings:
    """Read the accounts of today, of the day before and of the one after: the test may run at midnight."""
    day = datetime.now(UTC).date()
    return await read_savings(index, since=day - timedelta(days=1), until=day + timedelta(days=1))


def of_reports(reports: Sequence[PushReport]) -> Tally:
    """Return what reports say, with nothing that a report does not know."""
    tally = Tally()
    for report in reports:
        for blob in report.blobs:
            fate = "waited" if blob.waited and blob.outcome != "uploaded" else blob.outcome
            tally += Tally(**{f"blobs_{fate}": 1, f"bytes_{fate}": blob.size})
        tally += Tally(pushes=1, pushes_without_index=int(report.index != "ok"))
    return tally


def without_times(tally: Tally) -> Tally:
    """Return a tally without its times."""
    return replace(tally, ms_waiting=0, ms_uploading=0)


async def test_pushes_to_a_real_registry_are_counted(
    docker_registry: DockerRegistry, valkey: Server, image: MadeImage
) -> None:
    """The first push uploads, the second mounts, the third finds all there; the accounts say so."""
    options = ClientOptions(plain_http=True)
    reports = []
    for name in ("team/one", "team/two", "team/two"):
        async with open_index(valkey.url) as index:
            dest = f"{docker_registry.address}/{name}:1"
            reports.append(await push(image.path, dest, index=index, options=options))
    async with open_index(valkey.url) as index:
        savings = await today(index)
    total = savings.total
    assert without_times(total) == of_reports(reports)
    assert (total.bytes_uploaded, total.bytes_mounted, total.bytes_existing) == (size_of(image),) * 3
    assert total.share_saved == 0.5
    assert total.rate is not None
    assert savings.seconds_saved is not None
    assert list(savings.by_row) == [(docker_registry.address, "team")]
    assert len(savings.most_mounted) == LAYERS_A_PUSH
    assert all(layer.mounted == 1 and layer.uploads == 1 for layer in savings.most_mounted)


async def test_pushes_that_wait_are_counted_as_saved(valkey: Server, image: MadeImage) -> None:
    """Of pushers that start together one uploads a layer; for the others it counts as waited for, or mounted."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="PUT", path="*/blobs/uploads/*", times=None, delay=0.2))

        async def one(number: int) -> PushReport:
            async with open_index(valkey.url) as index:
                dest = f"{registry.address}/team{number}/app:1"
                return await push(image.path, dest, index=index, options=OPTIONS, patience=PATIENT)

        reports = await asyncio.gather(*map(one, range(5)))
        async with open_index(valkey.url) as index:
            savings = await today(index)
    assert without_times(savings.total) == of_reports(reports)
    assert savings.total.bytes_uploaded == size_of(image)
    assert savings.total.blobs_waited > 0
    assert savings.total.ms_waiting > 0
    assert any(layer.mounted == 4 for layer in savings.most_mounted)


async def test_a_failed_push_is_counted_and_a_second_attempt_is_honest(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage
) -> None:
    """A push whose manifest is refused counts as failed, with its uploads; the next finds the blobs existing."""
    dest = f"{scripted_registry.address}/team/app:1"
    async with open_index(valkey.url) as index:
        scripted_registry.play(Fault(action=Reply(status=403, code="DENIED"), method="PUT", path="*/manifests/*"))
        with pytest.raises(RegistryError):
            await push(image.path, dest, index=index, options=OPTIONS)
        failed = (await today(index)).total
        await push(image.path, dest, index=index, options=OPTIONS)
        total = (await today(index)).total
    assert (failed.pushes, failed.pushes_failed, failed.bytes_uploaded) == (0, 1, size_of(image))
    assert (total.pushes, total.pushes_failed) == (1, 1)
    assert (total.bytes_uploaded, total.bytes_existing) == (size_of(image), size_of(image))


async def test_a_blob_that_is_pushed_again_within_a_push_counts_once(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage
) -> None:
    """A registry that forgets a blob costs one more upload, and the account has each blob once."""
    refusal = Reply(status=400, code="MANIFEST_BLOB_UNKNOWN")
    async with open_index(valkey.url) as index:
        await push(image.path, f"{scripted_registry.address}/team/one:1", index=index, options=OPTIONS)
        scripted_registry.play(Fault(action=refusal, method="PUT", path="*/manifests/*"))
        report = await push(image.path, f"{scripted_registry.address}/team/two:1", index=index, options=OPTIONS)
        total = (await today(index)).total
    assert total.blobs == 2 * len(image.blobs)
    assert total.bytes == 2 * size_of(image)
    assert total.blobs_uploaded == len(image.blobs) + report.count("uploaded")


async def test_a_push_without_the_index_counts_with_the_next_record(
    scripted_registry: ScriptedRegistry, start_server: StartServer, image: MadeImage
) -> None:
    """A process that runs for long counts a push from an outage when the index answers again."""
    server = start_server()
    async with open_index(server.url) as index:
        server.stop()
        report = await push(image.path, f"{scripted_registry.address}/team/a:1", index=index, options=OPTIONS)
        assert report.index == "degraded"
        server.restart()
        await push(image.path, f"{scripted_registry.address}/team/b:1", index=index, options=OPTIONS)
        total = (await today(index)).total
    assert (total.pushes, total.pushes_without_index) == (2, 1)
    assert total.bytes == 2 * size_of(image)


async def test_a_push_over_midnight_counts_on_the_day_when_it_ends(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage
) -> None:
    """The day changes in the middle of a push: all of it is in the accounts of the second day."""
    day = [date(2026, 11, 20)]

    def observe(event: events.Event) -> None:
        if isinstance(event, events.ManifestPushed):
            day[0] = date(2026, 11, 21)

    async with open_index(valkey.url) as index:
        pusher = replace(pusher_on(index), observer=observe, accounting=Accounting(today=lambda: day[0]))
        await push_with(pusher, scripted_registry, "team/app", image)
        savings = await read_savings(index, since=date(2026, 11, 20), until=date(2026, 11, 21))
    assert [tally.pushes for tally in savings.by_day.values()] == [0, 1]
    assert [tally.bytes for tally in savings.by_day.values()] == [0, size_of(image)]


async def test_clocks_that_differ_lose_nothing(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage
) -> None:
    """Each pusher's own clock says the day, and every push is in the sum of the days."""
    days = [date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 19)]
    for number, day in enumerate(days):
        async with open_index(valkey.url) as index:
            pusher = replace(pusher_on(index), accounting=Accounting(today=lambda day=day: day))  # type: ignore[misc]
            await push_with(pusher, scripted_registry, f"team/app{number}", image)
    async with open_index(valkey.url) as index:
        savings = await read_savings(index, since=min(days), until=max(days))
    assert [tally.pushes for tally in savings.by_day.values()] == [1, 1, 1]
    assert savings.total.bytes_mounted == 2 * size_of(image)


def pusher_on(index: MountIndex) -> ImagePusher:
    """Return a pusher without a fleet."""
    return ImagePusher.of(
        GuardedIndex(index), None, Limits(), patience=PATIENT, observer=events.ignore, clock=lambda: 0.0
    )


async def push_with(pusher: ImagePusher, registry: ScriptedRegistry, name: str, image: MadeImage) -> None:
    """Push an image with a pusher."""
    reference = Reference.parse(f"{registry.address}/{name}:1")
    async with RegistryClient(reference, options=OPTIONS) as client:
        await pusher.push(load_image(image.path), reference, client)


async def test_a_copy_counts_each_destination_and_what_it_fetched(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage
) -> None:
    """A copy to two repositories of another registry fetches once, uploads once and mounts once."""
    async with ScriptedRegistry() as other, open_index(valkey.url) as index:
        source = f"{scripted_registry.address}/team/app:1"
        await push(image.path, source, options=OPTIONS)
        for name in ("mirror/one", "mirror/two"):
            await copy(source, f"{other.address}/{name}:1", index=index, options=OPTIONS)
        savings = await today(index)
        assert savings.by_registry[other.address] == savings.total
    total = savings.total
    assert total.bytes_fetched == size_of(image)
    assert (total.bytes_uploaded, total.bytes_mounted, total.pushes) == (size_of(image), size_of(image), 2)


async def test_namespaces_are_counted_apart(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage
) -> None:
    """A push counts in its own namespace alone."""
    async with open_index(valkey.url, namespace="a") as a, open_index(valkey.url, namespace="b") as b:
        await push(image.path, f"{scripted_registry.address}/team/app:1", index=a, options=OPTIONS)
        assert (await today(a)).total.pushes == 1
        assert (await today(b)).total == Tally()


async def test_accounting_adds_no_round_trip(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage
) -> None:
    """The account of a push is written in the same round trip as its blobs."""
    async with open_index(valkey.url) as index:
        for name in ("one", "two"):
            await push(image.path, f"{scripted_registry.address}/team/{name}:1", index=index, options=OPTIONS)
        index.link = link = CountingLink(index.link)  # type: ignore[union-attr]
        await push(image.path, f"{scripted_registry.address}/team/three:1", index=index, options=OPTIONS)
        look_up, record = link.runs
        assert ("TTL", Keys().traits(scripted_registry.address)) in look_up
        (account,) = (command for command in record if "savings" in str(command))
        assert f"{scripted_registry.address}/team" in account


def test_the_blocking_library_reads_what_it_counted(valkey: Server, image: MadeImage) -> None:
    """A blocking push is in what the blocking `read_savings` returns, and in what the asynchronous one does."""
    day = datetime.now(UTC).date()
    period = {"since": day - timedelta(days=1), "until": day + timedelta(days=1)}
    with running_registry() as registry, crossmount.open_index(valkey.url, namespace="read") as index:
        options = ClientOptions(plain_http=True)
        crossmount.push(str(image.path), f"{registry.address}/a:1", index=index, options=options)
        crossmount.push(str(image.path), f"{registry.address}/b:1", index=index, options=options)
        total = crossmount.read_savings(index, **period).total
    assert (total.pushes, total.bytes_uploaded, total.bytes_mounted) == (2, size_of(image), size_of(image))
