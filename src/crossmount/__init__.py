"""A shared index of mount sources for OCI registries, and pushes that use it.

    import crossmount

    with crossmount.open_index("redis://redis.example:6379") as index:
        report = crossmount.push("oci:build/image", "registry.example/team/app:1", index=index)
    print(report.count("mounted"), "layers mounted,", report.count("uploaded"), "uploaded")

The names here block; `crossmount.asyncio` has the same names for an event loop. `help(crossmount.NAME)` explains
each.

What can be done:
    push, copy                    an image to a registry, from one registry to others
    scan, prune                   fill the index from a registry, remove what registries no longer have
    locality                      how many bytes of an image each registry has
    index_info, export_index, import_index
    read_savings                  what pushes saved in a period
    open_index                    an index by its URL: RedisMountIndex, MemoryMountIndex
    GuardedIndex                  an index whose calls never fail
    RegistryClient, Registries    one registry over HTTP, many of them
    Mounter, Fleet, EventFeed     mounts of single layers; one upload in the whole fleet; webhooks

How it is done:
    ClientOptions, RetryPolicy, Credential, CredentialSource, Limits, Patience, BlobCache

Values:
    Digest, Repository, Reference, Located, Descriptor, Manifest, Image, BytesBlob, FileBlob
    MountIndex, MountableLayers, Knowledge, LayerKnowledge, RegistryTraits, Sighting
    MountResult, MountStatus, Mounted, UploadSession, Ping

Reports:
    PushReport, BlobReport, CopyReport, ImageCopy, ImageFailure, ScanReport, PruneReport, MoveReport, IndexInfo,
    RegistryInfo, Savings, Tally

Events, which an observer receives (`crossmount.events`):
    BlobStarted, BlobWaiting, BlobProgress, BlobCommitting, BlobFinished, ManifestPushed, ImageCopied, ImageFailed,
    Retrying, SourceDropped, IndexDegraded, IndexRestored, CacheDegraded, RepositoryScanned, SourceVerified,
    IndexWalked, LayersMoved

Errors, all of them a CrossmountError (`help(crossmount.errors)` draws the tree):
    InvalidInputError, InvalidDigestError, InvalidReferenceError, InvalidManifestError, InvalidLayoutError,
    InvalidIndexURLError, MissingExtraError, IndexFailedError, IndexUnavailableError, IndexRefusedError,
    CredentialsError, RegistryError, RegistryUnreachableError, InvalidAnswerError, BlobUnavailableError,
    RegistryRefusedError, AccessDeniedError, BlobUnknownError, MountRequiredError, CopyFailedError
"""

# `_shared` and `asyncio` list the names. They are loaded on first use, so that `import crossmount`, and a command
# that needs none of them, starts at once.

import gc
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from crossmount.blocking import *
else:
    _SUBMODULES = ("events", "errors")

    def __getattr__(name: str) -> Any:
        """Load a public name. The import system asks here for a submodule too, before it imports it."""
        if name in _SUBMODULES:
            return import_module(f"crossmount.{name}")
        if name == "__all__" and sys._getframe(1).f_globals.get("__name__") == "pydoc":  # noqa: SLF001 the only way
            raise AttributeError(name)  # `help(crossmount)` is the text above, and not 5,500 lines of all classes
        if name == "__all__" or not (name.startswith("_") or find_spec(f"crossmount.{name}")):
            blocking = _load_blocking()
            if name == "__all__":
                return ["__version__", *blocking.__all__]
            if name in blocking.__all__:
                return getattr(blocking, name)
        raise AttributeError(f"module 'crossmount' has no attribute {name!r}")

    def _load_blocking() -> Any:
        """Import all names. Collecting garbage meanwhile would take an eighth of the time, and find nothing."""
        is_enabled = gc.isenabled()
        gc.disable()
        try:
            return import_module("crossmount.blocking")
        finally:
            if is_enabled:
                gc.enable()

    def __dir__() -> list[str]:
        return __getattr__("__all__")
