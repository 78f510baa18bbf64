"""Upload sessions for tests that never send a byte."""

from crossmount.oci import Repository
from crossmount.registry import UploadSession

DEST = Repository("r.example", "dest")


def session(number: int = 0) -> UploadSession:
    """Return a session like a registry opens, told apart by its number."""
    return UploadSession(repository=DEST, location=f"https://r.example/v2/dest/blobs/uploads/{number}")
