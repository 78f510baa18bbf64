import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from crossmount import events
from crossmount.errors import InvalidInputError
from crossmount.index import MemoryMountIndex, RegistryTraits
from crossmount.mount import Mounter, MountStatus
from crossmount.mount.findings import UNREADABLE_SECONDS
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import ClientOptions, Mounted, RegistryClient, RetryPolicy, UploadSession
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry

CONTENT = b"a layer" * 1000
LAYER = Digest.of(CONTENT)
QUICK = ClientOptions(plain_http=True, retry=RetryPolicy(attempts=2, outage=0.0, wait_initial=0.01, wait_max=0.02))


@dataclass
class Bench:
    """A registry, an index, and a mounter."""

    registry: ScriptedRegistry
    index: MemoryMountIndex
    client: RegistryClient
    mounter: Mounter
    seen: list[events.Event] = field(default_factory=list)

    @property
    def dest(self) -> Repository:
        """The destination of mounts."""
        return self.repository("team/dest")

    def repository(self, name: str) -> Repository:
        """Return a repository of the registry."""
        return Repository.parse(f"{self.registry.address}/{name}")

    async def add(self, name: str, *, content: bytes | None = CONTENT, must_mount: bool = False) -> Repository:
        """Add a source to the index; the registry has the layer there unless `content` is None."""
        if content is not None:
            self.registry.put_blob(name, content)
        await self.index.add_source(LAYER, self.repository(name), must_mount=must_mount)
        return self.repository(name)

    async def settled(self) -> None:
        """Wait until background checks have ended."""
        await self.mounter.aclose()


@asynccontextmanager
async def bench(*faults: Fault, options: RegistryOptions | None = None) -> AsyncIterator[Bench]:
    """Start a registry with these options, and an empty index."""
    seen: list[events.Event] = []
    async with (
        ScriptedRegistry(options or RegistryOptions(), faults=faults) as registry,
        RegistryClient(registry.address, options=QUICK) as client,
    ):
        index = MemoryMountIndex()
        async with Mounter(client, index, observer=seen.append) as mounter:
            yield Bench(registry, index, client, mounter, seen)


async def test_a_known_source_is_mounted_and_dest_becomes_one() -> None:
    """MOUNTED with one request, and dest is a source from then on."""
    async with bench() as at:
        source = await at.add("team/base")
        result = await at.mounter.mount(LAYER, at.dest)
        assert (result.status, result.source, result.session) == (MountStatus.MOUNTED, source, None)
        assert len(at.registry.requests) == 1
        assert at.dest in await at.index.sources(LAYER, at.repository("another"))


async def test_an_unknown_layer_is_skipped_with_its_session_open() -> None:
    """SKIPPED: no source is known, and the only request opened the session for the upload."""
    async with bench() as at:
        result = await at.mounter.mount(LAYER, at.dest)
        assert result.status is MountStatus.SKIPPED
        assert result.session is not None
        assert len(at.registry.requests) == 1
        await at.client.cancel_upload(result.session)
        assert at.registry.open_sessions == ()


async def test_a_source_on_another_registry_only_is_unavailable() -> None:
    """UNAVAILABLE: sources are known, none on this registry."""
    async with bench() as at:
        await at.index.add_source(LAYER, Repository.parse("elsewhere.example/team/base"))
        result = await at.mounter.mount(LAYER, at.dest)
        assert result.status is MountStatus.UNAVAILABLE
        assert result.session is not None


async def test_a_registry_that_refuses_every_mount_starts_the_push() -> None:
    """PUSH_STARTED: the 202 is the session for the upload, and no other session stays open."""
    async with bench(options=RegistryOptions(mounts=False)) as at:
        for number in range(3):
            await at.add(f"team/base-{number}")
        result = await at.mounter.mount(LAYER, at.dest)
        assert (result.status, result.attempts) == (MountStatus.PUSH_STARTED, 3)
        await at.settled()
        assert result.session is not None
        await at.settled()
        assert len(at.registry.open_sessions) == 1


async def test_must_mount_is_never_turned_into_a_session() -> None:
    """MOUNT_REQUIRED: no mount succeeded, and no session stays open."""
    async with bench() as at:
        await at.add("team/base", content=None, must_mount=True)
        result = await at.mounter.mount(LAYER, at.dest)
        assert (result.status, result.session) == (MountStatus.MOUNT_REQUIRED, None)
        assert at.registry.open_sessions == ()


async def test_a_registry_that_opens_no_session_at_all_is_a_failure() -> None:
    """FAILURE: every request was refused, and the result has the error."""
    refusal = Fault(method="POST", action=Reply(status=403), times=None)
    async with bench(refusal) as at:
        await at.add("team/base")
        result = await at.mounter.mount(LAYER, at.dest)
        assert result.status is MountStatus.FAILURE
        assert result.error is not None
        assert result.session is None


async def test_a_registry_that_finds_layers_by_itself_mounts_without_a_source() -> None:
    """MOUNTED without `from`, and the trait is recorded in the index."""
    async with bench(options=RegistryOptions(finds=True)) as at:
        at.registry.put_blob("somebody/else", CONTENT)
        result = await at.mounter.mount(LAYER, at.dest)
        assert (result.status, result.source) == (MountStatus.MOUNTED, None)
        assert (await at.index.look_up([LAYER], at.dest)).traits.finds is True


async def test_a_source_that_lost_the_layer_is_forgotten_by_all() -> None:
    """After a 404 at the source the index forgets it, and the next candidate mounts."""
    async with bench() as at:
        gone = await at.add("team/dest-old", content=None)
        kept = await at.add("far/away")
        result = await at.mounter.mount(LAYER, at.dest)
        await at.settled()
        assert (result.status, result.source) == (MountStatus.MOUNTED, kept)
        assert gone not in await at.index.sources(LAYER, at.dest)
        assert events.SourceDropped(layer=LAYER, source=gone, reason="gone") in at.seen


async def test_an_unreadable_source_is_excluded_by_this_process_only() -> None:
    """After a 401 at the source it stays in the index, and this mounter does not try it again."""
    options = RegistryOptions(denied_sources=frozenset({"secret/base"}))
    denied = Fault(method="HEAD", path="/v2/secret/base/*", action=Reply(status=401), times=None)
    async with bench(denied, options=options) as at:
        secret = await at.add("secret/base")
        first = await at.mounter.mount(LAYER, at.dest)
        await at.settled()
        second = await at.mounter.mount(LAYER, at.dest)
        assert (first.attempts, second.attempts) == (1, 0)
        assert second.status is MountStatus.PUSH_STARTED
        assert secret in await at.index.sources(LAYER, at.dest)
        assert events.SourceDropped(layer=LAYER, source=secret, reason="unreadable") in at.seen


async def test_a_registry_that_does_not_mount_is_remembered_and_that_is_shared() -> None:
    """If the source has the layer and the mount gets a 202, `mounts=False` is recorded in the index."""
    async with bench(options=RegistryOptions(mounts=False)) as at:
        await at.add("team/base")
        await at.mounter.mount(LAYER, at.dest)
        await at.settled()
        assert (await at.index.look_up([LAYER], at.dest)).traits.mounts is False
        async with Mounter(at.client, at.index) as another:
            result = await another.mount(LAYER, at.dest)
        assert (result.status, result.attempts) == (MountStatus.PUSH_STARTED, 0)


async def test_one_refusal_does_not_change_the_trait_of_a_registry() -> None:
    """A single 202 does not change the trait of a registry that has mounted."""
    async with bench(options=RegistryOptions(after_manifest=True)) as at:
        await at.index.record_traits(at.registry.address, RegistryTraits(mounts=True))
        source = await at.add("team/base")
        await at.mounter.mount(LAYER, at.dest)
        await at.settled()
        assert (await at.index.look_up([LAYER], at.dest)).traits.mounts is True
        assert source in await at.index.sources(LAYER, at.dest)


async def test_a_background_check_without_an_answer_changes_nothing() -> None:
    """A failed background check changes nothing in the index."""
    options = RegistryOptions(mounts=False)
    async with bench(Fault(method="HEAD", action=Reply(status=500), times=None), options=options) as at:
        source = await at.add("team/base")
        await at.mounter.mount(LAYER, at.dest)
        await at.settled()
        assert await at.index.sources(LAYER, at.dest) == (source,)
        assert (await at.index.look_up([LAYER], at.dest)).traits == RegistryTraits()


class SignallingClient(RegistryClient):
    """A client that sets an event when it sends the n-th mount request."""

    def __init__(self, registry: str, *, nth: int) -> None:
        super().__init__(registry, options=QUICK)
        self._left = nth
        self.reached = asyncio.Event()

    async def mount_blob(
        self, dest: str | Located, digest: str, source: str | Located | None
    ) -> Mounted | UploadSession:
        """Set the event, and mount."""
        self._left -= 1
        if self._left == 0:
            asyncio.get_running_loop().call_soon(self.reached.set)
        return await super().mount_blob(dest, digest, source)


async def test_a_cancelled_mount_leaves_no_session() -> None:
    """When a mount is cancelled, the sessions that it opened are cancelled."""
    held = Fault(method="POST", skip=1, delay=30.0, times=None)
    async with bench(held, options=RegistryOptions(mounts=False)) as at:
        await at.add("team/base-1")
        await at.add("team/base-2")
        async with SignallingClient(at.registry.address, nth=2) as client, Mounter(client, at.index) as mounter:
            task = asyncio.create_task(mounter.mount(LAYER, at.dest))
            await client.reached.wait()
            assert [*at.registry.open_sessions] != []
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not at.registry.open_sessions


async def test_a_mounter_serves_its_own_registry_only() -> None:
    """A repository on another registry is refused before any request."""
    async with bench() as at:
        with pytest.raises(InvalidInputError, match="is not on"):
            await at.mounter.mount(LAYER, Repository.parse("other.example/team/app"))
        assert at.registry.requests == []


async def test_a_session_that_is_being_opened_when_the_mount_is_cancelled_is_cancelled_too() -> None:
    """A session that the registry is opening during the cancellation is cancelled too."""
    late = Fault(method="POST", delay=0.3)
    async with bench(late, options=RegistryOptions(mounts=False)) as at:
        async with SignallingClient(at.registry.address, nth=1) as client, Mounter(client, at.index) as mounter:
            task = asyncio.create_task(mounter.mount(LAYER, at.dest))
            await client.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [record.method for record in at.registry.requests] == ["POST", "DELETE"]
        assert not at.registry.open_sessions


async def test_a_denied_source_is_asked_again_when_its_time_is_over() -> None:
    """After an hour an unreadable source is a candidate again."""
    now = 0.0
    denied = Fault(method="HEAD", path="/v2/secret/base/*", action=Reply(status=401))
    options = RegistryOptions(denied_sources=frozenset({"secret/base"}))
    async with bench(denied, options=options) as at, Mounter(at.client, at.index, clock=lambda: now) as mounter:
        at.index._denials._clock = lambda: now
        await at.add("secret/base")
        await mounter.mount(LAYER, at.dest)
        await mounter.aclose()
        assert (await mounter.mount(LAYER, at.dest)).attempts == 0
        now = UNREADABLE_SECONDS + 1
        assert (await mounter.mount(LAYER, at.dest)).attempts == 1
