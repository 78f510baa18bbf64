"""The format of an index's data, as a number: commands of operators leave it, and look at it before they write.

A look-up or a push does not ask for it: they read and write only what every release understands.
"""

from crossmount._parsing import decimal
from crossmount.errors import IndexFailedError, IndexRefusedError
from crossmount.index.protocol import MountIndex, backing_server

FORMAT = 2
"""The format that this release writes. 1 is that of 0.1.0, which left no number and whose data is read on."""

LIFE_SECONDS = 400 * 86400
"""How long the number stays after the last command that wrote; an index without one is new, or in format 1."""


async def claim_format(index: MountIndex) -> str:
    """Check that this release may write to an index, and leave the number of its format there.

    Returns:
        A note for the user where the index was in an older format; else nothing.

    Raises:
        IndexRefusedError: the index is in a newer format. Nothing was written.
        IndexFailedError: the server does not answer, or refuses a command.
    """
    server = backing_server(index)
    if server is None:
        return ""
    key = server.keys.data_format()
    (reply,) = await server.link.run([("GETRANGE", key, 0, 15)])
    if isinstance(reply, IndexFailedError):
        raise _for_operators(reply)
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
    found = decimal(text) if text else 0
    if found is None or found > FORMAT:
        raise IndexRefusedError(
            f"index at {server.link.where} is in format {text[:16]!r}, and this crossmount writes format "
            f"{FORMAT}: upgrade crossmount; nothing was written"
        )
    (reply,) = await server.link.run([("SET", key, FORMAT, "EX", LIFE_SECONDS)])
    if isinstance(reply, IndexFailedError):
        raise _for_operators(reply)
    if 0 < found < FORMAT:
        return f"the index was in format {found}: it is read on, and written in format {FORMAT} from now on"
    return ""


def _for_operators(refusal: IndexFailedError) -> IndexFailedError:
    """Return an error that names the user who may do this, if that is the trouble."""
    if "permission" not in str(refusal).lower():
        return refusal
    return IndexRefusedError(
        f"{refusal}: this needs a user who may use all keys, as crossmount-operator in deploy/redis/users.acl"
    )
