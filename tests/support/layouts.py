"""Image layouts written piece by piece, for tests of odd and broken ones; `images.make_layout` makes good ones."""

import json
from pathlib import Path
from typing import Any

from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_INDEX, OCI_MANIFEST, REF_NAME
from crossmount.oci.layout import CONTAINERD_NAME

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"

Entry = dict[str, Any]
"""A descriptor, as JSON."""


def write(layout: Path, content: bytes, kind: str = LAYER_TYPE, *, algorithm: str = "sha256") -> Entry:
    """Put a blob into a layout, and return its descriptor."""
    digest = Digest.of(content, algorithm=algorithm)
    path = layout / "blobs" / algorithm / digest.encoded
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": kind, "digest": str(digest), "size": len(content)}


def write_manifest(layout: Path, *layers: Entry, algorithm: str = "sha256") -> Entry:
    """Put a manifest with these layers into a layout."""
    config = write(layout, b"{}", "application/vnd.oci.image.config.v1+json")
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    return write(layout, json.dumps(document).encode(), OCI_MANIFEST, algorithm=algorithm)


def write_index(layout: Path, *children: Entry) -> Entry:
    """Put an index of these manifests into a layout."""
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    return write(layout, json.dumps(document).encode(), OCI_INDEX)


def write_root(layout: Path, *entries: Entry) -> Path:
    """Make `layout` an image layout of these images."""
    layout.mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return layout


def named(entry: Entry, tag: str, full: str | None = None) -> Entry:
    """Return an index.json entry with its names."""
    names = {REF_NAME: tag} | ({CONTAINERD_NAME: full} if full else {})
    return {**entry, "annotations": names}
