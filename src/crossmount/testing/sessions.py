"""Upload sessions and mounts of blobs (distribution specification, "Pushing blobs")."""

import asyncio
import re
from collections import Counter
from fnmatch import fnmatchcase

from crossmount._dataclass import dataclass
from crossmount.oci.descriptor import Digest
from crossmount.testing.holdings import Holdings
from crossmount.testing.options import RegistryOptions
from crossmount.testing.routes import (
    AppendUpload,
    CancelUpload,
    FinishUpload,
    MountBlob,
    PostUpload,
    UploadStatus,
)
from crossmount.testing.storage import UploadBuffer
from crossmount.testing.values import Body, DistributionError, Request, Response

_CHUNK = re.compile(r"([0-9]{1,18})-([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LocationWriter:
    """Writes Location headers.

    Attributes:
        base: scheme, host and port; empty for relative Locations.
        state: whether the Location of a session has a `_state` parameter.
    """

    base: str = ""
    state: bool = True

    def blob(self, name: str, digest: Digest) -> str:
        """Return the Location of a blob."""
        return f"{self.base}/v2/{name}/blobs/{digest}"

    def manifest(self, name: str, digest: Digest) -> str:
        """Return the Location of a manifest."""
        return f"{self.base}/v2/{name}/manifests/{digest}"

    def session(self, name: str, session: str, offset: int) -> str:
        """Return the Location of a session that has received `offset` bytes."""
        query = f"?_state={session_state(session, offset)}" if self.state else ""
        return f"{self.base}/v2/{name}/blobs/uploads/{session}{query}"


def session_state(session: str, offset: int) -> str:
    """Return the `_state` of a session's Location; it contains characters that clients must leave escaped."""
    return f"{session}%2F{offset}%3D%3D"


def is_session_state(state: str | None, session: str, offset: int | None) -> bool:
    """Return whether a decoded `_state` belongs to a session, and to this offset unless that is None."""
    if state is None or not state.endswith("=="):
        return False
    owner, _, at = state[:-2].rpartition("/")
    return owner == session and (offset is None or at == str(offset))


class UploadCounts:
    """Counts uploads and mounts by digest."""

    def __init__(self) -> None:
        self.uploads: Counter[Digest] = Counter()
        self.mounts: Counter[Digest] = Counter()
        self.upload_bytes = 0

    def uploaded(self, digest: Digest, size: int) -> None:
        """Count a finished upload."""
        self.uploads[digest] += 1
        self.upload_bytes += size

    def mounted(self, digest: Digest) -> None:
        """Count a mount."""
        self.mounts[digest] += 1


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An open upload session."""

    session: str
    name: str
    buffer: UploadBuffer


class UploadSessions:
    """The open upload sessions of a registry."""

    def __init__(self, holdings: Holdings, options: RegistryOptions, tally: UploadCounts) -> None:
        self._holdings = holdings
        self._options = options
        self._tally = tally
        self._open: dict[str, OpenUpload] = {}
        self._count = 0

    @property
    def open(self) -> tuple[str, ...]:
        """The ids of all open sessions."""
        return tuple(self._open)

    async def start(self, operation: PostUpload, body: Body, locations: LocationWriter) -> Response:
        """Open a session, or receive a whole blob in one request."""
        upload = self._begin(operation.name)
        if operation.digest is None:
            return _progress(202, upload, locations)
        try:
            await _receive(upload, body)
        except BaseException:
            self._drop(upload)
            raise
        return await self._commit(upload, operation.digest, locations)

    def mount(self, operation: MountBlob, locations: LocationWriter) -> Response:
        """Mount a blob, or open an upload session instead.

        Raises:
            DistributionError: mounts from the source are denied.
        """
        if operation.source in self._options.denied_sources:
            status = self._options.denied_status
            raise DistributionError(
                status, "UNAUTHORIZED" if status == 401 else "DENIED", "no access to the source"
            )
        source = self._source(operation)
        if source is None:
            return _progress(202, self._begin(operation.name), locations)
        if not any(fnmatchcase(operation.digest, pattern) for pattern in self._options.false_mounts):
            self._holdings.create(operation.name).blobs.add(operation.digest)
            self._tally.mounted(operation.digest)
        return _created(operation.name, operation.digest, locations)

    def status(self, operation: UploadStatus, request: Request, locations: LocationWriter) -> Response:
        """Return the number of received bytes."""
        return _progress(204, self._find(operation, request), locations)

    async def append(
        self, operation: AppendUpload, request: Request, body: Body, locations: LocationWriter
    ) -> Response:
        """Receive a chunk or a stream."""
        upload = await self._receive_next(operation, request, body, locations)
        return _progress(202, upload, locations)

    async def finish(
        self, operation: FinishUpload, request: Request, body: Body, locations: LocationWriter
    ) -> Response:
        """Receive the remaining bytes, if there are any, and store the blob."""
        upload = await self._receive_next(operation, request, body, locations)
        return await self._commit(upload, operation.digest, locations)

    def cancel(self, operation: CancelUpload, request: Request) -> Response:
        """Cancel a session."""
        if not self._options.cancels:
            raise DistributionError(405, "UNSUPPORTED", "sessions cannot be cancelled here")
        self._drop(self._find(operation, request))
        return Response(204)

    def _source(self, operation: MountBlob) -> str | None:
        """Return the repository to mount from; None if the mount fails."""
        if not self._options.mounts:
            return None
        if operation.source is None:
            holders = self._holdings.holders(operation.digest) if self._options.finds else []
        else:
            holders = [operation.source]
        return next((name for name in holders if self._is_mountable(name, operation.digest)), None)

    def _is_mountable(self, name: str, digest: Digest) -> bool:
        holding = self._holdings.find(name)
        return digest in holding.blobs and (not self._options.after_manifest or holding.references(digest))

    def _begin(self, name: str) -> OpenUpload:
        self._count += 1
        upload = OpenUpload(f"upload-{self._count}", name, self._holdings.store.buffer())
        self._open[upload.session] = upload
        return upload

    def _find(
        self, operation: UploadStatus | AppendUpload | FinishUpload | CancelUpload, request: Request
    ) -> OpenUpload:
        upload = self._open.get(operation.session)
        if upload is None or upload.name != operation.name:
            raise DistributionError(404, "BLOB_UPLOAD_UNKNOWN", f"no session {operation.session[:100]!r} here")
        if self._options.location_state and not is_session_state(request.param("_state"), upload.session, None):
            raise DistributionError(404, "BLOB_UPLOAD_INVALID", "the Location's _state is missing or another's")
        return upload

    async def _receive_next(
        self, operation: AppendUpload | FinishUpload, request: Request, body: Body, locations: LocationWriter
    ) -> OpenUpload:
        """Receive a request's body at the end of a session, and return the session."""
        upload = self._find(operation, request)
        if self._options.checks_ranges:
            _check_chunk(request, upload, locations)
        self._check_state(request, upload)
        await _receive(upload, body)
        return upload

    def _check_state(self, request: Request, upload: OpenUpload) -> None:
        """Refuse an outdated Location, with the status and code of distribution 2.8."""
        state = request.param("_state")
        if self._options.location_state and not is_session_state(state, upload.session, upload.buffer.size):
            raise DistributionError(404, "BLOB_UPLOAD_INVALID", "the Location is not the session's newest")

    async def _commit(self, upload: OpenUpload, digest: Digest, locations: LocationWriter) -> Response:
        del self._open[upload.session]
        await asyncio.sleep(self._options.commit_seconds)
        if upload.buffer.digest(digest.algorithm) != digest:
            upload.buffer.discard()
            raise DistributionError(400, "DIGEST_INVALID", f"what was uploaded does not have the digest {digest}")
        size = upload.buffer.size
        self._holdings.store.add(upload.buffer, digest)
        self._holdings.create(upload.name).blobs.add(digest)
        self._tally.uploaded(digest, size)
        return _created(upload.name, digest, locations)

    def _drop(self, upload: OpenUpload) -> None:
        del self._open[upload.session]
        upload.buffer.discard()


async def _receive(upload: OpenUpload, body: Body) -> None:
    """Store a request's body; bytes that arrive before a cut stay, as in real registries."""
    async for data in body:
        upload.buffer.write(data)


def _check_chunk(request: Request, upload: OpenUpload, locations: LocationWriter) -> None:
    """Compare Content-Range with the session's offset and with Content-Length."""
    text = request.headers.get("content-range")
    if text is None:
        return
    match = _CHUNK.fullmatch(text)
    if match is None:
        raise DistributionError(400, "BLOB_UPLOAD_INVALID", f"Content-Range is not <first>-<last>: {text[:60]!r}")
    first, last = int(match[1]), int(match[2])
    if first != upload.buffer.size or last < first - 1:
        headers = _progress(416, upload, locations).headers
        raise DistributionError(416, "BLOB_UPLOAD_INVALID", f"the session is at {upload.buffer.size}", headers)
    length = request.headers.get("content-length")
    if length is not None and int(length) != last - first + 1:
        raise DistributionError(400, "SIZE_INVALID", f"Content-Range {text} with Content-Length {length}")


def _progress(status: int, upload: OpenUpload, locations: LocationWriter) -> Response:
    offset = upload.buffer.size
    return Response(
        status,
        (
            ("Location", locations.session(upload.name, upload.session, offset)),
            # Zero bytes and one byte have the same Range, as in distribution.
            ("Range", f"0-{max(offset - 1, 0)}"),
            ("Docker-Upload-UUID", upload.session),
        ),
    )


def _created(name: str, digest: Digest, locations: LocationWriter) -> Response:
    return Response(201, (("Location", locations.blob(name, digest)), ("Docker-Content-Digest", digest)))
