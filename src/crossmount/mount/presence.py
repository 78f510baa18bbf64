"""Whether a repository still holds a layer, by the registry's word, and what a 404 is worth."""

from collections.abc import Awaitable, Callable
from enum import Enum

from crossmount.oci import Digest, Repository
from crossmount.registry import RegistryClient


class Presence(Enum):
    """What a registry says of a source.

    Attributes:
        PRESENT: it is there.
        GONE: it is certainly not there, for nobody.
        HIDDEN: it is not there for us. Some registries hide behind a 404 what one may not read, so this says
            nothing for others.
    """

    PRESENT = "held"
    GONE = "gone"
    HIDDEN = "unseen"


async def check_presence(
    client: RegistryClient,
    layer: Digest,
    source: Repository,
    *,
    is_readable: Callable[[Repository], Awaitable[bool]] | None = None,
) -> Presence:
    """Ask a registry whether `source` holds `layer`.

    Args:
        client: the registry's.
        layer: which.
        source: where it is thought to be.
        is_readable: tells whether a 404 there means what it says; the client's own way by default.

    Raises:
        AccessDeniedError: `source` may not be read by us.
        RegistryError: the registry did not say.
    """
    if await client.head_blob(source, layer) is not None:
        return Presence.PRESENT
    certain = await (is_readable or client.is_readable)(source)
    return Presence.GONE if certain else Presence.HIDDEN
