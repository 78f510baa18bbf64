"""Results of `RegistryClient`'s methods."""

from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.oci import Repository

SIZE_UNKNOWN = -1
"""The size of a blob that exists and whose size the registry does not send."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """The registry mounted the blob into the destination (201)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSession:
    """An upload session that a registry opened (202); it is used for one blob.

    Attributes:
        repository: the repository that the blob is uploaded into.
        location: the absolute URL of the next request; it may be signed, so it is not shown.
        offset: the number of bytes that the session has.
        min_chunk: the least bytes of a chunk, except the last one (`OCI-Chunk-Min-Length`).
        is_offset_known: whether `offset` is certain; if not, the registry is asked before bytes are sent.
    """

    repository: Repository
    location: str = field(repr=False)
    offset: int = 0
    min_chunk: int = 0
    is_offset_known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """A registry's answer to `GET /v2/` without credentials.

    Attributes:
        status: 200, or 401 if it asks for credentials.
        version: the `Docker-Distribution-Api-Version` header, if there is one.
        scheme: the scheme of its challenge: `none`, `basic` or `bearer`.
        realm_host: for `bearer`: the host of its token realm.
    """

    status: int
    version: str | None
    scheme: str = "none"
    realm_host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The result of `RegistryClient.prepare`.

    Attributes:
        refused: sources that no token is given for; mounting from them will probably fail.
        denied: those of them that this account may not read; about the others the realm was not asked.
    """

    refused: frozenset[Repository] = frozenset()
    denied: frozenset[Repository] = frozenset()
