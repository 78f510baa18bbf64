"""The must-mount flag of a layer on a server: who set it, when, and why.

It is a key of its own, which an access list lets operators write and pushers read: a pusher that could set it
could stop everybody's push of that layer. In 0.1.0 it was a field of the layer's flags, which pushers write. That
field counts no more; `crossmount index upgrade` carries old ones over.
"""

import getpass
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from crossmount._dataclass import dataclass
from crossmount._parsing import one_line
from crossmount.errors import IndexRefusedError
from crossmount.index.decode import as_map, is_set, number
from crossmount.index.protocol import BackingServer
from crossmount.oci import Digest
from crossmount.redis.execute import run_reads, run_scripted
from crossmount.redis.replies import Command, KeyRefusedError
from crossmount.redis.scripts import load_script

OLD_FIELD = "must_mount"
"""The field of a layer's flags that was the must-mount flag in 0.1.0."""

_TEXT_MAX = 200


@dataclass(frozen=True, slots=True)
class MustMountFlag:
    """A must-mount flag that is set.

    Attributes:
        who: who set it, as far as that one said.
        since: when (epoch seconds, by the server's clock).
        why: a remark; may be empty.
    """

    who: str
    since: int
    why: str

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes]) -> Self | None:
        """Parse the fields of its hash; None if it is not set."""
        since = fields.get(b"since")
        if not is_set(since):
            return None
        who, why = (one_line(fields.get(name, b"").decode("utf-8", "replace")) for name in (b"who", b"why"))
        return cls(who[:_TEXT_MAX], number(since) or 0, why[:_TEXT_MAX])


def this_user() -> str:
    """Return the user and the host of this process, for people."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in a container
        user = "?"
    return f"{user}@{socket.gethostname()}"


async def read_must_mount(server: BackingServer, layer: Digest) -> MustMountFlag | None:
    """Return the must-mount flag of a layer; None if it is not set.

    Raises:
        IndexFailedError: the server did not answer, or refused.
    """
    (fields,) = await run_reads(server.link, [("HGETALL", server.keys.must_mount(layer))])
    return MustMountFlag.from_fields(as_map(fields))


async def set_must_mount(server: BackingServer, layers: Iterable[Digest], *, who: str, why: str = "") -> int:
    """Set the must-mount flag of layers; return how many of them did not have it.

    Raises:
        IndexRefusedError: the user may not set it, or the server refused for another reason.
        IndexUnavailableError: the server did not answer.
    """
    script = load_script("set_must_mount", "crossmount.index")
    texts = (one_line(who)[:_TEXT_MAX], one_line(why)[:_TEXT_MAX])
    return await _operate(server, [script.call((server.keys.must_mount(layer),), *texts) for layer in layers])


async def clear_must_mount(server: BackingServer, layer: Digest, *, ttl: int) -> None:
    """Clear the must-mount flag of a layer, an old one of 0.1.0 too.

    Args:
        server: the server.
        layer: the layer.
        ttl: seconds that the layer's other flags live from now on, if an old flag had ended their expiry.

    Raises:
        IndexRefusedError: the user may not clear it, or the server refused for another reason.
        IndexUnavailableError: the server did not answer.
    """
    await _operate(server, [("DEL", server.keys.must_mount(layer)), clear_old_flag(server, layer, ttl=ttl)])


def clear_old_flag(server: BackingServer, layer: Digest, *, ttl: int) -> Command:
    """Return the command that removes the flag of 0.1.0 from a layer's flags; its reply is 1 if there was one."""
    return load_script("clear_old_flag", "crossmount.index").call((server.keys.flags(layer),), ttl)


async def _operate(server: BackingServer, commands: Sequence[Command]) -> int:
    """Run commands of an operator; return the sum of their replies."""
    replies = await run_scripted(server.link, commands)
    for reply in replies:
        if isinstance(reply, KeyRefusedError):
            raise IndexRefusedError(
                "this user may not set or clear must-mount: log in as an operator, such as crossmount-operator "
                f"in deploy/redis/users.acl ({reply})"
            )
        if isinstance(reply, IndexRefusedError):
            raise reply
    return sum(reply for reply in replies if isinstance(reply, int))
