"""What a client is told of a blob that it brings (specification: "Pushing blobs", "Mounting a blob")."""

from crossmount.oci import Digest
from crossmount.proxy.core import Core
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.uploads.mounting import Placed
from crossmount.proxy.uploads.turns import BlobOutcome


async def answer_brought(
    core: Core, exchange: Exchange, placed: Placed, brought: BlobOutcome, size: int | None = None
) -> None:
    """Tell the client that its blob is there, and count how it came to be.

    Args:
        core: the proxy's parts.
        exchange: the request; what is left of its body is read, since its client may look up only then.
        placed: the mount that was tried first: which blob, and where to.
        brought: how the blob came to be there.
        size: its bytes, if they were seen; else what the index said.
    """
    async for _ in exchange.body():
        pass
    exchange.note, exchange.waited = brought.word, brought.waited
    known = placed.knowledge.of(placed.digest).size
    core.metrics.count_blob(brought.word, known if size is None else size)
    await answer_created(exchange, placed.dest.name, placed.digest)


async def answer_created(exchange: Exchange, name: str, digest: Digest) -> None:
    """Tell the client that its blob is there."""
    path = f"/v2/{name}/blobs/{digest}".encode()
    await exchange.answer(201, [(b"location", path), (b"docker-content-digest", digest.encode())])


def refuse_required(placed: Placed) -> None:
    """Refuse an upload of what may only be mounted.

    Raises:
        RequestRefusedError: it is flagged so, and was not mounted.
    """
    if placed.refused:
        raise RequestRefusedError(
            403, "DENIED", f"{placed.digest} is flagged must-mount and no mount succeeded, so it is not uploaded"
        )
