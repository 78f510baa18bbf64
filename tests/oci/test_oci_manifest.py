"""Descriptors, manifests and indexes: their parsing and their errors."""

import contextlib
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import InvalidInputError, InvalidManifestError
from crossmount.oci import Descriptor, Digest, Manifest
from crossmount.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from crossmount.oci.manifest import MANIFEST_BYTES_MAX

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG: dict[str, Any] = {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": Digest.of(b"{}"),
    "size": 2,
}
LAYER: dict[str, Any] = {"mediaType": LAYER_TYPE, "digest": Digest.of(b"layer"), "size": 5}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_INDEX,
    "manifests": [{"mediaType": OCI_MANIFEST, "digest": Digest.of(b"m"), "size": 1}],
}
SPEC_DESCRIPTOR = {  # image specification, descriptor.md, "Examples"
    "mediaType": OCI_MANIFEST,
    "size": 7682,
    "digest": "sha256:5b0bcabd1ed22e9fb1310cf6c2dec7cdef19f0ad69efa1f392e94a4333501270",
    "urls": ["https://example.com/example-manifest"],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def parse(document: object, **how: Any) -> Manifest:
    """Parse a document's bytes."""
    return Manifest.parse(json.dumps(document).encode(), where="here", **how)


def test_descriptor_of_the_specification() -> None:
    """The specification's example of a descriptor is parsed, `urls` included."""
    found = Descriptor.from_json(SPEC_DESCRIPTOR, where="here")
    assert (found.size, found.urls) == (7682, ("https://example.com/example-manifest",))
    assert found.is_manifest
    assert not found.is_index
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 our own bytes
    assert {found: 1}[found] == 1


def test_descriptors_annotations_are_texts() -> None:
    """Annotations that are strings are kept, and others are left out."""
    document = {**LAYER, "annotations": {"a": "b", "c": 1}, "urls": "no"}
    assert Descriptor.from_json(document, where="here").annotations == {"a": "b"}
    assert Descriptor.from_json({**LAYER, "annotations": [1]}, where="here").annotations == {}
    assert Descriptor.from_json(document, where="here").urls == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mediaType": None}, "lacks its mediaType"),
        ({"mediaType": ""}, "lacks its mediaType"),
        ({"mediaType": 7}, "lacks its mediaType"),
        ({"size": None}, "number of bytes"),
        ({"size": -1}, "number of bytes"),
        ({"size": True}, "number of bytes"),
        ({"size": 5.0}, "number of bytes"),
        ({"size": "5"}, "number of bytes"),
        ({"size": 2**63}, "number of bytes"),
        ({"digest": None}, "not a digest"),
        ({"digest": "sha256:../../etc/passwd"}, "not a digest"),
        ({"digest": ["x"]}, "not a digest"),
    ],
)
def test_broken_descriptor_is_refused(change: dict[str, Any], message: str) -> None:
    """The error for a missing or invalid property names it and the descriptor's place."""
    with pytest.raises(InvalidManifestError, match=rf"^here: layers\[1\]: .*{message}"):
        parse({**MANIFEST, "layers": [LAYER, {**LAYER, **change}]})


@given(JSON)
def test_no_json_crashes_a_descriptor(document: object) -> None:
    """Any JSON is a descriptor or one of our errors."""
    with contextlib.suppress(InvalidManifestError):
        Descriptor.from_json(document, where="here")


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_manifest_names_its_blobs(kind: str) -> None:
    """A manifest of either media type has its config and layers, each digest once, in order."""
    found = parse({**MANIFEST, "mediaType": kind, "layers": [LAYER, CONFIG, LAYER]})
    assert [blob.digest for blob in found.blobs] == [CONFIG["digest"], LAYER["digest"]]
    assert found.children == ()
    assert found.descriptor == Descriptor(kind, Digest.of(found.content), len(found.content))
    assert not found.descriptor.is_index


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_index_names_its_children(kind: str) -> None:
    """An index of either media type has its manifests and no blobs."""
    found = parse({**INDEX, "mediaType": kind})
    assert [child.digest for child in found.children] == [Digest.of(b"m")]
    assert found.blobs == ()
    assert found.descriptor.is_index


def test_type_is_given_or_its_own_or_guessed() -> None:
    """The type is the given one, else the document's `mediaType`, else guessed by its properties."""
    for document, kind in ((MANIFEST, OCI_MANIFEST), (INDEX, OCI_INDEX)):
        bare = {key: value for key, value in document.items() if key != "mediaType"}
        assert parse(bare).descriptor.media_type == kind
        assert parse(bare, media_type=kind).descriptor.media_type == kind
        assert parse(document).descriptor.media_type == kind
    with pytest.raises(InvalidManifestError, match="what points at it says"):
        parse(MANIFEST, media_type=DOCKER_MANIFEST)


def test_document_that_is_both_kinds_is_refused() -> None:
    """A document that is both a manifest and an index is refused."""
    with pytest.raises(InvalidManifestError, match="yet it has manifests"):
        parse({**MANIFEST, "manifests": INDEX["manifests"]})
    with pytest.raises(InvalidManifestError, match="yet it has layers"):
        parse({**INDEX, "layers": [LAYER]})


def test_digest_is_checked() -> None:
    """Bytes that do not have the given digest are refused, for either algorithm."""
    content = json.dumps(MANIFEST).encode()
    digest = Digest.of(content, algorithm="sha512")
    assert Manifest.parse(content, digest=digest, where="here").descriptor.digest == digest
    with pytest.raises(InvalidManifestError, match="do not have the digest"):
        Manifest.parse(content + b" ", digest=digest, where="here")


def test_one_digest_has_one_size() -> None:
    """A manifest with two sizes for one digest is refused."""
    with pytest.raises(InvalidManifestError, match="has two sizes, 5 and 6"):
        parse({**MANIFEST, "layers": [LAYER, {**LAYER, "size": 6}]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"<!DOCTYPE html>", "not JSON: it starts with b'<!DOCTYPE"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "neither an image manifest nor an image index"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "schema 1: convert it"),
        (b'{"mediaType": "text/html"}', "'text/html' is neither"),
        (b'{"manifests": {}}', "no list of manifests"),
        (b'{"layers": []}', "config: a descriptor must be a JSON object"),
        (json.dumps({"config": CONFIG}).encode(), "no list of layers"),
        (b" " * (MANIFEST_BYTES_MAX + 1), "may have 4 MiB"),
    ],
)
def test_bytes_that_are_no_manifest_are_an_error(content: bytes, message: str) -> None:
    """An unsupported document is refused in one line that says why."""
    with pytest.raises(InvalidManifestError, match=message) as caught:
        Manifest.parse(content, where="here")
    assert "\n" not in str(caught.value)


@given(st.binary() | JSON.map(lambda document: json.dumps(document).encode()))
def test_no_bytes_crash_a_manifest(content: bytes) -> None:
    """Any bytes are a manifest or one of our errors."""
    with contextlib.suppress(InvalidInputError):
        Manifest.parse(content, where="here")


@given(JSON, st.sampled_from(["config", "layers", "manifests", "mediaType", "schemaVersion"]))
def test_no_part_crashes_a_manifest(part: object, key: str) -> None:
    """A manifest or index with any value in a property is a value or one of our errors."""
    for document in (MANIFEST, INDEX):
        with contextlib.suppress(InvalidInputError):
            parse({**document, key: part})
