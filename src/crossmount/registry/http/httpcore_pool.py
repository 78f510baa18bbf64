"""httpcore's pool of connections below an httpx transport.

Early answers are noticed, and owners share nothing.

What it depends on, and neither library documents:

- The place of the network backend in an httpx transport. httpcore documents backends, and httpx takes none.
- How the pool chooses a connection: by whether its origin equals the request's. Nobody can tell what follows an
  answer late, when the next request is on its way already, from the next answer; so an origin can have an owner.

This module is imported when the first connection is made, since httpx, too, loads httpcore and h11 only then: they
are a quarter of the time that all names of crossmount take beside httpx and redis-py.
"""

import httpcore
import httpx

from crossmount.registry.http.httpx_internals import OWNER
from crossmount.registry.http.streams import SocketBackend


def prepare_transport(transport: httpx.AsyncHTTPTransport) -> httpx.AsyncHTTPTransport:
    """Prepare a new transport, and return it.

    Its connections notice early answers and serve one owner each.

    Raises:
        TypeError: httpx or httpcore have changed.
    """
    pool = transport._pool  # noqa: SLF001 httpx has no parameter for it
    backend = getattr(pool, "_network_backend", None)
    if not isinstance(backend, httpcore.AsyncNetworkBackend):
        raise TypeError("httpcore keeps its network backend elsewhere: adapt httpcore_pool")
    pool._network_backend = SocketBackend()  # noqa: SLF001
    send = pool.handle_async_request

    async def send_for_owner(request: httpcore.Request) -> httpcore.Response:
        owner = request.extensions.get(OWNER, "")
        if owner:
            request.url = _OwnedURL(request.url, owner)
        return await send(request)

    pool.handle_async_request = send_for_owner  # type: ignore[method-assign]
    return transport


class _OwnedOrigin(httpcore.Origin):
    """An origin that equals another only if both have the same owner."""

    def __init__(self, origin: httpcore.Origin, owner: str) -> None:
        super().__init__(origin.scheme, origin.host, origin.port)
        self.owner = owner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OwnedOrigin) and self.owner == other.owner and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((self.scheme, self.host, self.port, self.owner))


class _OwnedURL(httpcore.URL):
    """A URL whose origin has an owner."""

    def __init__(self, url: httpcore.URL, owner: str) -> None:
        super().__init__(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
        self._owner = owner

    @property
    def origin(self) -> httpcore.Origin:
        """Return the origin."""
        return _OwnedOrigin(super().origin, self._owner)
