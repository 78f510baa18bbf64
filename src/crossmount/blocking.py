"""The public names, blocking: each function and class runs its counterpart of `crossmount.asyncio`.

What talks to registries runs on one background event loop (`_portal`); `observer` is called on its thread.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import IO, TYPE_CHECKING

from crossmount import asyncio as aio
from crossmount import events
from crossmount._blocking import documented_as, run_now
from crossmount._portal import OnPortal, asynchronous_part, blocking_function, iterator, method
from crossmount._shared import *
from crossmount.discovery.scan import REQUESTS
from crossmount.index.accounts import accounts_of
from crossmount.index.blocking import GuardedIndex as GuardedIndex
from crossmount.index.blocking import MemoryMountIndex as MemoryMountIndex
from crossmount.index.blocking import MountableLayers as MountableLayers
from crossmount.index.blocking import MountIndex as MountIndex
from crossmount.index.blocking import RedisMountIndex as RedisMountIndex
from crossmount.index.blocking import open_index as open_index
from crossmount.index.blocking import threaded
from crossmount.maintenance.export_import import import_now
from crossmount.maintenance.prune import REQUESTS as PRUNE_REQUESTS
from crossmount.oci import Located
from crossmount.oci.image_spool import SPOOL_LIMIT
from crossmount.oci.layout import Image
from crossmount.registry import AnyCredentials

if not TYPE_CHECKING:  # type checkers export what is defined here, and what is imported by `*` or as itself
    __all__ = aio.__all__


async def _pieces(
    _client: aio.RegistryClient, repository: str | Located, digest: str, *, offset: int = 0
) -> AsyncIterator[bytes]:
    """Yield a blob's bytes from `offset` on. If all of them are read, they are verified.

    Args:
        repository: the repository.
        digest: the blob's digest.
        offset: the first byte to read.

    Raises:
        RegistryRefusedError: with status 404 if the repository does not have the blob.
        InvalidAnswerError: at the end: the bytes have another digest.
    """
    async with _client.stream_blob(repository, digest, offset=offset) as stream:
        async for piece in stream:
            yield piece


_pieces.__name__ = "stream_blob"  # as `help` and tracebacks name the method


@documented_as(aio.RegistryClient)
class RegistryClient(OnPortal[aio.RegistryClient]):
    """One registry over HTTP."""

    def __init__(
        self,
        registry: str | Located,
        *,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        credentials: AnyCredentials | None = None,
        observer: events.Observer = events.ignore,
    ) -> None:
        super().__init__(
            lambda: aio.RegistryClient(registry, options=options, credentials=credentials, observer=observer)
        )

    ping = method(aio.RegistryClient.ping)
    head_blob = method(aio.RegistryClient.head_blob)
    mount_blob = method(aio.RegistryClient.mount_blob)
    start_upload = method(aio.RegistryClient.start_upload)
    upload_blob = method(aio.RegistryClient.upload_blob)
    cancel_upload = method(aio.RegistryClient.cancel_upload)
    head_manifest = method(aio.RegistryClient.head_manifest)
    get_manifest = method(aio.RegistryClient.get_manifest)
    put_manifest = method(aio.RegistryClient.put_manifest)
    list_tags = iterator(aio.RegistryClient.list_tags)
    catalog = iterator(aio.RegistryClient.catalog)
    stream_blob = iterator(_pieces)


@documented_as(aio.Mounter)
class Mounter(OnPortal[aio.Mounter]):
    """Mounts layers on one registry, from the repositories that the index names."""

    def __init__(
        self, client: RegistryClient, index: MountableLayers, *, observer: events.Observer = events.ignore
    ) -> None:
        super().__init__(lambda: aio.Mounter(client.asynchronous, threaded(index), observer=observer))

    mount = method(aio.Mounter.mount)


@documented_as(aio.Fleet)
class Fleet(OnPortal[aio.Fleet]):
    """Decides who uploads a layer that many pushers have at once; the others wait and mount it."""

    def __init__(self, index: MountableLayers, *, observer: events.Observer = events.ignore) -> None:
        super().__init__(lambda: aio.Fleet(threaded(index), observer=observer))


@documented_as(aio.Registries)
class Registries(OnPortal[aio.Registries]):
    """One client for each of many registries, with their connections, tokens and measured distances."""

    def __init__(
        self,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        *,
        special: Mapping[str, ClientOptions] | None = None,
        observer: events.Observer = events.ignore,
    ) -> None:
        super().__init__(lambda: aio.Registries(options, special=special, observer=observer))


@documented_as(aio.copy)
def copy(
    source: str | Reference,
    *dests: str | Reference,
    all_tags: bool = False,
    index: MountableLayers | None = None,
    registries: Registries | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    prefer: Sequence[str] = (),
    cache: BlobCache | None = None,
    referrers: bool = False,
    allow_transfer: bool = False,
    platforms: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
    observer: events.Observer = events.ignore,
) -> CopyReport:
    """Copy an image from one registry to others: manifests byte for byte, each layer in the cheapest way."""
    return blocking_function(aio.copy)(
        source,
        *dests,
        all_tags=all_tags,
        index=None if index is None else threaded(index),
        registries=asynchronous_part("registries", registries, Registries),
        options=options,
        prefer=prefer,
        cache=cache,
        referrers=referrers,
        allow_transfer=allow_transfer,
        platforms=platforms,
        limits=limits,
        patience=patience,
        fleet=asynchronous_part("fleet", fleet, Fleet),
        observer=observer,
    )


@documented_as(aio.push)
def push(
    source: str | Path | Image,
    dest: str | Reference,
    *,
    tags: Sequence[str] = (),
    platforms: Sequence[str] = (),
    index: MountableLayers | None = None,
    client: RegistryClient | None = None,
    registries: Registries | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    origins: Sequence[str] | None = None,
    spool_limit: int = SPOOL_LIMIT,
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
    ignore_must_mount: bool = False,
    observer: events.Observer = events.ignore,
) -> PushReport:
    """Push an image: mount the layers that the registry has, upload the rest."""
    return blocking_function(aio.push)(
        source,
        dest,
        tags=tags,
        platforms=platforms,
        index=None if index is None else threaded(index),
        client=asynchronous_part("client", client, RegistryClient),
        registries=asynchronous_part("registries", registries, Registries),
        options=options,
        origins=origins,
        spool_limit=spool_limit,
        limits=limits,
        patience=patience,
        fleet=asynchronous_part("fleet", fleet, Fleet),
        ignore_must_mount=ignore_must_mount,
        observer=observer,
    )


@documented_as(aio.scan)
def scan(
    registry: str | Located,
    *,
    index: MountableLayers,
    repositories: Iterable[str] | None = None,
    patterns: Iterable[str] = (),
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    requests: int = REQUESTS,
    since_last: bool = False,
    afresh: bool = False,
    observer: events.Observer = events.ignore,
) -> ScanReport:
    """Record in the index which layers a registry has."""
    return blocking_function(aio.scan)(
        registry,
        index=threaded(index),
        repositories=repositories,
        patterns=patterns,
        client=asynchronous_part("client", client, RegistryClient),
        options=options,
        requests=requests,
        since_last=since_last,
        afresh=afresh,
        observer=observer,
    )


@documented_as(aio.locality)
def locality(
    image: str | Path | Reference | Image,
    registries: Iterable[str],
    *,
    index: MountableLayers,
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
) -> dict[str, int]:
    """Return how many bytes of an image each registry has, as far as the index knows."""
    own = asynchronous_part("client", client, RegistryClient)
    return blocking_function(aio.locality)(image, registries, index=threaded(index), client=own, options=options)


@documented_as(aio.read_savings)
def read_savings(index: MountableLayers, *, since: date, until: date) -> Savings:
    """Read the accounts of a period, in one round trip."""
    return run_now(aio.read_savings(accounts_of(index), since=since, until=until))


@documented_as(aio.index_info)
def index_info(index: MountableLayers, *, sample: int | None = None) -> IndexInfo:
    """Count the layers and sources of an index; with `sample`, estimate them from about that many keys."""
    return blocking_function(aio.index_info)(threaded(index), sample=sample)


@documented_as(aio.prune)
def prune(
    index: MountableLayers,
    *,
    registry: str | None = None,
    patterns: Iterable[str] = (),
    sample: float = 100.0,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    requests: int = PRUNE_REQUESTS,
    dry_run: bool = False,
    afresh: bool = False,
    observer: events.Observer = events.ignore,
) -> PruneReport:
    """Ask registries whether they still have the sources in the index, and remove those that are gone."""
    return blocking_function(aio.prune)(
        threaded(index),
        registry=registry,
        patterns=patterns,
        sample=sample,
        options=options,
        requests=requests,
        dry_run=dry_run,
        afresh=afresh,
        observer=observer,
    )


@documented_as(aio.export_index)
def export_index(
    index: MountableLayers, file: IO[bytes], *, observer: events.Observer = events.ignore
) -> MoveReport:
    """Write all layers of an index as JSON lines, which `import_index` reads."""
    return blocking_function(aio.export_index)(threaded(index), file, observer=observer)


@documented_as(aio.import_index)
def import_index(
    index: MountableLayers, file: IO[bytes], *, observer: events.Observer = events.ignore, name: str | None = None
) -> MoveReport:
    """Add the layers and sources of an exported file to an index."""
    return import_now(index, file, observer=observer, name=name)


@documented_as(aio.EventFeed)
class EventFeed(OnPortal[aio.EventFeed]):
    """Updates the index from the notifications and webhooks of one registry, on the background loop."""

    def __init__(
        self,
        registry: str | Located,
        index: MountableLayers,
        *,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        observer: events.Observer = events.ignore,
    ) -> None:
        super().__init__(lambda: aio.EventFeed(registry, threaded(index), options=options, observer=observer))

    accept = method(aio.EventFeed.accept)
    settled = method(aio.EventFeed.settled)
