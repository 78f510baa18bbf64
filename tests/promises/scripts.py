"""Scripts of requests on one registry, as clients of every kind send them, and what comes back.

The names and the bytes of a script are salted, so many scripts can be played on one registry.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import httpx
from hypothesis import strategies as st

from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_MANIFEST

REPOSITORIES = ("base", "team/one", "team/two")
BLOBS = range(3)
SIZES = (1, 700, 4000)
TAGS = ("v1", "v2")
OCTETS = {"Content-Type": "application/octet-stream"}

FACTS = ("docker-content-digest", "content-length", "content-range", "content-type", "range", "accept-ranges")
"""The headers that clients act on, Location aside."""

Way = Literal["whole", "put", "last", "chunks", "repeated", "skipped", "wrong", "cancelled", "status"]
"""How a blob is uploaded: in the POST, in one PUT, in a PATCH before the PUT, in chunks, with the first chunk sent
twice, with a gap, under another digest, given up, with a question for the offset in the middle."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a client does.

    Attributes:
        kind: what it does.
        name: the repository.
        blob: the blob; for a manifest the first of its blobs.
        source: where a mount comes from; None names none.
        way: how a blob is uploaded.
        target: the tag of a manifest; None is its digest.
        given: a range of bytes, or a path that is no route.
    """

    kind: Literal["head", "get", "delete", "mount", "upload", "put", "read", "drop", "tags", "odd"]
    name: str = REPOSITORIES[1]
    blob: int = 0
    source: str | None = None
    way: Way = "put"
    target: str | None = None
    given: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """A script.

    Attributes:
        held: which blobs which repositories have at the start.
        steps: what clients do, one after the other.
        known: whether the index knows at the start what is held.
    """

    held: frozenset[tuple[str, int]]
    steps: tuple[Step, ...]
    known: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer, as far as a client acts on it.

    Attributes:
        status: its status.
        code: the first error code by the specification.
        facts: the headers of an answer that says yes.
        body: the body of such an answer.
        place: the kind of its Location: `session`, `blob`, `manifest`.
    """

    status: int
    code: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    place: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it says yes."""
        return 200 <= self.status < 300

    @classmethod
    def of(cls, answer: httpx.Response) -> "Seen":
        """Return what an answer says."""
        if not answer.is_success:
            return cls(answer.status_code, _code(answer))
        facts = tuple((name, answer.headers[name]) for name in FACTS if name in answer.headers)
        if answer.request.method not in {"GET", "HEAD"}:
            facts = tuple(pair for pair in facts if pair[0] in {"docker-content-digest", "range"})
        body = answer.content if answer.request.method == "GET" else b""
        return cls(answer.status_code, "", facts, body, _place(answer.headers.get("location", "")))


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["errors"][0]["code"])
    except (ValueError, KeyError, IndexError, TypeError):
        return ""


def _place(location: str) -> str:
    path = httpx.URL(location).path
    kinds = {"/blobs/uploads/": "session", "/blobs/": "blob", "/manifests/": "manifest"}
    return next((kind for part, kind in kinds.items() if part in path), "")


@dataclass(frozen=True, slots=True)
class Salted:
    """The names and bytes of one script.

    Attributes:
        salt: what makes them its own.
    """

    salt: str

    def repository(self, name: str) -> str:
        """Return the real name of a repository."""
        return f"{self.salt}/{name}"

    def data(self, blob: int) -> bytes:
        """Return the bytes of a blob."""
        size, seed = SIZES[blob], f"{self.salt}-{blob}".encode()
        return b"".join(hashlib.sha256(seed + bytes([i % 256])).digest() for i in range(size // 32 + 1))[:size]

    def digest(self, blob: int) -> Digest:
        """Return the digest of a blob."""
        return Digest.of(self.data(blob))

    def manifest(self, blob: int) -> bytes:
        """Return a manifest of two blobs."""
        config, layer = (
            {"mediaType": f"application/vnd.tests.{i}", "digest": self.digest(i % 3), "size": SIZES[i % 3]}
            for i in (blob, blob + 1)
        )
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
        return json.dumps(document).encode()


@dataclass(frozen=True, slots=True)
class Client:
    """A client of a registry, or of a proxy before it.

    Attributes:
        http: its connections.
        salted: the names of its script.
    """

    http: httpx.AsyncClient
    salted: Salted

    async def play(self, step: Step) -> list[Seen]:
        """Do a step, and return the answers."""
        if step.kind == "upload":
            return await self._upload(step)
        method, path, content, headers = self._request(step)
        return [await self._send(method, path, content, headers)]

    async def holds(self, name: str, blob: int) -> bool:
        """Return whether a repository has a blob, with its bytes."""
        path = f"/v2/{self.salted.repository(name)}/blobs/{self.salted.digest(blob)}"
        answer = await self.http.get(path)
        assert answer.status_code in {200, 404}
        return answer.status_code == 200 and answer.content == self.salted.data(blob)

    def _request(  # noqa: PLR0911 a table
        self, step: Step
    ) -> tuple[str, str, bytes, Mapping[str, str]]:
        salted, nothing = self.salted, b""
        base, digest = f"/v2/{salted.repository(step.name)}", salted.digest(step.blob)
        manifest = salted.manifest(step.blob)
        document = f"{base}/manifests/{step.target or Digest.of(manifest)}"
        source = "" if step.source is None else f"&from={salted.repository(step.source)}"
        given = {"Range": step.given} if step.given else {}
        method, _, path = step.given.partition(" ")
        match step.kind:
            case "head":
                return "HEAD", f"{base}/blobs/{digest}", nothing, {}
            case "get":
                return "GET", f"{base}/blobs/{digest}", nothing, given
            case "delete":
                return "DELETE", f"{base}/blobs/{digest}", nothing, {}
            case "mount":
                return "POST", f"{base}/blobs/uploads/?mount={digest}{source}", nothing, {}
            case "put":
                return "PUT", document, manifest, {"Content-Type": OCI_MANIFEST}
            case "read":
                return "GET", document, nothing, {"Accept": OCI_MANIFEST}
            case "drop":
                return "DELETE", f"{base}/manifests/{Digest.of(manifest)}", nothing, {}
            case "tags":
                return "GET", f"{base}/tags/list", nothing, {}
            case _:
                return method, path.replace("NAME", salted.repository(step.name)), nothing, {}

    async def _upload(self, step: Step) -> list[Seen]:
        data, digest = self.salted.data(step.blob), self.salted.digest(step.blob)
        uploads = f"/v2/{self.salted.repository(step.name)}/blobs/uploads/"
        if step.way == "whole":
            last = await self._send("POST", f"{uploads}?digest={digest}", data, OCTETS)
            return [last]  # 202 means that the registry does not take a blob so
        opened = await self.http.post(uploads)
        seen, location = [Seen.of(opened)], opened.headers.get("location")
        if opened.status_code != 202 or location is None:
            return seen
        rest, half = data, len(data) // 2
        for start, end in _chunks(step.way, half, len(data)):
            chunk = data[start:end]
            headers = {**OCTETS, "Content-Range": f"{start}-{end - 1}"} if step.way != "last" else OCTETS
            answer = await self.http.patch(location, content=chunk, headers=headers)
            if step.way == "repeated":  # the answer is lost, and so is the next Location
                seen.append(Seen.of(await self.http.patch(location, content=chunk, headers=headers)))
            seen.append(Seen.of(answer))
            if answer.status_code == 202:
                location, rest = answer.headers.get("location", location), data[end:]
        if step.way == "status":
            seen.append(await self._send("GET", location, b"", {}))
        if step.way == "cancelled":
            return [*seen, await self._send("DELETE", location, b"", {})]
        named = digest if step.way != "wrong" else Digest.of(data + b"!")
        url = httpx.URL(location).copy_add_param("digest", named)
        return [*seen, Seen.of(await self.http.put(url, content=rest, headers=OCTETS))]

    async def _send(self, method: str, path: str, content: bytes, headers: Mapping[str, str]) -> Seen:
        try:
            return Seen.of(await self.http.request(method, path, content=content or None, headers=headers))
        except httpx.RemoteProtocolError:  # distribution answers some ranges so
            return Seen(0)


def _chunks(way: Way, half: int, size: int) -> list[tuple[int, int]]:
    """Return the first and the end of each chunk before the last PUT."""
    if half == 0:
        return [(0, size)] if way in {"last", "chunks"} else []
    first = (0, half)
    chunks: dict[str, list[tuple[int, int]]] = {
        "last": [(0, size)],
        "chunks": [first, (half, size)],
        "status": [first, (half, size)],
        "repeated": [first],
        "skipped": [first, (half + 1, size)],
        "cancelled": [first],
    }
    return chunks.get(way, [])


ODD = (
    "GET /v2/NAME/manifests/.hidden",
    "HEAD /v2/NAME/manifests/-dash",
    "GET /v2/NAME/Upper/tags/list",
    "GET /v2/NAME/manifests/absent",
    "HEAD /v2/NAME/manifests/absent",
    "PUT /v2/NAME/manifests/.hidden",
    "DELETE /v2/NAME/manifests/absent",
    "POST /v2/NAME/Upper/blobs/uploads/",
    "GET /v2/NAME/blobs/uploads/no-such-session",
    "PATCH /v2/NAME/blobs/uploads/no-such-session",
    "GET /v2/NAME/blobs/sha256:short",
    "GET /v2/",
    "GET /v2/NAME/nonsense",
)
"""Requests for what is not there, or has no name that could be."""

_NAMES = st.sampled_from(REPOSITORIES)
_BLOBS = st.sampled_from(list(BLOBS))
_RANGES = st.sampled_from(["", "bytes=0-9", "bytes=5-", "bytes=-3", "bytes=9999-", "bytes=4-2", "nonsense"])
_WAYS = st.sampled_from(get_args(Way))
_SOURCES = st.none() | st.sampled_from([*REPOSITORIES, "absent"])
_STEPS = st.one_of(
    st.builds(Step, st.sampled_from(["head", "head", "delete", "drop", "put", "read", "tags"]), _NAMES, _BLOBS),
    st.builds(Step, st.just("get"), _NAMES, _BLOBS, given=_RANGES),
    st.builds(Step, st.just("mount"), _NAMES, _BLOBS, source=_SOURCES),
    st.builds(Step, st.just("upload"), _NAMES, _BLOBS, way=_WAYS),
    st.builds(Step, st.sampled_from(["put", "read"]), _NAMES, _BLOBS, target=st.sampled_from(TAGS)),
    st.builds(Step, st.just("odd"), _NAMES, given=st.sampled_from(ODD)),
)

SCRIPTS = st.builds(
    Script,
    st.frozensets(st.tuples(_NAMES, _BLOBS), max_size=4),
    st.lists(_STEPS, min_size=1, max_size=8).map(tuple),
    st.booleans(),
)
"""Scripts that Hypothesis writes."""
