"""Push a layout as simply as a program can that hashes what it sends: read, hash, send, in one thread.

    python tests/bench/plain_upload.py LAYOUT HOST:PORT/REPOSITORY:TAG

It has no retries, mounts, tokens or progress; `peers.py` shows its time beside the others' as the least one.
"""

import hashlib
import http.client
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

PART = 1024 * 1024


def main() -> None:
    """Push the layout's first image."""
    layout, reference = Path(sys.argv[1]), sys.argv[2]
    host, _, rest = reference.partition("/")
    repository, _, tag = rest.partition(":")
    connection = http.client.HTTPConnection(host)
    named = json.loads((layout / "index.json").read_bytes())["manifests"][0]
    manifest = blob_file(layout, named["digest"]).read_bytes()
    about = json.loads(manifest)
    for blob in (about["config"], *about["layers"]):
        location = ask(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", {}, 202)
        session = urlsplit(location)
        path = f"{session.path}?{session.query}&digest={blob['digest']}"
        body = hashed(blob_file(layout, blob["digest"]), blob["digest"])
        ask(connection, "PUT", path, body, {"Content-Length": str(blob["size"])}, 201)
    headers = {"Content-Type": named["mediaType"]}
    ask(connection, "PUT", f"/v2/{repository}/manifests/{tag}", manifest, headers, 201)


def blob_file(layout: Path, digest: str) -> Path:
    """Return the file of a blob."""
    return layout / "blobs" / digest.replace(":", "/")


def hashed(file: Path, digest: str) -> Iterator[bytes]:
    """Yield a file, and check its digest."""
    algorithm, _, expected = digest.partition(":")
    state = hashlib.new(algorithm)
    with file.open("rb", buffering=0) as opened:
        while part := opened.read(PART):
            state.update(part)
            yield part
    if state.hexdigest() != expected:
        raise ValueError(f"{file}: another digest")


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterator[bytes],
    headers: dict[str, str],
    expected: int,
) -> str:
    """Send a request, and return the answer's Location.

    Raises:
        RuntimeError: the answer is not the expected one.
    """
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status != expected:
        raise RuntimeError(f"{method} {path}: {answer.status}")
    return answer.headers.get("Location", "")


if __name__ == "__main__":
    main()
