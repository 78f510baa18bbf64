"""Pushes through a proxy are counted once, by how their blobs came into the repository."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.index import MemoryMountIndex, RedisMountIndex
from crossmount.index.protocol import Knowledge, LayerKnowledge, RegistryTraits
from crossmount.oci import Manifest
from crossmount.proxy.ledger import IDLE_SECONDS, PushLedger, covered
from crossmount.registry import ClientOptions
from crossmount.savings import MemoryAccounts, Savings, Tally, read_savings
from crossmount.testing import ScriptedRegistry
from crossmount.transfer.accounting import Accounting
from crossmount.transfer.push import push
from support.images import MadeImage, make_layers, make_layout
from support.index_kit import Clock, layer, repo
from support.links import async_link
from support.programs import needs
from support.proxies import ProxyUnderTest, proxy_before
from support.registries import run
from support.servers import Server
from support.waiting import until

DEST = repo("team/app")
DAY = date(2026, 11, 27)
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def manifest(*numbers: int) -> Manifest:
    """Return a manifest of layers with these numbers, of 1000 bytes each, and an empty config."""
    import json  # noqa: PLC0415

    def descriptor(number: int, kind: str = LAYER) -> dict[str, object]:
        return {"mediaType": kind, "digest": layer(number), "size": 1000}

    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {**descriptor(0, CONFIG), "size": 2},
        "layers": [descriptor(number) for number in numbers],
    }
    return Manifest.parse(json.dumps(document).encode(), where="a test")


class Books:
    """A ledger, its clock and its accounts."""

    def __init__(self) -> None:
        self.clock = Clock(0.0)
        self.accounts = MemoryAccounts()
        numbers = iter(range(100))
        self.ledger = PushLedger(
            self.accounts,
            waits_for=lambda size: size >= 1000,
            accounting=Accounting(new_id=lambda: f"{next(numbers):08d}", today=lambda: DAY),
            clock=self.clock,
        )

    async def total(self) -> Tally:
        """Return what was counted."""
        (day,) = await self.accounts.read_accounts([DAY])
        return day.total


@pytest.fixture
def books() -> Books:
    """Give a ledger."""
    return Books()


async def test_a_push_is_counted_with_its_tag(books: Books) -> None:
    """Blobs count as they came; one that was not seen was there already; all of it when the tag is there."""
    ledger = books.ledger
    ledger.note_outcome(DEST, layer(1), "mounted")
    ledger.note_outcome(DEST, layer(1), "existing")  # the client asks again
    ledger.note_outcome(DEST, layer(2), "existing", waited=2.0)
    ledger.note_outcome(DEST, layer(3), "uploaded", waited=1.0)
    ledger.note_upload(DEST, layer(3), began=1.0, ended=3.0)
    assert not ledger.accept("me", DEST, manifest(1, 2, 3), push_id="", is_last=False)
    assert await books.total() == Tally()
    ledger.accept("me", DEST, manifest(1, 4), push_id="", is_last=True)
    assert await books.total() == Tally(
        blobs_mounted=1, bytes_mounted=1000, blobs_waited=1, bytes_waited=1000, blobs_uploaded=1,
        bytes_uploaded=1000, blobs_existing=2, bytes_existing=1002, ms_waiting=2000, ms_uploading=2000, pushes=1,
    )  # fmt: skip


async def test_a_push_without_a_tag_is_counted_after_a_while(books: Books) -> None:
    """A push by digest alone is over when nothing has come for some time."""
    books.ledger.accept("me", DEST, manifest(1), push_id="", is_last=False)
    books.ledger.count_idle()
    assert await books.total() == Tally()
    books.clock.now = IDLE_SECONDS
    books.ledger.count_idle()
    assert (await books.total()).pushes == 1
    books.ledger.accept("me", DEST, manifest(2), push_id="", is_last=False)
    books.ledger.finish("other", DEST)
    assert (await books.total()).pushes == 1
    books.ledger.finish("me", DEST)
    assert (await books.total()).pushes == 2


async def test_a_named_push_is_counted_once(books: Books) -> None:
    """Further tags of a push that its client names are no further pushes; a hostile name is ignored."""
    for tag in range(3):
        assert books.ledger.accept("me", DEST, manifest(1), push_id="a-name_8", is_last=True) == (tag == 0)
    assert (await books.total()).pushes == 1
    for name in ("", "short", "a" * 9, "é" * 8, "a b c d ", "../../.."):
        assert not books.ledger.accept("me", DEST, manifest(1), push_id=name, is_last=True)
    assert (await books.total()).pushes == 7


async def test_pushes_of_several_clients_are_apart(books: Books) -> None:
    """A blob counts as mounted for the push whose manifest comes first, and exists for the other."""
    books.ledger.note_outcome(DEST, layer(1), "mounted")
    for caller in ("one", "two"):
        books.ledger.accept(caller, DEST, manifest(1), push_id="", is_last=True)
    total = await books.total()
    assert (total.pushes, total.blobs_mounted, total.blobs_existing) == (2, 1, 3)


@pytest.mark.parametrize(
    ("knowledge", "size", "fate"),
    [
        (LayerKnowledge(), 1000, "unknown"),
        (LayerKnowledge(in_dest=True), 1000, "gone"),
        (LayerKnowledge((repo("a/b"),)), 1000, "unmountable"),
    ],
)
async def test_an_uploaded_layer_says_why(books: Books, knowledge: LayerKnowledge, size: int, fate: str) -> None:
    """What the index knew before the upload says why it was needed."""
    del size
    traits = RegistryTraits()
    known = Knowledge({layer(1): knowledge}, traits)
    books.ledger.note_known(DEST, layer(1), known, served=False)
    books.ledger.note_outcome(DEST, layer(1), "uploaded")
    books.ledger.accept("me", DEST, manifest(1), push_id="", is_last=True)
    (day,) = await books.accounts.read_accounts([DAY])
    (account,) = day.layers
    assert account.uploaded == {fate: 1}
    assert day.total.pushes_without_index == 1


async def test_what_is_remembered_is_bounded(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many blobs the oldest are forgotten, of too many pushes the oldest are counted."""
    monkeypatch.setattr("crossmount.proxy.ledger.SEEN_MAX", 2)
    monkeypatch.setattr("crossmount.proxy.ledger.PUSHES_MAX", 2)
    for number in range(1, 5):
        books.ledger.note_outcome(DEST, layer(number), "mounted")
        books.ledger.accept(f"caller {number}", DEST, manifest(9), push_id="", is_last=False)
    assert (await books.total()).pushes == 2
    books.ledger.accept("me", DEST, manifest(1, 2, 3, 4), push_id="", is_last=True)
    assert (await books.total()).blobs_mounted == 2


def test_without_accounts_nothing_is_counted() -> None:
    """A user's own index without accounts costs nothing."""
    ledger = PushLedger(None, waits_for=lambda _: True)
    ledger.accept("me", DEST, manifest(1), push_id="", is_last=True)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20))))
def test_times_of_concurrent_uploads_count_once(spans: list[tuple[int, int]]) -> None:
    """The time of some uploads is the number of moments in which at least one was under way."""
    moments = {moment for began, length in spans for moment in range(began, began + length)}
    assert covered([(began, began + length) for began, length in spans]) == len(moments)


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of four layers and a config."""
    return make_layout(tmp_path / "image", make_layers(4, size=50_000))


async def counted(index: object, proxy: ProxyUnderTest) -> Savings:
    """Return what was counted, once all is written."""
    await until(lambda: proxy.app.active == 0)  # an accepted manifest is recorded after its answer
    await proxy.app.core.recorder.flush()
    await proxy.app.core.recorder.write_idle_pushes(seconds=0.0)
    today = datetime.now(UTC).date()
    return await read_savings(index, since=today - timedelta(days=1), until=today + timedelta(days=1))


def size_of(image: MadeImage) -> int:
    """Return the bytes of all blobs."""
    return sum(blob.size for blob in image.blobs)


@pytest.mark.parametrize("spooled", [True, False])
async def test_an_unchanged_client_is_counted(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage, tmp_path: Path, spooled: bool
) -> None:
    """Skopeo pushes twice through the proxy: the first push uploads, the second mounts."""
    skopeo = needs("skopeo")
    async with (
        RedisMountIndex(async_link(valkey.url)) as index,
        proxy_before(
            f"http://{scripted_registry.address}", index=index, spool=tmp_path / "spool" if spooled else None
        ) as proxy,
    ):
        for name in ("one", "two"):
            dest = f"docker://{proxy.address[0]}:{proxy.address[1]}/team/{name}:1"
            source = f"oci:{image.path}:latest"
            await run_quietly(skopeo, "--insecure-policy", "copy", "--dest-tls-verify=false", source, dest)
        savings = await counted(index, proxy)
    total = savings.total
    assert total.pushes == 2
    assert (total.bytes_uploaded, total.bytes_mounted) == (size_of(image), size_of(image))
    assert list(savings.by_row) == [(scripted_registry.address, "team")]
    assert total.ms_uploading > 0 or not spooled


async def run_quietly(*command: str) -> None:
    """Run a program in a thread."""
    import asyncio  # noqa: PLC0415

    await asyncio.to_thread(run, *command)


async def test_a_push_of_crossmount_through_the_proxy_is_counted_once(
    scripted_registry: ScriptedRegistry, valkey: Server, image: MadeImage
) -> None:
    """The client and the proxy share an index, and both count: each push is in the accounts once."""
    async with (
        RedisMountIndex(async_link(valkey.url)) as index,
        RedisMountIndex(async_link(valkey.url)) as own,
        proxy_before(f"http://{scripted_registry.address}", index=own) as proxy,
    ):
        host, port = proxy.address
        for name in ("one", "two", "three"):
            dest = f"{host}:{port}/team/{name}:1"
            await push(image.path, dest, tags=["2", "3"], index=index, options=ClientOptions(plain_http=True))
        savings = await counted(index, proxy)
    total = savings.total
    assert total.pushes == 3
    assert total.bytes == 3 * size_of(image)
    assert total.bytes_uploaded == size_of(image)
    assert total.bytes_mounted == 2 * size_of(image)


async def test_a_push_with_another_index_than_the_proxys_is_in_both(
    scripted_registry: ScriptedRegistry, image: MadeImage
) -> None:
    """The proxy and the client each count in their own index."""
    index, own = MemoryMountIndex(), MemoryMountIndex()
    async with proxy_before(f"http://{scripted_registry.address}", index=own) as proxy:
        host, port = proxy.address
        await push(image.path, f"{host}:{port}/team/app:1", index=index, options=ClientOptions(plain_http=True))
        assert (await counted(own, proxy)).total.pushes == 1
        assert (await counted(index, proxy)).total.pushes == 1
