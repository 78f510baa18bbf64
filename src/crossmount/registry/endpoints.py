"""The URLs of one registry (distribution specification, "Endpoints"), and what its client's methods return."""

from dataclasses import field
from typing import Self
from urllib.parse import urlencode

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.oci import Digest, Located, Reference, Repository
from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.requester import Requester

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


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Builds the URLs of one registry; every repository in them is on that registry.

    Attributes:
        registry: the registry, normalised.
        base: scheme, host and port.
    """

    registry: str
    base: str

    @classmethod
    def of(cls, registry: str | Located, *, plain_http: bool) -> Self:
        """Return the endpoints of a registry, given by its name or by a repository or reference on it.

        Raises:
            InvalidReferenceError: `registry` names no registry.
        """
        repository = Repository.on(registry)
        return cls(repository.registry, f"{'http' if plain_http else 'https'}://{repository.address}")

    def root(self) -> httpx.URL:
        """`/v2/`."""
        return httpx.URL(f"{self.base}/v2/")

    def blob(self, repository: Repository, digest: Digest) -> httpx.URL:
        """A blob of a repository."""
        return httpx.URL(f"{self._of(repository)}/blobs/{Digest(digest)}")

    def uploads(self, repository: Repository) -> httpx.URL:
        """The start of an upload into a repository."""
        return httpx.URL(f"{self._of(repository)}/blobs/uploads/")

    def mount(self, dest: Repository, digest: Digest, source: Repository | None) -> httpx.URL:
        """The mount of a blob into `dest`, from `source` or from wherever the registry finds it."""
        query: dict[str, str] = {"mount": Digest(digest)}
        if source is not None:
            self.check(source)
            query["from"] = source.name
        return httpx.URL(f"{self._of(dest)}/blobs/uploads/?{urlencode(query)}")

    def manifest(self, reference: Reference, target: str) -> httpx.URL:
        """A manifest, by a tag or a digest."""
        return httpx.URL(f"{self._of(reference.repository)}/manifests/{target}")

    def tags(self, repository: Repository) -> httpx.URL:
        """The list of a repository's tags."""
        return httpx.URL(f"{self._of(repository)}/tags/list")

    def referrers(self, repository: Repository, digest: Digest) -> httpx.URL:
        """The list of a manifest's referrers."""
        return httpx.URL(f"{self._of(repository)}/referrers/{Digest(digest)}")

    def catalog(self) -> httpx.URL:
        """The list of the registry's repositories."""
        return httpx.URL(f"{self.base}/v2/_catalog")

    def check(self, repository: Repository) -> None:
        """Refuse a repository of another registry.

        Raises:
            InvalidInputError: it is on another registry.
        """
        if repository.registry != self.registry:
            raise InvalidInputError(f"{repository} is not on {self.registry}, which this client serves")

    def _of(self, repository: Repository) -> str:
        self.check(repository)
        return f"{self.base}/v2/{repository.name}"


class RegistryMethods:
    """Base of `RegistryClient`'s groups of methods: the registry's URLs, the requester and the options."""

    _endpoints: Endpoints
    _requester: Requester
    _options: ClientOptions
