"""What a scripted registry is like: its traits, as values."""

from dataclasses import dataclass
from pathlib import Path

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
