import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import crossmount
import crossmount.asyncio
import crossmount.blocking

PUBLIC = {
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
}


def test_both_flavours_export_the_same_names() -> None:
    """What can be imported from one flavour can be imported from the other, and nothing comes or goes unseen."""
    assert set(crossmount.blocking.__all__) == set(crossmount.asyncio.__all__) == PUBLIC
    assert set(dir(crossmount)) == set(crossmount.__all__) == PUBLIC | {"__version__"}


def test_every_exported_name_is_there() -> None:
    """Each promised name can be had from both flavours."""
    for name in PUBLIC:
        assert getattr(crossmount, name) is getattr(crossmount.blocking, name)
        assert getattr(crossmount.asyncio, name) is not None


def test_the_version_is_told_once() -> None:
    """The package and its metadata agree."""
    assert importlib.metadata.version("crossmount") == crossmount.__version__


def test_importing_the_package_loads_neither_redis_nor_httpx() -> None:
    """A command that needs neither starts without them."""
    code = "import sys, crossmount; sys.exit('redis' in sys.modules or 'httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_built_wheel_is_what_is_tested_when_it_should_be() -> None:
    """Under .ci/run's last step nothing is imported from the tree."""
    installed = os.environ.get("CROSSMOUNT_INSTALLED")
    if installed:
        assert Path(crossmount.__file__).is_relative_to(installed)
    assert (Path(crossmount.__file__).parent / "py.typed").is_file()
