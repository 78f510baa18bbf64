"""Registries that answer 404 for repositories that a caller must not read: other callers may see them."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crossmount import events
from crossmount.index import MemoryMountIndex
from crossmount.mount import Mounter, MountStatus
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RegistryClient, RetryPolicy
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.given import GivenCredentials
from crossmount.testing import (
    BasicAuth,
    Fault,
    IgnoreMount,
    RegistryOptions,
    Reply,
    ScriptedRegistry,
)

LAYER = Digest.of(b"layer")
OTHER = Digest.of(b"other")
PLAIN = ClientOptions(plain_http=True, retry=RetryPolicy(attempts=2, outage=0.0, wait_initial=0.01, wait_max=0.02))
HIDDEN = (
    Fault(method="POST", query="*from=ann*", times=None, action=IgnoreMount()),
    Fault(path="/v2/ann/secret/*", times=None, action=Reply(status=404, code="NAME_UNKNOWN")),
)


@dataclasses.dataclass
class Bench:
    """A private registry, an index with LAYER in ann/secret, and bob's mounter."""

    registry: ScriptedRegistry
    index: MemoryMountIndex
    mounter: Mounter
    secret: Repository
    seen: list[events.Event]

    async def mount(self, layer: Digest = LAYER) -> tuple[MountStatus, int]:
        """Mount a layer; return the status and the number of sources tried."""
        result = await self.mounter.mount(layer, Repository(self.registry.address, "bob/app"))
        await self.mounter.aclose()
        return result.status, result.attempts


@asynccontextmanager
async def bench(*faults: Fault) -> AsyncIterator[Bench]:
    """Start a registry on which bob has a password."""
    seen: list[events.Event] = []
    options = RegistryOptions(auth=BasicAuth(users={"bob": "pw"}))
    async with ScriptedRegistry(options, faults=faults) as registry:
        index, secret = MemoryMountIndex(), Repository(registry.address, "ann/secret")
        await index.add_source(LAYER, secret)
        await index.add_source(OTHER, secret)
        bob = GivenCredentials(registry.address, Credential("bob", "pw", origin="a test"))
        async with (
            RegistryClient(registry.address, options=PLAIN, credentials=bob) as client,
            Mounter(client, index, observer=seen.append) as mounter,
        ):
            yield Bench(registry, index, mounter, secret, seen)


async def test_a_source_that_is_hidden_from_one_is_not_forgotten_for_all() -> None:
    """A source that answers 404 to one account stays in the index, and this account does not try it again."""
    async with bench(*HIDDEN) as at:
        assert await at.mount() == (MountStatus.PUSH_STARTED, 1)
        assert at.secret in await at.index.locations(LAYER)
        assert events.SourceDropped(layer=LAYER, source=at.secret, reason="unreadable") in at.seen
        assert await at.mount() == (MountStatus.PUSH_STARTED, 0)


async def test_a_hidden_layer_does_not_exclude_other_layers() -> None:
    """A repository without tags is not hidden by that: its other layers are still mounted."""
    async with bench() as at:
        at.registry.put_blob("ann/secret", b"other")
        at.registry.play(Fault(path="*tags/list", times=None, action=Reply(status=404, code="NAME_UNKNOWN")))
        assert await at.mount() == (MountStatus.PUSH_STARTED, 1)
        assert await at.mount(OTHER) == (MountStatus.MOUNTED, 1)


async def test_a_source_that_lost_a_layer_is_forgotten_where_its_tags_can_be_listed() -> None:
    """A 404 is trusted, also on a private registry, if the account can list the repository's tags."""
    async with bench() as at:
        at.registry.put_blob("ann/secret", b"{}")
        assert await at.mount() == (MountStatus.PUSH_STARTED, 1)
        assert at.secret not in await at.index.locations(LAYER)
        assert events.SourceDropped(layer=LAYER, source=at.secret, reason="gone") in at.seen


async def test_a_repository_whose_tags_are_denied_is_unreadable() -> None:
    """A 403 for the tags means that the repository is unreadable, whatever the 404 for the layer."""
    denied = Fault(path="*tags/list", times=None, action=Reply(status=403, code="DENIED"))
    async with bench(denied) as at:
        at.registry.put_blob("ann/secret", b"other")
        assert await at.mount() == (MountStatus.PUSH_STARTED, 1)
        assert at.secret in await at.index.locations(LAYER)
        assert await at.mount(OTHER) == (MountStatus.PUSH_STARTED, 0)
