"""The blocking API from threads, event loops and forked processes."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import crossmount
from crossmount import events
from crossmount._blocking import run_now
from crossmount._portal import PORTAL
from crossmount.testing import ScriptedRegistry, running_registry
from support.images import MadeImage, make_layers, make_layout
from support.servers import Server
from support.waiting import PATIENCE

OPTIONS = crossmount.ClientOptions(plain_http=True)


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of three layers."""
    return make_layout(tmp_path / "image", make_layers(3))


def push_with(valkey: Server, registry: ScriptedRegistry, image: MadeImage, name: str) -> crossmount.PushReport:
    """Push with a new index object."""
    with crossmount.open_index(valkey.url) as index:
        return crossmount.push(image.path, f"{registry.address}/{name}:1", index=index, options=OPTIONS)


def test_push_blocks(valkey: Server, image: MadeImage) -> None:
    """A blocking push returns the report of an asynchronous one."""
    with running_registry() as registry:
        assert push_with(valkey, registry, image, "team/a").bytes("uploaded") > 0
        assert push_with(valkey, registry, image, "team/b").bytes("uploaded") == 0


def test_copy_blocks(valkey: Server, image: MadeImage, tmp_path: Path) -> None:
    """Blocking copies in threads share a cache, registries and a fleet."""
    cache = crossmount.BlobCache(tmp_path / "cache")
    with (
        running_registry() as a,
        running_registry() as b,
        crossmount.open_index(valkey.url) as index,
        crossmount.Fleet(index) as fleet,
        crossmount.Registries(OPTIONS) as registries,
        ThreadPoolExecutor(2) as pool,
    ):
        crossmount.push(image.path, f"{a.address}/team/app:1", options=OPTIONS)
        reports = list(
            pool.map(
                lambda n: crossmount.copy(
                    f"{a.address}/team/app:1",
                    f"{b.address}/app-{n}",
                    index=index,
                    fleet=fleet,
                    registries=registries,
                    cache=cache,
                ),
                range(4),
            )
        )
        assert {report.copied[0].digest for report in reports} == {image.root.digest}
        assert {b.holdings.find(f"app-{n}").tags["1"] for n in range(4)} == {image.root.digest}
        with pytest.raises(crossmount.CopyFailedError):
            crossmount.copy(f"{a.address}/nothing:1", f"{b.address}/x", registries=registries)


def test_a_thread_pool_shares_one_index(valkey: Server, image: MadeImage) -> None:
    """Threads can push at once through one index object."""
    with running_registry() as registry, crossmount.open_index(valkey.url) as index, ThreadPoolExecutor(4) as pool:
        reports = list(
            pool.map(
                lambda number: crossmount.push(
                    image.path, f"{registry.address}/team/{number}:1", index=index, options=OPTIONS
                ),
                range(8),
            )
        )
    assert {report.digest for report in reports} == {image.root.digest}
    assert all(report.index == "ok" for report in reports)


async def test_a_running_event_loop_can_block_on_it(valkey: Server, image: MadeImage) -> None:
    """The blocking API can be called from a running event loop."""
    with running_registry() as registry:
        assert push_with(valkey, registry, image, "team/a").index == "ok"


def test_a_forked_process_goes_on(valkey: Server, image: MadeImage) -> None:
    """A child that is forked after the first use can push with the objects of its parent."""
    with (
        running_registry() as registry,
        crossmount.open_index(valkey.url) as index,
        crossmount.RegistryClient(registry.address, options=OPTIONS) as client,
    ):
        crossmount.push(image.path, f"{registry.address}/team/a:1", index=index, client=client)
        child = os.fork()
        if child == 0:
            code = 1
            signal.alarm(20)  # a child that hangs must not outlive the test
            try:
                report = crossmount.push(image.path, f"{registry.address}/team/b:1", index=index, client=client)
                code = 0 if report.bytes("uploaded") == 0 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        crossmount.push(image.path, f"{registry.address}/team/c:1", index=index, client=client)


def test_mounter_and_client_block(image: MadeImage) -> None:
    """The methods of the client and the mounter return what their asynchronous counterparts return."""
    content = b"content"
    with (
        running_registry() as registry,
        crossmount.RegistryClient(registry.address, options=OPTIONS) as client,
        crossmount.MemoryMountIndex() as index,
        crossmount.Mounter(client, index) as mounter,
    ):
        source = crossmount.Repository.parse(f"{registry.address}/team/base")
        dest = crossmount.Repository.parse(f"{registry.address}/team/app")
        layer = registry.put_blob(source.name, content)
        index.add_source(layer, source)
        result = mounter.mount(layer, dest)
        assert (result.status, result.source) == (crossmount.MountStatus.MOUNTED, source)
        assert client.head_blob(dest, layer) == len(content)
        assert b"".join(client.stream_blob(dest, layer)) == content
        next(pieces := client.stream_blob(dest, layer))
        pieces.close()  # type: ignore[attr-defined]  # a generator, closed before its end
        crossmount.push(image.path, f"{dest}:1", client=client)
        assert list(client.list_tags(dest)) == ["1"]


def test_an_observer_that_calls_back_is_reported_so(image: MadeImage) -> None:
    """A call on crossmount's own loop, which would wait for itself, is an error that says what to do."""
    raised: list[Exception] = []

    def observer(event: events.Event) -> None:
        if isinstance(event, events.ManifestPushed):
            try:
                PORTAL.call(lambda: asyncio.sleep(0))
            except crossmount.CrossmountError as error:
                raised.append(error)

    with running_registry() as registry:
        crossmount.push(image.path, f"{registry.address}/a:1", options=OPTIONS, observer=observer)
    assert "crossmount.asyncio" in str(raised[0])


def test_errors_come_through_as_they_are(tmp_path: Path) -> None:
    """The caller gets the exception of the coroutine."""
    with pytest.raises(crossmount.InvalidLayoutError):
        crossmount.push(tmp_path / "nowhere", "r.example/a:1")


def test_a_coroutine_that_waits_is_refused() -> None:
    """A coroutine that needs an event loop, and has none, is an error."""
    with pytest.raises(RuntimeError, match="no event loop"):
        run_now(_waiting())


async def _waiting() -> None:
    await _Pending()


class _Pending:
    """An awaitable that suspends without a loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def test_an_interrupt_cancels_and_cleans_up(image: MadeImage, tmp_path: Path) -> None:
    """Ctrl-C ends a blocking push and cancels its upload session, and the interpreter exits."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        """
import sys, crossmount
from crossmount import events
options = crossmount.ClientOptions(plain_http=True)
def observer(event):
    if isinstance(event, events.BlobProgress):
        print("uploading", flush=True)
crossmount.push(sys.argv[1], sys.argv[2], options=options, observer=observer)
"""
    )
    from crossmount.testing import Fault  # noqa: PLC0415 beside its use

    with running_registry() as registry:
        registry.play(Fault(method="PUT", delay=30.0, times=None))
        process = subprocess.Popen(
            [sys.executable, str(script), str(image.path), f"{registry.address}/team/a:1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"uploading\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
        assert b"KeyboardInterrupt" in said
        assert registry.open_sessions == ()
        assert not registry.matching(path="*/manifests/*")


def test_the_portal_is_one_thread(image: MadeImage) -> None:
    """All threads use one background loop."""
    del image
    names = [PORTAL.call(_thread_name) for _ in range(3)]
    assert set(names) == {"crossmount"}


async def _thread_name() -> str:
    return threading.current_thread().name
