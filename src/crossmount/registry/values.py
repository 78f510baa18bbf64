"""What a registry's answers come down to."""

from dataclasses import dataclass, field

from crossmount.oci import Repository

SIZE_UNKNOWN = -1
"""What a HEAD says of a blob that is there and whose size the registry did not tell."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """The registry mounted the blob: dest holds it (201)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSession:
    """An upload that a registry opened (202); it is used once.

    Attributes:
        repository: where the blob will be.
        location: the absolute URL to go on with; it may be signed, so it is not shown.
        offset: bytes that the registry has already.
        min_chunk: the least bytes a chunk may have, the last one aside (`OCI-Chunk-Min-Length`).
    """

    repository: Repository
    location: str = field(repr=False)
    offset: int = 0
    min_chunk: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """What a registry says when it is only greeted (`GET /v2/`, without credentials).

    Attributes:
        status: 200, or 401 if it asks who we are.
        version: its `Docker-Distribution-Api-Version` header, if it has one.
        scheme: how it wants to be authorised.
        realm_host: the host that gives tokens, for `bearer`.
    """

    status: int
    version: str | None
    scheme: str = "none"
    realm_host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is known before the mounts into one repository begin.

    Attributes:
        refused: sources that no token was given for; a mount from them is not worth much hope.
    """

    refused: frozenset[Repository] = frozenset()
