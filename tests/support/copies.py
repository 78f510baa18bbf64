"""Helpers for tests of copies: options, a copy, and checks of its result."""

from typing import Any

from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.testing import ScriptedRegistry
from crossmount.transfer.copy import copy
from crossmount.transfer.report import CopyReport
from support.images import MadeImage

OPTIONS = ClientOptions(
    plain_http=True, retry=RetryPolicy(attempts=2, outage=0.0, wait_initial=0.01, wait_max=0.02)
)


async def copied(source: ScriptedRegistry, dest: ScriptedRegistry, **how: Any) -> CopyReport:
    """Copy team/app:1 to mirror/app."""
    return await copy(f"{source.address}/team/app:1", f"{dest.address}/mirror/app", **{"options": OPTIONS, **how})


def is_whole(registry: ScriptedRegistry, name: str, image: MadeImage, tag: str = "1") -> bool:
    """Return whether a repository has the image, byte for byte, under this tag and no other."""
    holding = registry.holdings.find(name)
    held = all(
        (content := registry.holdings.blob(name, blob.digest)) is not None
        and b"".join(content.read(0, content.size)) == image.blob_path(blob.digest).read_bytes()
        for blob in image.blobs
    )
    return held and holding.tags == {tag: image.root.digest}


def gets(registry: ScriptedRegistry, digest: str = "*") -> int:
    """Return the number of requests for a blob."""
    return len(registry.matching(method="GET", path=f"*/blobs/{digest}"))
