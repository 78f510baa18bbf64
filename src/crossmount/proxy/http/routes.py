"""The routes of the proxy, parsed from the raw path and query (distribution specification, "Endpoints"). Pure.

The path is checked and forwarded byte for byte. A path that two servers could read differently is refused: encoded
slashes, dot segments, empty segments, backslashes, control characters. So is a query with a significant parameter
twice, or in capitals, which some servers read as the same name. Only `%3A` is decoded, which some clients send for
the colon of a digest.
"""

import re
from urllib.parse import parse_qsl, urlencode

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidDigestError
from crossmount.oci import Digest
from crossmount.oci.reference import is_repository_name, is_tag
from crossmount.proxy.http.errors import RequestRefusedError, digest_invalid, name_invalid

OWN_PREFIX = "/_crossmount/"
"""The path of the proxy's own endpoints. No repository name starts with an underscore."""

_TARGET_MAX = 8 * 1024
_PARAMETERS_MAX = 64
_PLAIN_PATH = re.compile(rb"/[A-Za-z0-9._~:@+=,!*'()$&/-]*")
_QUERY = re.compile(rb"[\x21-\x3a\x3c-\x7e]*")  # no semicolon: some servers split parameters there
_COLON = re.compile(rb"%3[Aa]")
_SINGLE = frozenset({"mount", "from", "digest", "n", "last", "artifactType"})
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class OwnEndpoint:
    """`/_crossmount/<name>`: an endpoint of the proxy itself; the name is `/` if that slash lacks."""

    name: str


@dataclass(frozen=True, slots=True)
class ApiBase:
    """`/v2/`: the API version check, which clients also use to authenticate."""


@dataclass(frozen=True, slots=True)
class CatalogRoute:
    """`/v2/_catalog`."""


@dataclass(frozen=True, slots=True)
class BlobRoute:
    """`/v2/<name>/blobs/<digest>`."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class UploadsRoute:
    """`/v2/<name>/blobs/uploads/`: starts an upload, or asks for a mount.

    Attributes:
        name: the repository.
        mount: the digest of the blob to mount; None if the request names none.
        source: the repository to mount from; None also if it is not a repository name, so that the mount fails.
        digest: the digest of the blob in this request's body; None if the request names none.
        rest: the query without `mount` and `from`.
    """

    name: str
    mount: Digest | None = None
    source: str | None = None
    digest: Digest | None = None
    rest: str = ""

    def query(self) -> str:
        """Return the query for the registry."""
        mount = [] if self.mount is None else [("mount", str(self.mount))]
        source = [("from", self.source)] if self.mount is not None and self.source is not None else []
        return "&".join(part for part in (urlencode(mount + source), self.rest) if part)


@dataclass(frozen=True, slots=True)
class SessionRoute:
    """`/v2/<name>/blobs/uploads/<session>`: an upload session.

    Attributes:
        name: the repository.
        session: the session's name.
        digest: the digest of the blob that this request completes; None if the request names none.
    """

    name: str
    session: str
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class ManifestRoute:
    """`/v2/<name>/manifests/<tag or digest>`.

    Attributes:
        name: the repository.
        target: the tag or digest.
        tags: more tags, by `?tag=`.
    """

    name: str
    target: str
    tags: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest | None:
        """The target if it is a digest; None if it is a tag."""
        return Digest(self.target) if ":" in self.target else None


@dataclass(frozen=True, slots=True)
class TagsRoute:
    """`/v2/<name>/tags/list`."""

    name: str


@dataclass(frozen=True, slots=True)
class ReferrersRoute:
    """`/v2/<name>/referrers/<digest>`."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class OtherRoute:
    """Any other path under `/v2/`, which is forwarded."""


Route = (
    OwnEndpoint
    | ApiBase
    | CatalogRoute
    | BlobRoute
    | UploadsRoute
    | SessionRoute
    | ManifestRoute
    | TagsRoute
    | ReferrersRoute
    | OtherRoute
)


def route_name(route: Route) -> str:
    """Return the name of a route for logs and metrics."""
    return _NAMES[type(route)]


_NAMES: dict[type, str] = {
    OwnEndpoint: "own",
    ApiBase: "base",
    CatalogRoute: "catalog",
    BlobRoute: "blob",
    UploadsRoute: "uploads",
    SessionRoute: "session",
    ManifestRoute: "manifest",
    TagsRoute: "tags",
    ReferrersRoute: "referrers",
    OtherRoute: "other",
}


def parse_route(raw_path: bytes, query: bytes) -> Route:
    """Return the route of a path and a query.

    Raises:
        RequestRefusedError: there is no such route, or two servers could read it differently.
    """
    path = _checked_path(raw_path, query)
    if path == OWN_PREFIX.rstrip("/"):
        return OwnEndpoint("/")
    if path.startswith(OWN_PREFIX):
        return OwnEndpoint(path.removeprefix(OWN_PREFIX))
    if path in {"/v2", "/v2/"}:
        return ApiBase()
    if not path.startswith("/v2/"):
        raise RequestRefusedError(404, "NOT_FOUND", "only /v2/ is served here")
    parameters = _parameters(query)
    if path == "/v2/_catalog":
        return CatalogRoute()
    return _in_repository(path.removeprefix("/v2/").split("/"), parameters)


def _checked_path(raw_path: bytes, query: bytes) -> str:
    if len(raw_path) + len(query) > _TARGET_MAX:
        raise RequestRefusedError(414, "NAME_INVALID", "the request's target is too long")
    plain = _COLON.sub(b":", raw_path)
    if not _PLAIN_PATH.fullmatch(plain):
        raise name_invalid("the path has characters, or an encoding, that no registry path has")
    path = plain.decode("ascii")
    segments = path.split("/")[1:]
    if any(segment in {".", ".."} for segment in segments) or "" in segments[:-1]:
        raise name_invalid("the path has empty or dot segments")
    if not _QUERY.fullmatch(query):
        raise RequestRefusedError(400, "UNSUPPORTED", "the query has characters that must be encoded")
    return path


def _parameters(query: bytes) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, max_num_fields=_PARAMETERS_MAX, errors="strict"
        )
    except ValueError:
        raise RequestRefusedError(
            400, "UNSUPPORTED", "the query is not UTF-8, or has too many parameters"
        ) from None
    names = [name for name, _ in pairs]
    for name in names:
        if name not in _SINGLE and name.lower() in _SINGLE:
            raise RequestRefusedError(400, "UNSUPPORTED", f"write the parameter {name.lower()} in lower case")
    for name in _SINGLE:
        if names.count(name) > 1:
            code = "DIGEST_INVALID" if name in {"digest", "mount"} else "UNSUPPORTED"
            raise RequestRefusedError(400, code, f"the parameter {name} comes more than once")
    return pairs


def _in_repository(segments: list[str], parameters: list[tuple[str, str]]) -> Route:  # noqa: PLR0911 a table
    if segments[-1] == "" and segments[-3:-1] == ["blobs", "uploads"]:
        segments = segments[:-1]  # `uploads` and `uploads/` are the same
    match segments:
        case [*name, "blobs", "uploads"]:
            return _uploads(_name(name), parameters)
        case [*name, "blobs", "uploads", session]:
            return _session(_name(name), session, parameters)
        case [*name, "blobs", digest]:
            return BlobRoute(_name(name), _digest(digest, code_of_404="BLOB_UNKNOWN"))
        case [*name, "manifests", target]:
            tags = tuple(value for key, value in parameters if key == "tag")
            return ManifestRoute(_name(name), _target(target), tags)
        case [*name, "tags", "list"]:
            return TagsRoute(_name(name))
        case [*name, "referrers", digest]:
            return ReferrersRoute(_name(name), _digest(digest))
    return OtherRoute()


def _uploads(name: str, parameters: list[tuple[str, str]]) -> UploadsRoute:
    given = dict(parameters)
    source = given.get("from")
    return UploadsRoute(
        name,
        mount=_digest(given["mount"]) if "mount" in given else None,
        source=source if source is not None and is_repository_name(source) else None,
        digest=_digest(given["digest"]) if "digest" in given else None,
        rest=urlencode([pair for pair in parameters if pair[0] not in {"mount", "from"}]),
    )


def _session(name: str, session: str, parameters: list[tuple[str, str]]) -> SessionRoute:
    given = dict(parameters)
    if not _SESSION.fullmatch(session):
        raise RequestRefusedError(404, "BLOB_UPLOAD_UNKNOWN", "no such upload session: start a new one")
    return SessionRoute(name, session, _digest(given["digest"]) if "digest" in given else None)


def _name(segments: list[str]) -> str:
    name = "/".join(segments)
    if not is_repository_name(name):
        raise name_invalid("not a repository name: lower-case words of a-z 0-9 joined by . _ - and /")
    return name


def _digest(text: str, *, code_of_404: str = "") -> Digest:
    try:
        return Digest(text)
    except InvalidDigestError as error:
        raise digest_invalid(str(error), code_of_404=code_of_404) from None


def _target(text: str) -> str:
    if ":" in text:
        return _digest(text, code_of_404="MANIFEST_UNKNOWN")
    if not is_tag(text):
        message = "not a tag: at most 128 of A-Z a-z 0-9 . _ -"
        raise RequestRefusedError(400, "TAG_INVALID", message, code_of_404="MANIFEST_UNKNOWN")
    return text
