"""Pushes that take turns, with the scripted registry and a real Valkey."""

import asyncio
from pathlib import Path

import pytest

import crossmount
from crossmount import events
from crossmount.errors import AccessDeniedError
from crossmount.fleet import Fleet, Patience, Slots, UploadTurn
from crossmount.index import MemoryMountIndex, MountIndex, RegistryTraits, Sighting, open_index
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry, running_registry
from crossmount.transfer.image_pusher import Limits
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.images import MadeImage, make_layers, make_layout
from support.places import Place
from support.waiting import until

OPTIONS = ClientOptions(
    plain_http=True, retry=RetryPolicy(attempts=2, outage=0.0, wait_initial=0.01, wait_max=0.02)
)
EAGER = Patience(small=100, limit=20)
"""Layers of 100 bytes and more are worth waiting for."""


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of four layers and a config, each large enough to wait for."""
    return make_layout(tmp_path / "image", make_layers(4, size=5000))


async def push_to(
    registry: ScriptedRegistry,
    name: str,
    image: MadeImage,
    index: MountIndex,
    *,
    patience: Patience = EAGER,
    fleet: Fleet | None = None,
    limits: Limits = Limits(),  # noqa: B008 a frozen value
) -> PushReport:
    """Push `image` into a repository of `registry`."""
    return await push(
        image.path,
        f"{registry.address}/{name}:1",
        index=index,
        options=OPTIONS,
        patience=patience,
        fleet=fleet,
        limits=limits,
    )


async def runner(registry: ScriptedRegistry, name: str, image: MadeImage, any_place: Place) -> PushReport:
    """Push with own connections, like a separate process."""
    async with open_index(any_place.url) as index:
        return await push_to(registry, name, image, index)


def digests(image: MadeImage) -> list[Digest]:
    """Return all blobs of an image, sorted."""
    return sorted(blob.digest for blob in image.blobs)


async def test_each_blob_is_uploaded_once(
    scripted_registry: ScriptedRegistry, image: MadeImage, any_place: Place
) -> None:
    """Concurrent pushes upload each blob once, and the reports of those that waited say for how long."""
    scripted_registry.play(Fault(method="PUT", path="*/blobs/*", delay=0.1, times=None))
    reports = await asyncio.gather(
        *(runner(scripted_registry, f"team/app-{i}", image, any_place) for i in range(6))
    )
    assert [scripted_registry.uploads(digest) for digest in digests(image)] == [1] * len(image.blobs)
    documents = [blob for report in reports for blob in report.to_json()["blobs"]]
    assert {document["outcome"] for document in documents if "waited" in document} == {"mounted"}
    assert all(document["waited"] > 0 for document in documents if "waited" in document)
    assert any("waited" not in document for document in documents)
    assert scripted_registry.open_sessions == ()


async def test_a_waiting_push_names_the_uploaders_repository(
    scripted_registry: ScriptedRegistry, image: MadeImage, any_place: Place
) -> None:
    """A waiting push emits one event for each blob, with the repository that another uploads into."""
    told: list[events.Event] = []
    layer = image.layers[0]
    async with open_index(any_place.url) as index, Fleet(index) as fleet:
        source = Repository.parse(f"{scripted_registry.address}/team/first")
        turn = await fleet.turn(layer.digest, source, layer.size, slots=Slots(1))
        assert isinstance(turn, UploadTurn)
        pushing = asyncio.create_task(
            push(
                image.path,
                f"{scripted_registry.address}/team/app:1",
                index=index,
                options=OPTIONS,
                patience=EAGER,
                observer=told.append,
            )
        )
        await until(lambda: any(isinstance(event, events.BlobWaiting) for event in told))
        await turn.release()
        await pushing
    dest = Repository.parse(f"{scripted_registry.address}/team/app")
    assert [event for event in told if isinstance(event, events.BlobWaiting)] == [
        events.BlobWaiting(digest=layer.digest, size=layer.size, dest=dest, into=source)
    ]


async def test_pushes_into_one_repository_share_an_upload(
    scripted_registry: ScriptedRegistry, image: MadeImage, any_place: Place
) -> None:
    """A push that waited for another push into its own repository finds the blob there."""
    scripted_registry.play(Fault(method="PUT", path="*/blobs/*", delay=0.1, times=None))
    reports = await asyncio.gather(*(runner(scripted_registry, "team/app", image, any_place) for _ in range(3)))
    assert [scripted_registry.uploads(digest) for digest in digests(image)] == [1] * len(image.blobs)
    assert {blob.outcome for report in reports for blob in report.blobs} == {"uploaded", "existing"}


@pytest.mark.parametrize("patience", [Patience(limit=0, small=0), Patience(small=10**9)])
async def test_waiting_can_be_turned_off_and_small_blobs_never_wait(
    scripted_registry: ScriptedRegistry, image: MadeImage, any_place: Place, patience: Patience
) -> None:
    """Without patience, and for small blobs, no lease is requested."""
    async with open_index(any_place.url) as index, Fleet(index) as fleet:
        await push_to(scripted_registry, "team/app", image, index, patience=patience, fleet=fleet)
        assert not fleet._gateway.called


async def test_on_a_registry_that_mounts_after_the_manifest_the_lease_lasts_until_then(
    image: MadeImage, any_place: Place
) -> None:
    """Pushes of the same layers upload none twice, and do not wait for each other in a circle."""
    async with ScriptedRegistry(RegistryOptions(after_manifest=True)) as registry:
        registry.play(Fault(method="PUT", path="*/blobs/*", delay=0.05, times=None))
        async with open_index(any_place.url) as index:
            await index.record_traits(registry.address, RegistryTraits(mounts=True, after_manifest=True))
        reports = await asyncio.gather(*(runner(registry, f"team/app-{i}", image, any_place) for i in range(5)))
        assert [registry.uploads(digest) for digest in digests(image)] == [1] * len(image.blobs)
        assert sum(report.count("mounted") for report in reports) == 4 * len(image.blobs)


async def test_crossing_needs_end_on_a_registry_that_mounts_after_the_manifest(
    tmp_path: Path, any_place: Place
) -> None:
    """Images whose layers overlap in a ring are all pushed, each layer once, with one upload slot each."""
    layers = make_layers(4, size=5000)
    async with ScriptedRegistry(RegistryOptions(after_manifest=True)) as registry:
        registry.play(Fault(method="PUT", path="*/blobs/*", delay=0.05, times=None))
        async with open_index(any_place.url) as index, Fleet(index) as fleet:
            await index.record_traits(registry.address, RegistryTraits(mounts=True, after_manifest=True))
            await asyncio.gather(
                *(
                    push_to(
                        registry,
                        f"team/app-{i}",
                        make_layout(tmp_path / f"image-{i}", [layers[i], layers[(i + 1) % 4]]),
                        index,
                        fleet=fleet,
                        limits=Limits(uploads=1),
                    )
                    for i in range(4)
                )
            )
        assert [registry.uploads(Digest.of(layer)) for layer in layers] == [1] * 4


async def test_a_failed_push_lets_the_others_continue(image: MadeImage, any_place: Place) -> None:
    """A failed push releases its leases, and others can mount what it did upload."""
    denied = Fault(method="PUT", path="*/app-0/manifests/*", action=Reply(status=403), times=None)
    async with ScriptedRegistry(RegistryOptions(after_manifest=True), faults=[denied]) as registry:
        async with open_index(any_place.url) as index:
            await index.record_traits(registry.address, RegistryTraits(mounts=True, after_manifest=True))
        failed, report = await asyncio.gather(
            runner(registry, "team/app-0", image, any_place),
            runner(registry, "team/app-1", image, any_place),
            return_exceptions=True,
        )
        assert isinstance(failed, AccessDeniedError)
        assert isinstance(report, PushReport)
        assert registry.open_sessions == ()
        async with open_index(any_place.url) as index:
            known = await index.locations(image.layers[0].digest)
        assert known == (Repository.parse(f"{registry.address}/team/app-1"),)


async def test_a_registry_is_found_to_mount_only_after_the_manifest(image: MadeImage, any_place: Place) -> None:
    """If a published blob exists and does not mount, the trait `after_manifest` is recorded."""
    async with ScriptedRegistry(RegistryOptions(after_manifest=True)) as registry:
        async with open_index(any_place.url) as index, Fleet(index) as fleet:
            digest, size = image.layers[0].digest, image.layers[0].size
            source = Repository.parse(f"{registry.address}/team/first")
            turn = await fleet.turn(digest, source, size, slots=Slots(1))
            assert isinstance(turn, UploadTurn)
            registry.put_blob("team/first", image.blob_path(digest).read_bytes())
            pushing = asyncio.create_task(runner(registry, "team/app", image, any_place))
            await until(lambda: bool(registry.matching(method="HEAD", path=f"*/team/app/blobs/{digest}")))
            await turn.publish()
            await turn.release()
            report = await pushing
            assert report.count("uploaded") == len(image.blobs)
            traits = (await index.look_up([], source)).traits
            assert traits == RegistryTraits(mounts=None, finds=None, after_manifest=True)
        assert registry.open_sessions == ()


async def test_stale_sources_leave_the_session_to_the_upload(
    scripted_registry: ScriptedRegistry, image: MadeImage, any_place: Place
) -> None:
    """An upload without a wait uses the session that a refused mount opened."""
    async with open_index(any_place.url) as index:
        gone = Repository.parse(f"{scripted_registry.address}/team/gone")
        await index.record([Sighting(digest, gone) for digest in digests(image)])
        await index.record_traits(gone.registry, RegistryTraits(finds=False))
        report = await push_to(scripted_registry, "team/app", image, index)
    assert report.count("uploaded") == len(image.blobs)
    assert len(scripted_registry.matching(method="POST")) == len(image.blobs)
    assert scripted_registry.open_sessions == ()


async def test_sources_that_never_mount_end_in_an_upload(
    scripted_registry: ScriptedRegistry, image: MadeImage, any_place: Place
) -> None:
    """A push whose mounts from new sources fail again and again uploads after a few rounds."""
    scripted_registry.play(Fault(method="POST", query="*from=*", action=Reply(status=401), times=None))
    async with open_index(any_place.url) as index, Fleet(index) as fleet:
        base = Repository.parse(f"{scripted_registry.address}/team/base")
        await push_to(scripted_registry, "team/base", image, index, fleet=fleet)
        turns = 0
        plain = fleet.turn

        async def hostile(layer: Digest, dest: Repository, size: int, **options: object) -> object:
            nonlocal turns
            turns += 1
            await index.record([Sighting(layer, base.sibling(f"team/bad-{turns}"))])
            return await plain(layer, dest, size, **options)  # type: ignore[arg-type]

        fleet.turn = hostile  # type: ignore[assignment,method-assign]
        report = await push_to(scripted_registry, "team/app", image, index, fleet=fleet)
    assert report.count("uploaded") == len(image.blobs)
    assert scripted_registry.open_sessions == ()


async def test_a_push_that_is_cancelled_while_it_waits_leaves_nothing(
    scripted_registry: ScriptedRegistry, image: MadeImage, any_place: Place
) -> None:
    """A push that is cancelled while it waits leaves no open session and no waiter."""
    async with open_index(any_place.url) as index, Fleet(index) as fleet:
        gone = Repository.parse(f"{scripted_registry.address}/team/gone")
        await index.record([Sighting(digest, gone) for digest in digests(image)])
        slots = Slots(10)
        other = Repository.parse(f"{scripted_registry.address}/team/other")
        for blob in image.blobs:
            turn = await fleet.turn(blob.digest, other, blob.size, slots=slots, excluded={gone})
            assert isinstance(turn, UploadTurn)
        pushing = asyncio.create_task(push_to(scripted_registry, "team/app", image, index, fleet=fleet))
        await until(lambda: not fleet._poller.queues.idle)
        pushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pushing
        assert fleet._poller.queues.idle
    assert scripted_registry.open_sessions == ()


async def test_tasks_share_an_upload_without_an_index_server(
    scripted_registry: ScriptedRegistry, image: MadeImage
) -> None:
    """Concurrent pushes with one fleet and an index in memory upload each blob once."""
    scripted_registry.play(Fault(method="PUT", path="*/blobs/*", delay=0.1, times=None))
    index = MemoryMountIndex()
    async with Fleet(index) as fleet:
        await asyncio.gather(
            *(push_to(scripted_registry, f"team/app-{i}", image, index, fleet=fleet) for i in range(4))
        )
    assert [scripted_registry.uploads(digest) for digest in digests(image)] == [1] * len(image.blobs)


def test_the_blocking_flavour_takes_turns(image: MadeImage, any_place: Place) -> None:
    """Threads with one fleet push each blob once."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 beside its use

    with (
        running_registry() as registry,
        crossmount.open_index(any_place.url) as index,
        crossmount.Fleet(index) as fleet,
        ThreadPoolExecutor(4) as pool,
    ):
        reports = list(
            pool.map(
                lambda number: crossmount.push(
                    image.path,
                    f"{registry.address}/team/{number}:1",
                    index=index,
                    options=crossmount.ClientOptions(plain_http=True),
                    patience=EAGER,
                    fleet=fleet,
                ),
                range(4),
            )
        )
        assert all(report.index == "ok" for report in reports)
        assert [registry.uploads(digest) for digest in digests(image)] == [1] * len(image.blobs)
