"""Images put directly into a scripted registry, without requests: thousands in a moment."""

import json
from collections.abc import Sequence
from typing import Any

from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from crossmount.testing import ScriptedRegistry
from crossmount.testing.holdings import read_manifest

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"


def entry(content: bytes, kind: str = LAYER, **more: Any) -> dict[str, Any]:
    """Return a descriptor as JSON."""
    return {"mediaType": kind, "digest": Digest.of(content), "size": len(content), **more}


def put_image(registry: ScriptedRegistry, name: str, tag: str | None, layers: Sequence[bytes]) -> Digest:
    """Put an image of these layers into a repository, and return its manifest's digest."""
    config = json.dumps({"layers": [Digest.of(layer) for layer in layers]}).encode()
    for content in (config, *layers):
        registry.put_blob(name, content)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(config, CONFIG),
        "layers": [entry(layer) for layer in layers],
    }
    return put_document(registry, name, tag, document, OCI_MANIFEST)


def put_index(registry: ScriptedRegistry, name: str, tag: str | None, children: Sequence[Digest]) -> Digest:
    """Put an index of these manifests, which may be absent, into a repository."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": child, "size": 2} for child in children],
    }
    return put_document(registry, name, tag, document, OCI_INDEX)


def put_document(
    registry: ScriptedRegistry, name: str, tag: str | None, document: dict[str, Any], kind: str
) -> Digest:
    """Put any manifest into a repository."""
    content = json.dumps(document).encode()
    digest = Digest.of(content)
    holding = registry.holdings.create(name)
    holding.manifests[digest] = read_manifest(content, media_type=kind, digest=digest)
    if tag is not None:
        holding.tags[tag] = digest
    return digest
