"""The public names, blocking: values as they are, doers made from their asynchronous twins."""

from pathlib import Path

from crossmount import asyncio as aio
from crossmount import events
from crossmount._portal import OnPortal, blocking_function, context, iterator, method
from crossmount.asyncio import (
    AccessDeniedError,
    BlobReport,
    BlobUnknownError,
    ClientOptions,
    CredentialsError,
    CrossmountError,
    Descriptor,
    Digest,
    IndexFailedError,
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
    PushReport,
    Reference,
    RegistryError,
    RegistryRefusedError,
    RegistryTraits,
    RegistryUnreachableError,
    Repository,
    RetryPolicy,
    Sighting,
)
from crossmount.index.blocking import (
    GuardedIndex,
    MemoryMountIndex,
    MountableLayers,
    MountIndex,
    RedisMountIndex,
    open_index,
    threaded,
)
from crossmount.oci import Located
from crossmount.oci.layout import Image

__all__ = [
    "AccessDeniedError",
    "BlobReport",
    "BlobUnknownError",
    "ClientOptions",
    "CredentialsError",
    "CrossmountError",
    "Descriptor",
    "Digest",
    "GuardedIndex",
    "IndexFailedError",
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
    "PushReport",
    "RedisMountIndex",
    "Reference",
    "RegistryClient",
    "RegistryError",
    "RegistryRefusedError",
    "RegistryTraits",
    "RegistryUnreachableError",
    "Repository",
    "RetryPolicy",
    "Sighting",
    "open_index",
    "push",
]


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
    stream_blob = context(aio.RegistryClient.stream_blob)


class Mounter(OnPortal[aio.Mounter]):
    """Mounts layers on one registry; see `crossmount.asyncio.Mounter`."""

    def __init__(
        self, client: RegistryClient, index: MountableLayers, *, observer: events.Observer = events.ignore
    ) -> None:
        super().__init__(lambda: aio.Mounter(client.asynchronous, threaded(index), observer=observer))

    mount = method(aio.Mounter.mount)


def push(
    source: str | Path | Image,
    dest: str | Reference,
    *,
    index: MountableLayers | None = None,
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    limits: Limits = Limits(),  # noqa: B008 a frozen value
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
        observer=observer,
    )
