"""Values of the OCI specifications: digests, references, descriptors, manifests, layouts. No network."""

from crossmount.oci.blob import AbsentBlob, BlobSource, BytesBlob, FileBlob
from crossmount.oci.coerce import as_digest, as_digests, as_reference, as_repository
from crossmount.oci.descriptor import Descriptor, Digest
from crossmount.oci.manifest import Manifest
from crossmount.oci.reference import Located, Reference, Repository

__all__ = [
    "AbsentBlob",
    "BlobSource",
    "BytesBlob",
    "Descriptor",
    "Digest",
    "FileBlob",
    "Located",
    "Manifest",
    "Reference",
    "Repository",
    "as_digest",
    "as_digests",
    "as_reference",
    "as_repository",
]
