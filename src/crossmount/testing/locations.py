"""The Locations that a registry sends: absolute or relative, its own or another's, with or without state."""

from dataclasses import dataclass

from crossmount.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Locations:
    """How Locations are written.

    Attributes:
        base: scheme, host and port, or nothing for relative ones.
        state: whether a session's Location carries a `_state`.
    """

    base: str = ""
    state: bool = True

    def blob(self, name: str, digest: Digest) -> str:
        """Return where a blob is."""
        return f"{self.base}/v2/{name}/blobs/{digest}"

    def manifest(self, name: str, digest: Digest) -> str:
        """Return where a manifest is."""
        return f"{self.base}/v2/{name}/manifests/{digest}"

    def session(self, name: str, session: str, offset: int) -> str:
        """Return where a session goes on after `offset` bytes."""
        query = f"?_state={session_state(session, offset)}" if self.state else ""
        return f"{self.base}/v2/{name}/blobs/uploads/{session}{query}"


def session_state(session: str, offset: int) -> str:
    """Return the state that a session's Location must carry; it has characters that must stay escaped."""
    return f"{session}%2F{offset}%3D%3D"


def is_session_state(state: str | None, session: str, offset: int | None) -> bool:
    """Tell whether a decoded `_state` belongs to a session, and to this offset if one is given."""
    if state is None or not state.endswith("=="):
        return False
    owner, _, at = state[:-2].rpartition("/")
    return owner == session and (offset is None or at == str(offset))
