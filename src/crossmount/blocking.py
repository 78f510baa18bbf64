"""The public names, blocking: values as they are, doers made from their asynchronous twins."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from crossmount import asyncio as aio
from crossmount import events
from crossmount._portal import OnPortal, blocking_function, iterator, method
from crossmount.asyncio import (
    AccessDeniedError,
    BlobCache,
    BlobReport,
    BlobUnavailableError,
    BlobUnknownError,
    ClientOptions,
    CopyFailedError,
    CopyReport,
    CredentialsError,
    CrossmountError,
    Descriptor,
    Digest,
    ImageCopy,
    ImageFailure,
    IndexFailedError,
    IndexInfo,
    IndexRefusedError,
    IndexUnavailableError,
    InvalidAnswerError,
    InvalidDigestError,
    InvalidIndexURLError,
    InvalidInputError,
    InvalidLayoutError,
    InvalidManifestError,
    InvalidReferenceError,
    Knowledge,
    LayerKnowledge,
    Limits,
    Manifest,
    MissingExtraError,
    MountRequiredError,
    MountResult,
    MountStatus,
    MoveReport,
    Patience,
    PruneReport,
    PushReport,
    Reference,
    RegistryError,
    RegistryInfo,
    RegistryRefusedError,
    RegistryTraits,
    RegistryUnreachableError,
    Repository,
    RetryPolicy,
    ScanReport,
    Sighting,
)
from crossmount.discovery.scan import REQUESTS
from crossmount.index.blocking import (
    GuardedIndex,
    MemoryMountIndex,
    MountableLayers,
    MountIndex,
    RedisMountIndex,
    open_index,
    threaded,
)
from crossmount.maintenance.export_import import import_now
from crossmount.maintenance.prune import REQUESTS as PRUNE_REQUESTS
from crossmount.oci import Located
from crossmount.oci.layout import Image

__all__ = [
    "AccessDeniedError",
    "BlobCache",
    "BlobReport",
    "BlobUnavailableError",
    "BlobUnknownError",
    "ClientOptions",
    "CopyFailedError",
    "CopyReport",
    "CredentialsError",
    "CrossmountError",
    "Descriptor",
    "Digest",
    "EventFeed",
    "Fleet",
    "GuardedIndex",
    "ImageCopy",
    "ImageFailure",
    "IndexFailedError",
    "IndexInfo",
    "IndexRefusedError",
    "IndexUnavailableError",
    "InvalidAnswerError",
    "InvalidDigestError",
    "InvalidIndexURLError",
    "InvalidInputError",
    "InvalidLayoutError",
    "InvalidManifestError",
    "InvalidReferenceError",
    "Knowledge",
    "LayerKnowledge",
    "Limits",
    "Manifest",
    "MemoryMountIndex",
    "MissingExtraError",
    "MountIndex",
    "MountRequiredError",
    "MountResult",
    "MountStatus",
    "MountableLayers",
    "Mounter",
    "MoveReport",
    "Patience",
    "PruneReport",
    "PushReport",
    "RedisMountIndex",
    "Reference",
    "Registries",
    "RegistryClient",
    "RegistryError",
    "RegistryInfo",
    "RegistryRefusedError",
    "RegistryTraits",
    "RegistryUnreachableError",
    "Repository",
    "RetryPolicy",
    "ScanReport",
    "Sighting",
    "copy",
    "export_index",
    "import_index",
    "index_info",
    "locality",
    "open_index",
    "prune",
    "push",
    "scan",
]


async def _pieces(
    client: aio.RegistryClient, repository: Repository, digest: Digest, *, offset: int = 0
) -> AsyncIterator[bytes]:
    """Yield a blob's bytes from `offset` on; read from its beginning to its end they are verified.

    Raises:
        RegistryError: the registry does not have it, or other bytes came.
    """
    async with client.stream_blob(repository, digest, offset=offset) as stream:
        async for piece in stream:
            yield piece


class RegistryClient(OnPortal[aio.RegistryClient]):
    """One registry over HTTP; see `crossmount.asyncio.RegistryClient` for what each method does."""

    def __init__(
        self,
        registry: str | Located,
        *,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        observer: events.Observer = events.ignore,
    ) -> None:
        super().__init__(lambda: aio.RegistryClient(registry, options=options, observer=observer))

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


class Mounter(OnPortal[aio.Mounter]):
    """Mounts layers on one registry; see `crossmount.asyncio.Mounter`."""

    def __init__(
        self, client: RegistryClient, index: MountableLayers, *, observer: events.Observer = events.ignore
    ) -> None:
        super().__init__(lambda: aio.Mounter(client.asynchronous, threaded(index), observer=observer))

    mount = method(aio.Mounter.mount)


class Fleet(OnPortal[aio.Fleet]):
    """Whose turn it is to upload a layer; see `crossmount.asyncio.Fleet`.

    Make one for a process, and hand it to each push.
    """

    def __init__(self, index: MountableLayers, *, observer: events.Observer = events.ignore) -> None:
        super().__init__(lambda: aio.Fleet(threaded(index), observer=observer))


class Registries(OnPortal[aio.Registries]):
    """The clients of many registries, one each; see `crossmount.asyncio.Registries`.

    Make one for a process, and hand it to each copy.
    """

    def __init__(
        self,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        *,
        special: Mapping[str, ClientOptions] | None = None,
        observer: events.Observer = events.ignore,
    ) -> None:
        super().__init__(lambda: aio.Registries(options, special=special, observer=observer))


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
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
    observer: events.Observer = events.ignore,
) -> CopyReport:
    """Copy an image from one registry to others: manifests byte for byte, each layer in the cheapest way.

    As `crossmount.asyncio.copy`, with a blocking index; `observer` is called on another thread.
    """
    return blocking_function(aio.copy)(
        source,
        *dests,
        all_tags=all_tags,
        index=None if index is None else threaded(index),
        registries=None if registries is None else registries.asynchronous,
        options=options,
        prefer=prefer,
        cache=cache,
        referrers=referrers,
        allow_transfer=allow_transfer,
        limits=limits,
        patience=patience,
        fleet=None if fleet is None else fleet.asynchronous,
        observer=observer,
    )


def push(
    source: str | Path | Image,
    dest: str | Reference,
    *,
    index: MountableLayers | None = None,
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
    observer: events.Observer = events.ignore,
) -> PushReport:
    """Push an image: mount what the registry already holds, upload the rest.

    As `crossmount.asyncio.push`, with a blocking index; `observer` is called on another thread.
    """
    return blocking_function(aio.push)(
        source,
        dest,
        index=None if index is None else threaded(index),
        client=None if client is None else client.asynchronous,
        options=options,
        limits=limits,
        patience=patience,
        fleet=None if fleet is None else fleet.asynchronous,
        observer=observer,
    )


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
    """Tell the index which layers a registry holds; as `crossmount.asyncio.scan`, with a blocking index."""
    return blocking_function(aio.scan)(
        registry,
        index=threaded(index),
        repositories=repositories,
        patterns=patterns,
        client=None if client is None else client.asynchronous,
        options=options,
        requests=requests,
        since_last=since_last,
        afresh=afresh,
        observer=observer,
    )


def locality(
    image: str | Path | Reference | Image,
    registries: Iterable[str],
    *,
    index: MountableLayers,
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
) -> dict[str, int]:
    """Say how many bytes of an image each registry has; as `crossmount.asyncio.locality`, by a blocking index."""
    return blocking_function(aio.locality)(
        image,
        registries,
        index=threaded(index),
        client=None if client is None else client.asynchronous,
        options=options,
    )


def index_info(index: MountableLayers, *, sample: int | None = None) -> IndexInfo:
    """Count what an index holds; as `crossmount.asyncio.index_info`, with a blocking index."""
    return blocking_function(aio.index_info)(threaded(index), sample=sample)


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
    """Verify what the index knows, forget what is gone; as `crossmount.asyncio.prune`, with a blocking index."""
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


def export_index(
    index: MountableLayers, file: IO[bytes], *, observer: events.Observer = events.ignore
) -> MoveReport:
    """Write all that an index knows; as `crossmount.asyncio.export_index`, with a blocking index."""
    return blocking_function(aio.export_index)(threaded(index), file, observer=observer)


def import_index(
    index: MountableLayers,
    file: IO[bytes],
    *,
    observer: events.Observer = events.ignore,
    name: str | None = None,
) -> MoveReport:
    """Add what was exported; as `crossmount.asyncio.import_index`. The file is read in the calling thread."""
    return import_now(index, file, observer=observer, name=name)


class EventFeed(OnPortal[aio.EventFeed]):
    """Takes one registry's events; see `crossmount.asyncio.EventFeed`. It works on the background loop."""

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
