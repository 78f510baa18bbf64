"""crossmount: a shared index of mount sources for OCI registries, and the push that uses it.

The names here block; `crossmount.asyncio` has the same names for an event loop. They are loaded when first
used, so that a command which needs none of them starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossmount.blocking import *  # noqa: F403 the names are those of __all__, which a test holds

__version__ = "0.1.0"

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
    "__version__",
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


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("crossmount.blocking"), name)
    raise AttributeError(f"module 'crossmount' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
