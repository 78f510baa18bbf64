"""The client of one registry (distribution specification 1.1)."""

import random
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager

import httpx

from crossmount._closing import Closing
from crossmount.errors import InvalidAnswerError
from crossmount.events import Observer, ignore
from crossmount.oci import BlobSource, Descriptor, Digest, Located, Manifest, Reference, Repository
from crossmount.registry.auth.challenge import Basic, Bearer
from crossmount.registry.auth.scope import Wanted, pull, push
from crossmount.registry.blobs import Blobs, BlobStream
from crossmount.registry.credentials.lookup import CredentialSource, StoredCredentials
from crossmount.registry.endpoints import Endpoints
from crossmount.registry.http.location import Origin, parse_url
from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.refusal import refusal
from crossmount.registry.http.requester import Call, Requester
from crossmount.registry.http.retry import Retrier
from crossmount.registry.http.transport import make_client, shown
from crossmount.registry.listings import Listings
from crossmount.registry.manifests import Manifests
from crossmount.registry.uploads import Progress, Uploads
from crossmount.registry.values import Mounted, Ping, Prepared, UploadSession

_SOURCES_MAX = 40
"""For how many sources one token is asked; each is a part of a URL, which has its limits."""


class RegistryClient(Closing):
    """One registry over HTTP.

    Requests that may be repeated are, by `options.retry`. Every method raises, besides what it names:
    RegistryUnreachableError when there is no answer, AccessDeniedError for 401 and 403, RegistryRefusedError for
    any other no, InvalidAnswerError for an answer outside the specification, CredentialsError when credentials
    cannot be used or would go to a stranger, and InvalidInputError for a repository on another registry.

    Args:
        registry: the registry, or anything that lies on it.
        options: how to reach it.
        credentials: where credentials come from; by default what docker and podman stored. Asked only if
            the registry wants some.
        observer: told of each wait before a request is sent again.
        clock: seconds, from any start.
        rng: where the waits' jitter comes from.
        transport: what carries the requests, instead of sockets; for tests.

    Attributes:
        registry: the registry, normalised.
    """

    def __init__(
        self,
        registry: str | Located,
        *,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        credentials: CredentialSource | None = None,
        observer: Observer = ignore,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoints = Endpoints.of(registry, plain_http=options.plain_http)
        self.registry = self._endpoints.registry
        self._http = make_client(options, transport=transport)
        self._requester = Requester(
            self.registry,
            self._endpoints.root(),
            client=self._http,
            retrier=Retrier(options.retry, observer=observer, clock=clock, rng=rng),
            credentials=credentials or StoredCredentials(authfile=options.authfile),
            trusted_realms=options.trusted_realms,
            rate=options.rate,
        )
        self._blobs = Blobs(self._endpoints, self._requester)
        self._uploads = Uploads(self._endpoints, self._requester)
        self._manifests = Manifests(self._endpoints, self._requester)
        self._lists = Listings(self._endpoints, self._requester)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._requester.authorizer.aclose()
        await self._http.aclose()

    async def ping(self) -> Ping:
        """Greet the registry without credentials, to learn what it is and how it wants to be authorised.

        Raises:
            InvalidAnswerError: it does not answer as a registry.
        """
        answer = await self._requester.bare(Call(method="GET", url=self._endpoints.root()))
        if answer.status not in {200, 401}:
            raise refusal(answer, "GET")
        version = answer.headers.get("docker-distribution-api-version")
        if answer.status == 200 and version is None and answer.content_type == "text/html":
            raise InvalidAnswerError(f"GET {shown(answer.url)}: a web page: is this a registry?")
        same = Origin.of(answer.url) == self._requester.origin
        challenges = answer.headers.get_list("www-authenticate") if same else []
        match self._requester.authorizer.learn(challenges):
            case Bearer(realm):
                return Ping(status=answer.status, version=version, scheme="bearer", realm_host=_host(realm))
            case Basic():
                return Ping(status=answer.status, version=version, scheme="basic")
        return Ping(status=answer.status, version=version)

    async def credential_origin(self, repository: Repository | None = None) -> str | None:
        """Return where the credentials for a repository (or the registry) are from, or None if there are none."""
        return await self._requester.authorizer.credential_origin("" if repository is None else repository.name)

    async def authorization(self, repository: Repository | None, wanted: Wanted) -> str | None:
        """Return the Authorization header with which somebody else may send a request to this registry.

        Args:
            repository: which repository it is about; None for the registry as such.
            wanted: what it wants to be allowed.

        Returns:
            The header's value; None if none is needed, or none is known to be: greet the registry (`ping`) first.
        """
        admission = await self._requester.authorizer.authorize(
            "" if repository is None else repository.name, wanted
        )
        return admission.header

    async def reauthorization(
        self, repository: Repository | None, wanted: Wanted, refused: str | None, challenges: Collection[str]
    ) -> str | None:
        """Return the Authorization header to try after a 401.

        Args:
            repository: which repository the request is about; None for the registry as such.
            wanted: what it wants to be allowed.
            refused: what it was sent with in vain; a token among it is not used again.
            challenges: the answer's WWW-Authenticate headers.

        Returns:
            The header's value; None if there is nothing better than what was sent.
        """
        authorizer, name = self._requester.authorizer, "" if repository is None else repository.name
        used = await authorizer.authorize(name, wanted)
        if used.header != refused:
            return used.header  # renewed meanwhile
        better = await authorizer.reauthorize(name, wanted, used, challenges)
        return None if better is None else better.header

    async def head_blob(self, repository: Repository, digest: Digest) -> int | None:
        """Ask whether a repository holds a blob.

        Returns:
            Its size in bytes; `SIZE_UNKNOWN` (-1) if it is there and the registry does not tell its size; None if
            it is not there.
        """
        return await self._blobs.head(repository, digest)

    def stream_blob(
        self, repository: Repository, digest: Digest, *, offset: int = 0, verify: bool = True
    ) -> AbstractAsyncContextManager[BlobStream]:
        """Read a blob from `offset` on: `async with … as stream`, then `async for part in stream`.

        A connection that is cut is opened again where it was. Read whole, the bytes are verified; `verify=False`
        is for whoever does that, parts read elsewhere included.

        Raises:
            RegistryRefusedError: on entering, with status 404 if the repository does not hold it.
            InvalidAnswerError: at the end, the bytes have another digest.
        """
        return self._blobs.stream(repository, digest, offset=offset, verify=verify)

    async def prepare(self, dest: Repository, sources: Collection[Repository]) -> Prepared:
        """Say which mounts into `dest` are coming, so that one token serves them all.

        Sends nothing, unless the registry is known to want a token: then that is asked for now.

        Returns:
            Which sources no token is given for, as far as is known already.
        """
        for repository in (dest, *sources):
            self._endpoints.check(repository)
        wanted = tuple(pull(source) for source in list(sources)[:_SOURCES_MAX])
        self._requester.authorizer.expect(dest.name, wanted)
        admission = await self._requester.authorizer.authorize(dest.name, Wanted((push(dest),)))
        refused = () if admission.token is None else admission.token.refused
        return Prepared(refused=frozenset(source for source in sources if pull(source) in refused))

    async def mount_blob(
        self, dest: Repository, digest: Digest, source: Repository | None
    ) -> Mounted | UploadSession:
        """Ask the registry to mount a blob into `dest`.

        Args:
            dest: where it is to be.
            digest: which blob.
            source: the repository that holds it, on the same registry; None lets the registry find it.

        Returns:
            `Mounted` (201), or the session that the registry opened instead (202).
        """
        return await self._uploads.mount(dest, digest, source)

    async def start_upload(self, dest: Repository) -> UploadSession:
        """Open an upload session."""
        return await self._uploads.start(dest)

    async def upload_blob(
        self,
        session: UploadSession,
        blob: BlobSource,
        *,
        chunk_size: int | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Upload a blob into a session: in one request, or in chunks; after trouble resumed, or begun anew.

        Args:
            session: what `start_upload` or `mount_blob` gave; it is used up.
            blob: it is opened for each request that sends a part of it.
            chunk_size: bytes in one request; the session's own minimum counts too.
            on_progress: told how many of the blob's bytes are on their way.

        Raises:
            InvalidLayoutError: the blob has not the size that its descriptor says.
        """
        await self._uploads.upload(session, blob, chunk_size=chunk_size, on_progress=on_progress)

    async def cancel_upload(self, session: UploadSession) -> None:
        """Let a session go. Best effort: whatever the registry says, or does not, is no error."""
        await self._uploads.cancel(session)

    async def head_manifest(self, reference: Reference) -> Descriptor | None:
        """Ask for a manifest's descriptor; None if it is not there."""
        return await self._manifests.head(reference)

    async def get_manifest(self, reference: Reference) -> Manifest:
        """Fetch a manifest or an index, at most 4 MiB, and verify its digest.

        Raises:
            RegistryRefusedError: with status 404 if it is not there.
            InvalidAnswerError: the bytes have another digest, or are no manifest.
        """
        return await self._manifests.get(reference)

    async def put_manifest(self, reference: Reference, manifest: Manifest) -> Digest:
        """Put a manifest or an index under the reference's tag, or else its own digest.

        Returns:
            Its digest.

        Raises:
            BlobUnknownError: the repository lacks a blob that it names.
            InvalidInputError: the reference has another digest.
        """
        return await self._manifests.put(reference, manifest)

    async def is_readable(self, repository: Repository) -> bool:
        """Tell whether a repository is certainly there to be read, so that a 404 in it means what it says.

        So it is on a registry that never asked for credentials, and where tags may be listed. Some registries
        hide what may not be read behind 404s; there, and for a repository without tags, the answer is False.

        Raises:
            AccessDeniedError: it may not be read.
        """
        return await self._lists.is_readable(repository)

    def list_tags(self, repository: Repository) -> AsyncIterator[str]:
        """Yield a repository's tags, page after page."""
        return self._lists.tags(repository)

    async def list_referrers(self, repository: Repository, digest: Digest) -> tuple[Descriptor, ...] | None:
        """Return the manifests whose subject is `digest` (specification, "Listing Referrers").

        Returns:
            None if the registry has no such API: then they are listed under the tag of `referrers_tag`.
        """
        return await self._lists.referrers(repository, digest)

    def catalog(self) -> AsyncIterator[str]:
        """Yield the names of the registry's repositories, page after page; many registries refuse."""
        return self._lists.catalog()


def _host(realm: str) -> str | None:
    url = parse_url(realm)
    return None if url is None else url.host or None
