"""What a scripted registry is like: its traits, as values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossmount.testing.auth import Auth


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """The traits of a scripted registry; by default those of a plain, open registry that mounts.

    Attributes:
        mounts: carries out mounts; else every mount opens an upload session (202).
        finds: mounts without `from`, from whatever repository holds the blob.
        after_manifest: mounts only what a manifest in the source repository references, as ECR does.
        denied_sources: repositories that may not be mounted from.
        denied_status: what a mount from a denied source is answered with, 401 or 403.
        false_mounts: patterns of digests whose mount is answered with 201 and not carried out; distribution does
            this to `sha512:*`.
        blob_heads: which blobs a HEAD reports: those of its own repository; all blobs of the registry
            (`anywhere`); or all, and the repository holds the blob from then on (`linking`, as zot does).
        commit_seconds: seconds between the last byte of an upload and its being a blob, as with object storage.
        relative_locations: Locations without scheme and host.
        location_base: scheme, host and port of Locations instead of the registry's own.
        location_state: Locations of sessions carry a `_state` that must come back.
        checks_references: a manifest that names an absent blob or manifest is refused.
        deletes: blobs, manifests and tags can be deleted (else 405).
        cancels: sessions can be cancelled (else 405).
        page_size: the longest page of tags and repositories.
        latency: seconds that every answer waits, as on a long way.
        root: a folder for the bytes of blobs, which are kept in memory otherwise. What is there of an
            earlier run is not looked at.
        auth: who may do what; anybody anything by default.
    """

    mounts: bool = True
    finds: bool = False
    after_manifest: bool = False
    denied_sources: frozenset[str] = frozenset()
    denied_status: int = 401
    false_mounts: tuple[str, ...] = ()
    blob_heads: Literal["own", "anywhere", "linking"] = "own"
    commit_seconds: float = 0.0
    relative_locations: bool = False
    location_base: str | None = None
    location_state: bool = True
    checks_references: bool = True
    deletes: bool = True
    cancels: bool = True
    page_size: int = 1000
    latency: float = 0.0
    root: Path | None = None
    auth: Auth | None = None
