"""Values of the OCI specifications. No network, no state."""

from crossmount.oci.descriptor import Descriptor
from crossmount.oci.digest import Digest
from crossmount.oci.manifest import Manifest
from crossmount.oci.reference import Located, Reference, Repository

__all__ = ["Descriptor", "Digest", "Located", "Manifest", "Reference", "Repository"]
