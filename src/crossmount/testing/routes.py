"""Parses method, path and query into an operation (distribution specification, "Endpoints"). No I/O."""

import re
from collections.abc import Callable

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidDigestError
from crossmount.oci.descriptor import Digest
from crossmount.oci.reference import is_repository_name, is_tag
from crossmount.testing.values import DistributionError, Request


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The requested part of a list; `count` is None if the client sets no limit."""

    count: int | None = None
    last: str = ""


@dataclass(frozen=True, slots=True)
class VersionCheck:
    """`GET /v2/`."""


@dataclass(frozen=True, slots=True)
class ListRepositories:
    """`GET /v2/_catalog`."""

    page: PageRequest


@dataclass(frozen=True, slots=True)
class ListTags:
    """`GET /v2/<name>/tags/list`."""

    name: str
    page: PageRequest


@dataclass(frozen=True, slots=True)
class ListReferrers:
    """`GET /v2/<name>/referrers/<digest>`."""

    name: str
    digest: Digest
    artifact_type: str | None = None


@dataclass(frozen=True, slots=True)
class ReadManifest:
    """`GET` or `HEAD /v2/<name>/manifests/<target>`."""

    name: str
    target: str | Digest


@dataclass(frozen=True, slots=True)
class WriteManifest:
    """`PUT /v2/<name>/manifests/<target>`; a digest may be followed by `?tag=…&tag=…`."""

    name: str
    target: str | Digest
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeleteManifest:
    """`DELETE /v2/<name>/manifests/<target>`."""

    name: str
    target: str | Digest


@dataclass(frozen=True, slots=True)
class ReadBlob:
    """`GET` or `HEAD /v2/<name>/blobs/<digest>`."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class DeleteBlob:
    """`DELETE /v2/<name>/blobs/<digest>`."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class PostUpload:
    """`POST /v2/<name>/blobs/uploads/`: opens a session, or with `?digest=` uploads a whole blob."""

    name: str
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class MountBlob:
    """`POST /v2/<name>/blobs/uploads/?mount=<digest>[&from=<source>]`."""

    name: str
    digest: Digest
    source: str | None = None


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """`GET` of a session's Location."""

    name: str
    session: str


@dataclass(frozen=True, slots=True)
class AppendUpload:
    """`PATCH` of a session's Location."""

    name: str
    session: str


@dataclass(frozen=True, slots=True)
class FinishUpload:
    """`PUT` of a session's Location with `?digest=`."""

    name: str
    session: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class CancelUpload:
    """`DELETE` of a session's Location."""

    name: str
    session: str


ReadOperation = VersionCheck | ListRepositories | ListTags | ListReferrers | ReadManifest | ReadBlob | UploadStatus
WriteOperation = WriteManifest | PostUpload | MountBlob | AppendUpload | FinishUpload
DeleteOperation = DeleteManifest | DeleteBlob | CancelUpload
Operation = ReadOperation | WriteOperation | DeleteOperation

_SHAPES = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("ping", r"/v2/?"),
        ("catalog", r"/v2/_catalog"),
        ("tags", r"/v2/(?P<name>.+)/tags/list"),
        ("referrers", r"/v2/(?P<name>.+)/referrers/(?P<target>[^/]*)"),
        ("manifest", r"/v2/(?P<name>.+)/manifests/(?P<target>[^/]*)"),
        ("uploads", r"/v2/(?P<name>.+)/blobs/uploads/?"),
        ("session", r"/v2/(?P<name>.+)/blobs/uploads/(?P<target>[A-Za-z0-9_-]+)"),
        ("blob", r"/v2/(?P<name>.+)/blobs/(?P<target>[^/]*)"),
    )
)


def route(request: Request) -> Operation:
    """Return the operation that a request asks for.

    Raises:
        DistributionError: there is no such endpoint (404) or method (405), or a part breaks its grammar (400).
    """
    for kind, shape in _SHAPES:
        match = shape.fullmatch(request.path)
        if match:
            parts = match.groupdict()
            return _operation(kind, request, parts.get("name", ""), parts.get("target", ""))
    raise DistributionError(404, "NAME_UNKNOWN", f"no endpoint at {request.path[:200]!r}")


def _operation(kind: str, request: Request, name: str, target: str) -> Operation:
    if name and not is_repository_name(name):
        raise DistributionError(400, "NAME_INVALID", f"not a repository name: {name[:200]!r}")
    method = "GET" if request.method == "HEAD" else request.method
    make = _ENDPOINTS.get((kind, method))
    if make is None:
        raise DistributionError(405, "UNSUPPORTED", f"{request.method[:20]} is not supported here")
    return make(request, name, target)


def _write_manifest(request: Request, name: str, target: str) -> WriteManifest:
    return WriteManifest(name, _target(target), tuple(_tag(tag) for tag in request.params("tag")))


def _finish_upload(request: Request, name: str, session: str) -> FinishUpload:
    return FinishUpload(name, session, _digest(request.param("digest") or ""))


def _post(request: Request, name: str, _: str) -> PostUpload | MountBlob:
    mount, source, digest = request.param("mount"), request.param("from"), request.param("digest")
    if mount is not None:
        if source and not is_repository_name(source):
            raise DistributionError(400, "NAME_INVALID", f"from is not a repository name: {source[:200]!r}")
        return MountBlob(name, _digest(mount), source or None)
    return PostUpload(name, _digest(digest) if digest is not None else None)


_ENDPOINTS: dict[tuple[str, str], Callable[[Request, str, str], Operation]] = {
    ("ping", "GET"): lambda _, __, ___: VersionCheck(),
    ("catalog", "GET"): lambda request, _, __: ListRepositories(_page(request)),
    ("tags", "GET"): lambda request, name, _: ListTags(name, _page(request)),
    ("referrers", "GET"): lambda request, name, target: ListReferrers(
        name, _digest(target), request.param("artifactType")
    ),
    ("manifest", "GET"): lambda _, name, target: ReadManifest(name, _target(target)),
    ("manifest", "PUT"): _write_manifest,
    ("manifest", "DELETE"): lambda _, name, target: DeleteManifest(name, _target(target)),
    ("blob", "GET"): lambda _, name, target: ReadBlob(name, _digest(target)),
    ("blob", "DELETE"): lambda _, name, target: DeleteBlob(name, _digest(target)),
    ("uploads", "POST"): _post,
    ("session", "GET"): lambda _, name, target: UploadStatus(name, target),
    ("session", "PATCH"): lambda _, name, target: AppendUpload(name, target),
    ("session", "PUT"): _finish_upload,
    ("session", "DELETE"): lambda _, name, target: CancelUpload(name, target),
}


def _digest(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidDigestError as error:
        raise DistributionError(400, "DIGEST_INVALID", str(error)) from None


def _target(text: str) -> str | Digest:
    if ":" in text:
        return _digest(text)
    return _tag(text)


def _tag(text: str) -> str:
    if not is_tag(text):
        # The specification has no code for an invalid tag; distribution sends this one.
        raise DistributionError(400, "TAG_INVALID", f"not a tag: {text[:200]!r}")
    return text


def _page(request: Request) -> PageRequest:
    count, last = request.param("n"), request.param("last") or ""
    if count is None:
        return PageRequest(None, last)
    if not re.fullmatch(r"[0-9]{1,9}", count):
        raise DistributionError(400, "PAGINATION_NUMBER_INVALID", f"n is not a number: {count[:40]!r}")
    return PageRequest(int(count), last)
