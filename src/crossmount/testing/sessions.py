"""Blob uploads (distribution specification, "Pushing blobs"): begun, continued, finished, cancelled, mounted."""

import asyncio
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from crossmount.oci.digest import Digest
from crossmount.testing.holdings import Holdings
from crossmount.testing.locations import Locations, is_session_state
from crossmount.testing.log import Tally
from crossmount.testing.options import RegistryOptions
from crossmount.testing.routes import (
    AppendUpload,
    CancelUpload,
    FinishUpload,
    MountBlob,
    StartUpload,
    UploadStatus,
)
from crossmount.testing.storage import Spool
from crossmount.testing.values import Body, RefusedError, Request, Response

_CHUNK = re.compile(r"([0-9]{1,18})-([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session."""

    session: str
    name: str
    spool: Spool


class Sessions:
    """The upload sessions of a registry."""

    def __init__(self, holdings: Holdings, options: RegistryOptions, tally: Tally) -> None:
        self._holdings = holdings
        self._options = options
        self._tally = tally
        self._open: dict[str, Upload] = {}
        self._count = 0

    @property
    def open(self) -> tuple[str, ...]:
        """The ids of the sessions that are neither finished nor cancelled."""
        return tuple(self._open)

    async def start(self, operation: StartUpload, body: Body, where: Locations) -> Response:
        """Open a session, or take a whole blob in one request."""
        upload = self._begin(operation.name)
        if operation.digest is None:
            return _progress(202, upload, where)
        try:
            await _receive(upload, body)
        except BaseException:
            self._drop(upload)
            raise
        return await self._commit(upload, operation.digest, where)

    def mount(self, operation: MountBlob, where: Locations) -> Response:
        """Mount, or open the session that the client needs instead.

        Raises:
            RefusedError: the source is denied.
        """
        if operation.source in self._options.denied_sources:
            status = self._options.denied_status
            raise RefusedError(status, "UNAUTHORIZED" if status == 401 else "DENIED", "no access to the source")
        source = self._source(operation)
        if source is None:
            return _progress(202, self._begin(operation.name), where)
        if not any(fnmatchcase(operation.digest, pattern) for pattern in self._options.false_mounts):
            self._holdings.create(operation.name).blobs.add(operation.digest)
            self._tally.mounted(operation.digest)
        return _created(operation.name, operation.digest, where)

    def status(self, operation: UploadStatus, request: Request, where: Locations) -> Response:
        """Tell how far a session is."""
        return _progress(204, self._find(operation, request), where)

    async def append(self, operation: AppendUpload, request: Request, body: Body, where: Locations) -> Response:
        """Take a chunk, or a stream."""
        upload = self._find(operation, request)
        _check_chunk(request, upload, where)
        self._check_state(request, upload)
        await _receive(upload, body)
        return _progress(202, upload, where)

    async def finish(self, operation: FinishUpload, request: Request, body: Body, where: Locations) -> Response:
        """Take the rest, if there is any, and make it a blob."""
        upload = self._find(operation, request)
        _check_chunk(request, upload, where)
        self._check_state(request, upload)
        await _receive(upload, body)
        return await self._commit(upload, operation.digest, where)

    def cancel(self, operation: CancelUpload, request: Request) -> Response:
        """Forget a session."""
        if not self._options.cancels:
            raise RefusedError(405, "UNSUPPORTED", "sessions cannot be cancelled here")
        self._drop(self._find(operation, request))
        return Response(204)

    def _source(self, operation: MountBlob) -> str | None:
        """Return the repository to mount from."""
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

    def _begin(self, name: str) -> Upload:
        self._count += 1
        upload = Upload(f"upload-{self._count}", name, self._holdings.store.spool())
        self._open[upload.session] = upload
        return upload

    def _find(
        self, operation: UploadStatus | AppendUpload | FinishUpload | CancelUpload, request: Request
    ) -> Upload:
        upload = self._open.get(operation.session)
        if upload is None or upload.name != operation.name:
            raise RefusedError(404, "BLOB_UPLOAD_UNKNOWN", f"no session {operation.session[:100]!r} here")
        if self._options.location_state and not is_session_state(request.param("_state"), upload.session, None):
            raise RefusedError(404, "BLOB_UPLOAD_INVALID", "the Location's _state is missing or another's")
        return upload

    def _check_state(self, request: Request, upload: Upload) -> None:
        """Refuse the Location of an earlier step, with the status and code that distribution 2.8 has for it."""
        state = request.param("_state")
        if self._options.location_state and not is_session_state(state, upload.session, upload.spool.size):
            raise RefusedError(404, "BLOB_UPLOAD_INVALID", "the Location is not the session's newest")

    async def _commit(self, upload: Upload, digest: Digest, where: Locations) -> Response:
        del self._open[upload.session]
        await asyncio.sleep(self._options.commit_seconds)
        if upload.spool.digest(digest.algorithm) != digest:
            upload.spool.discard()
            raise RefusedError(400, "DIGEST_INVALID", f"what was uploaded does not have the digest {digest}")
        size = upload.spool.size
        self._holdings.store.keep(upload.spool, digest)
        self._holdings.create(upload.name).blobs.add(digest)
        self._tally.uploaded(digest, size)
        return _created(upload.name, digest, where)

    def _drop(self, upload: Upload) -> None:
        del self._open[upload.session]
        upload.spool.discard()


async def _receive(upload: Upload, body: Body) -> None:
    """Add a request's body; what came before a cut stays, as in real registries."""
    async for data in body:
        upload.spool.write(data)


def _check_chunk(request: Request, upload: Upload, where: Locations) -> None:
    """Hold a Content-Range against the session's offset and the Content-Length."""
    text = request.headers.get("content-range")
    if text is None:
        return
    match = _CHUNK.fullmatch(text)
    if match is None:
        raise RefusedError(400, "BLOB_UPLOAD_INVALID", f"Content-Range is not <first>-<last>: {text[:60]!r}")
    first, last = int(match[1]), int(match[2])
    if first != upload.spool.size or last < first - 1:
        headers = _progress(416, upload, where).headers
        raise RefusedError(416, "BLOB_UPLOAD_INVALID", f"the session is at {upload.spool.size}", headers)
    length = request.headers.get("content-length")
    if length is not None and int(length) != last - first + 1:
        raise RefusedError(400, "SIZE_INVALID", f"Content-Range {text} with Content-Length {length}")


def _progress(status: int, upload: Upload, where: Locations) -> Response:
    offset = upload.spool.size
    return Response(
        status,
        (
            ("Location", where.session(upload.name, upload.session, offset)),
            # One byte and none are told alike, as in distribution.
            ("Range", f"0-{max(offset - 1, 0)}"),
            ("Docker-Upload-UUID", upload.session),
        ),
    )


def _created(name: str, digest: Digest, where: Locations) -> Response:
    return Response(201, (("Location", where.blob(name, digest)), ("Docker-Content-Digest", digest)))
