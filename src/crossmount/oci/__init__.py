"""Values of the OCI specifications: digests, references, descriptors, manifests, layouts. No network.

Public methods take text too, and call `as_digest`, `as_repository` or `as_reference` once; inside the package only
values are passed on.
"""

from crossmount.oci.blob import AbsentBlob, BlobSource, BytesBlob, FileBlob
from crossmount.oci.descriptor import Descriptor, Digest, as_digest, as_digests
from crossmount.oci.manifest import Manifest
from crossmount.oci.reference import Located, Reference, Repository, as_reference, as_repository

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
