"""What the log says of an index that stops serving, and observers that fail."""

import logging
from pathlib import Path

import pytest

import crossmount
from crossmount import ClientOptions, IndexRefusedError, IndexUnavailableError, MemoryMountIndex
from crossmount import asyncio as aio
from crossmount.events import Event
from crossmount.index.outage import QUIET_SECONDS, OutageLog
from crossmount.oci import Digest, Repository
from crossmount.testing import running_registry
from support.images import make_layers, make_layout

LAYER, DEST = Digest.of(b"layer"), Repository("r.example", "a")
PLAIN = ClientOptions(plain_http=True)


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the messages of the index's logger at a level."""
    return [r.getMessage() for r in caplog.records if r.name == "crossmount.index" and r.levelno == level]


def test_pushes_without_a_server_warn_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """An outage that many pushes and guards meet is one warning with the address and without the password."""
    image = make_layout(tmp_path / "image", make_layers(1, size=100))
    with running_registry() as registry, crossmount.open_index("redis://:hush-hush@127.0.0.1:1/0") as index:
        for number in range(3):
            report = crossmount.push(
                str(image.path), f"{registry.address}/a{number}:1", index=index, options=PLAIN
            )
            assert report.index == "degraded"
            assert "127.0.0.1:1" in str(report.index_reason)
        crossmount.GuardedIndex(index).look_up([LAYER], DEST)
    (warning,) = told(caplog, logging.WARNING)
    assert "127.0.0.1:1" in warning
    assert "hush-hush" not in warning


def test_a_push_with_a_healthy_index_warns_of_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Without an outage nothing is logged, and the report has no reason."""
    image = make_layout(tmp_path / "image", make_layers(1, size=100))
    with running_registry() as registry:
        report = crossmount.push(
            str(image.path), f"{registry.address}/a:1", index=MemoryMountIndex(), options=PLAIN
        )
    assert (report.index, report.index_reason) == ("ok", None)
    assert not told(caplog, logging.WARNING)


class Failing(aio.MemoryMountIndex):
    """An index that fails as it is told."""

    error: Exception | None = None

    async def must_mount(self, layer: str) -> bool:
        """Fail."""
        if self.error is not None:
            raise self.error
        return await super().must_mount(layer)


async def test_the_end_of_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A second outage is a second warning, and the end of each is an INFO, whichever guard meets it."""
    caplog.set_level(logging.INFO)
    index = Failing()
    for _ in range(2):
        index.error = IndexUnavailableError("gone")
        for _ in range(3):
            await aio.GuardedIndex(index).must_mount(LAYER)
        index.error = None
        for _ in range(3):
            await aio.GuardedIndex(index).must_mount(LAYER)
    assert told(caplog, logging.WARNING) == ["going on without the index: gone"] * 2
    assert told(caplog, logging.INFO) == ["the index serves again"] * 2


def test_an_index_that_refuses_now_and_then_is_one_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Answers between refusals do not end an outage: a server that refuses writes is one warning."""
    caplog.set_level(logging.INFO)
    log = OutageLog()
    for now in range(0, 600, 10):
        log.failed(IndexRefusedError("read only"), now)
        log.served(now + 1)
    assert (len(told(caplog, logging.WARNING)), told(caplog, logging.INFO)) == (1, [])
    log.served(600 + QUIET_SECONDS)
    assert len(told(caplog, logging.INFO)) == 1


def test_an_observer_that_raises_ends_no_push(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The errors of an observer are logged, the first one with its traceback, and the push goes on."""
    image = make_layout(tmp_path / "image", make_layers(2, size=100))

    def observe(event: Event) -> None:
        raise RuntimeError(type(event).__name__)

    with running_registry() as registry:
        dest = f"{registry.address}/a:1"
        report = crossmount.push(str(image.path), dest, index=MemoryMountIndex(), options=PLAIN, observer=observe)
        assert report.count("uploaded") == 3
        index = MemoryMountIndex()
        assert crossmount.scan(registry.address, index=index, options=PLAIN, observer=observe).failed == 0
        assert crossmount.copy(dest, f"{registry.address}/b", options=PLAIN, observer=observe).failures == ()
        crossmount.prune(index, options=PLAIN, observer=observe)
    warnings = [record for record in caplog.records if record.name == "crossmount.events"]
    assert warnings
    assert all(record.exc_info for record in warnings)
