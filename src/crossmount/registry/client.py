"""The client of one registry (distribution specification 1.1)."""

import random
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

import httpx

from crossmount.events import Observer, ignore
from crossmount.oci import BlobSource, Digest, Located, Manifest, Reference, Repository
from crossmount.registry.http import make_client
from crossmount.registry.location import Origin
from crossmount.registry.manifests import Manifests
from crossmount.registry.options import ClientOptions
from crossmount.registry.refusal import refusal
from crossmount.registry.sender import Call, Sender
from crossmount.registry.uploads import Progress, Uploads
from crossmount.registry.urls import Endpoints
from crossmount.registry.values import SIZE_UNKNOWN, Mounted, Prepared, UploadSession


class RegistryClient:
    """One registry over HTTP; thin for now."""

    def __init__(
        self,
        registry: str | Located,
        *,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        credentials: Any = None,
        observer: Observer = ignore,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        del credentials, observer, clock, rng
        self._endpoints = Endpoints.of(registry, plain_http=options.plain_http)
        self.registry = self._endpoints.registry
        self._http = make_client(options, transport=transport)
        self._sender = Sender(Origin.of(self._endpoints.root()), self._http)
        self._uploads = Uploads(self._endpoints, self._sender)
        self._manifests = Manifests(self._endpoints, self._sender)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def head_blob(self, repository: Repository, digest: Digest) -> int | None:
        """Ask whether `repository` holds a blob: its size in bytes, `SIZE_UNKNOWN`, or None if it does not."""
        answer = await self._sender.send(Call(method="HEAD", url=self._endpoints.blob(repository, digest)))
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise refusal(answer, "HEAD")
        size = answer.headers.get("content-length", "")
        return int(size) if size.isdecimal() else SIZE_UNKNOWN

    async def prepare(self, dest: Repository, sources: Collection[Repository]) -> Prepared:
        """Say which mounts are coming."""
        del dest, sources
        return Prepared()

    async def mount_blob(
        self, dest: Repository, digest: Digest, source: Repository | None
    ) -> Mounted | UploadSession:
        """Ask the registry to mount a blob."""
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
        """Upload a blob into a session."""
        del chunk_size
        await self._uploads.upload(session, blob, on_progress=on_progress)

    async def cancel_upload(self, session: UploadSession) -> None:
        """Cancel a session, best effort."""
        await self._uploads.cancel(session)

    async def get_manifest(self, reference: Reference) -> Manifest:
        """Fetch a manifest or an index."""
        return await self._manifests.get(reference)

    async def put_manifest(self, reference: Reference, manifest: Manifest) -> Digest:
        """Put a manifest or an index."""
        return await self._manifests.put(reference, manifest)
