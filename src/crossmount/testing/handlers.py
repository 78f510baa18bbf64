"""Carries out each operation of a registry; uploads are in `sessions`."""

import re
from collections.abc import Iterable
from typing import assert_never
from urllib.parse import quote

from crossmount.oci.descriptor import OCI_INDEX, Digest
from crossmount.oci.manifest import MANIFEST_BYTES_MAX
from crossmount.testing.access_control import TOKEN_PATH, AccessControl
from crossmount.testing.holdings import Holdings, StoredManifest, cut_page, read_manifest
from crossmount.testing.options import RegistryOptions
from crossmount.testing.routes import (
    AppendUpload,
    CancelUpload,
    DeleteBlob,
    DeleteManifest,
    DeleteOperation,
    FinishUpload,
    ListReferrers,
    ListRepositories,
    ListTags,
    MountBlob,
    PageRequest,
    PostUpload,
    ReadBlob,
    ReadManifest,
    ReadOperation,
    UploadStatus,
    VersionCheck,
    WriteManifest,
    WriteOperation,
    route,
)
from crossmount.testing.sessions import LocationWriter, UploadSessions
from crossmount.testing.values import (
    Body,
    DistributionError,
    Headers,
    Inline,
    Request,
    Response,
    error_response,
    json_response,
)

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


class Handlers:
    """A registry without a network: requests in, responses out."""

    def __init__(
        self, options: RegistryOptions, holdings: Holdings, sessions: UploadSessions, authorizer: AccessControl
    ) -> None:
        self._options = options
        self._holdings = holdings
        self._sessions = sessions
        self._authorizer = authorizer

    async def handle(self, request: Request, body: Body, base: str) -> Response:
        """Answer a request; a refusal is a response too.

        Args:
            request: its head.
            body: its body; only operations that need it read it.
            base: scheme, host and port that the client used.
        """
        try:
            if request.path == TOKEN_PATH:
                return self._authorizer.issue(request, await read_body(body))
            return await self._operate(request, body, self._locations(base))
        except DistributionError as refused:
            return refused.response()
        except OSError as error:
            return error_response(500, "UNKNOWN", f"cannot store the blob: {error.strerror}")

    async def _operate(self, request: Request, body: Body, locations: LocationWriter) -> Response:
        operation = self._authorizer.check(request, route(request))
        match operation:
            case WriteManifest() | PostUpload() | MountBlob() | AppendUpload() | FinishUpload():
                return await self._write(operation, request, body, locations)
            case DeleteManifest() | DeleteBlob() | CancelUpload():
                return self._delete(operation, request)
            case _:
                return self._read(operation, request, locations)

    def _read(self, operation: ReadOperation, request: Request, locations: LocationWriter) -> Response:
        match operation:
            case VersionCheck():
                return json_response({})
            case ListRepositories() | ListTags() | ListReferrers():
                return self._list(operation, request)
            case ReadManifest():
                return self._read_manifest(operation)
            case ReadBlob():
                return self._read_blob(operation, request)
            case UploadStatus():
                return self._sessions.status(operation, request, locations)
            case _:
                assert_never(operation)

    async def _write(
        self, operation: WriteOperation, request: Request, body: Body, locations: LocationWriter
    ) -> Response:
        match operation:
            case WriteManifest():
                return self._write_manifest(operation, request, await read_body(body), locations)
            case PostUpload():
                return await self._sessions.start(operation, body, locations)
            case MountBlob():
                return self._sessions.mount(operation, locations)
            case AppendUpload():
                return await self._sessions.append(operation, request, body, locations)
            case FinishUpload():
                return await self._sessions.finish(operation, request, body, locations)
            case _:
                assert_never(operation)

    def _delete(self, operation: DeleteOperation, request: Request) -> Response:
        if isinstance(operation, CancelUpload):
            return self._sessions.cancel(operation, request)
        if not self._options.deletes:
            raise DistributionError(405, "UNSUPPORTED", "this registry does not delete")
        holding = self._holdings.find(operation.name)
        match operation:
            case DeleteBlob():
                if operation.digest not in holding.blobs:
                    raise _blob_unknown(operation.name, operation.digest)
                holding.blobs.discard(operation.digest)
            case DeleteManifest(target=Digest() as digest):
                if digest not in holding.manifests:
                    raise _manifest_unknown(operation.name, digest)
                holding.remove_manifest(digest)
            case DeleteManifest(target=tag):
                if holding.tags.pop(tag, None) is None:
                    raise _manifest_unknown(operation.name, tag)
            case _:
                assert_never(operation)
        return Response(202)

    def _list(self, operation: ListRepositories | ListTags | ListReferrers, request: Request) -> Response:
        match operation:
            case ListRepositories():
                return self._list_page("repositories", self._holdings.repositories, operation.page, request)
            case ListTags():
                if operation.name not in self._holdings.repositories:
                    raise DistributionError(404, "NAME_UNKNOWN", f"no repository {operation.name}")
                tags = self._holdings.find(operation.name).tags
                return self._list_page("tags", tags, operation.page, request, name=operation.name)
            case ListReferrers():
                return self._list_referrers(operation)
            case _:
                assert_never(operation)

    def _list_page(
        self, key: str, names: Iterable[str], page: PageRequest, request: Request, **more: str
    ) -> Response:
        """Return one page of a list, with a Link to the next (specification, "Listing Tags")."""
        names_of_page, more_follow = cut_page(names, page, longest=self._options.page_size)
        headers: Headers = ()
        if more_follow:
            target = f"{request.path}?n={len(names_of_page)}&last={quote(names_of_page[-1], safe='')}"
            headers = (("Link", f'<{target}>; rel="next"'),)
        return json_response({**more, key: names_of_page}, headers=headers)

    def _list_referrers(self, operation: ListReferrers) -> Response:
        found = self._holdings.find(operation.name).referrers(operation.digest, operation.artifact_type)
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [manifest.referrer() for manifest in found],
        }
        filtered = operation.artifact_type is not None
        headers = (("OCI-Filters-Applied", "artifactType"),) if filtered else ()
        return json_response(index, headers=headers, media_type=OCI_INDEX)

    def _read_manifest(self, operation: ReadManifest) -> Response:
        manifest = self._holdings.find(operation.name).resolve(operation.target)
        if manifest is None:
            raise _manifest_unknown(operation.name, operation.target)
        headers = (
            ("Content-Type", manifest.descriptor.media_type),
            ("Docker-Content-Digest", manifest.descriptor.digest),
        )
        return Response(200, headers, Inline(manifest.content))

    def _read_blob(self, operation: ReadBlob, request: Request) -> Response:
        if request.method == "HEAD" and self._options.blob_heads != "own":
            content = self._holdings.store.get(operation.digest)
            if content is not None and self._options.blob_heads == "linking":
                self._holdings.create(operation.name).blobs.add(operation.digest)
        else:
            content = self._holdings.blob(operation.name, operation.digest)
        if content is None:
            raise _blob_unknown(operation.name, operation.digest)
        headers = (
            ("Content-Type", "application/octet-stream"),
            ("Docker-Content-Digest", operation.digest),
            ("Accept-Ranges", "bytes"),
        )
        span = read_range(request.headers.get("range"), content.size)
        if span is None:
            return Response(200, headers, content)
        start, end = span
        part = ("Content-Range", f"bytes {start}-{end - 1}/{content.size}")
        return Response(206, (*headers, part), content, start, end - start)

    def _write_manifest(
        self, operation: WriteManifest, request: Request, content: bytes, locations: LocationWriter
    ) -> Response:
        target, media_type = operation.target, request.headers.get("content-type")
        digest = Digest.of(content, algorithm=target.algorithm if isinstance(target, Digest) else "sha256")
        if isinstance(target, Digest) and target != digest:
            raise DistributionError(400, "DIGEST_INVALID", f"the manifest has the digest {digest}")
        manifest = read_manifest(content, media_type=media_type, digest=digest)
        if self._options.checks_references:
            self._check_references(operation.name, manifest)
        holding = self._holdings.create(operation.name)
        holding.manifests[digest] = manifest
        tags = operation.tags if isinstance(target, Digest) else (target, *operation.tags)
        holding.tags.update(dict.fromkeys(tags, digest))
        subject = (("OCI-Subject", manifest.subject),) if manifest.subject else ()
        return Response(
            201,
            (
                ("Location", locations.manifest(operation.name, digest)),
                ("Docker-Content-Digest", digest),
                *subject,
                *(("OCI-Tag", tag) for tag in operation.tags),
            ),
        )

    def _check_references(self, name: str, manifest: StoredManifest) -> None:
        missing = self._holdings.find(name).missing(manifest)
        if missing:
            raise DistributionError(400, "MANIFEST_BLOB_UNKNOWN", f"{name} lacks {', '.join(missing)}")

    def _locations(self, base: str) -> LocationWriter:
        own = "" if self._options.relative_locations else base
        return LocationWriter(self._options.location_base or own, self._options.location_state)


async def read_body(body: Body) -> bytes:
    """Read the body of a manifest or a form.

    Raises:
        DistributionError: it is larger than 4 MiB.
    """
    content = bytearray()
    async for data in body:
        content += data
        if len(content) > MANIFEST_BYTES_MAX:
            raise DistributionError(413, "SIZE_INVALID", "manifest larger than 4 MiB")
    return bytes(content)


def read_range(text: str | None, size: int) -> tuple[int, int] | None:
    """Return the start and the end (exclusive) of the range in a Range header (RFC 9110, 14.1.2).

    Returns:
        None if there is no range, or one that a server may ignore.

    Raises:
        DistributionError: 416, the range is outside of the blob.
    """
    match = _RANGE.fullmatch(text or "")
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    else:
        start, end = max(size - int(match[2]), 0), size
    if start >= end:
        raise DistributionError(416, "SIZE_INVALID", "no such range", (("Content-Range", f"bytes */{size}"),))
    return start, end


def _blob_unknown(name: str, digest: Digest) -> DistributionError:
    return DistributionError(404, "BLOB_UNKNOWN", f"{name} has no blob {digest}")


def _manifest_unknown(name: str, target: str) -> DistributionError:
    return DistributionError(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {target}")
