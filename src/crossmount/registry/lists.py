"""Tags and repositories, page by page (distribution specification, "Listing Tags"; distribution's catalogue)."""

import re
from collections.abc import AsyncIterator, Callable

import httpx

from crossmount._foreign import json_object
from crossmount.errors import InvalidAnswerError
from crossmount.oci import Repository
from crossmount.oci.reference import is_repository_name, is_tag
from crossmount.registry import scope
from crossmount.registry.http import Answer, shown
from crossmount.registry.location import Origin, resolve, with_query
from crossmount.registry.refusal import refusal
from crossmount.registry.scope import Wanted
from crossmount.registry.sender import Call, Sender
from crossmount.registry.urls import Endpoints

PAGE_BYTES_MAX = 16 * 1024 * 1024
PAGES_MAX = 100_000

_NEXT = re.compile(r'<(?P<url>[^<>]*)>[^,<>]*;\s*rel\s*=\s*"?next"?', re.IGNORECASE)


class Lists:
    """What one registry lists."""

    def __init__(self, endpoints: Endpoints, sender: Sender) -> None:
        self._endpoints = endpoints
        self._sender = sender

    def tags(self, repository: Repository) -> AsyncIterator[str]:
        """See `RegistryClient.list_tags`."""
        wanted = Wanted((scope.pull(repository),))
        call = Call(method="GET", url=self._endpoints.tags(repository), name=repository.name, wanted=wanted)
        return self._pages(call, "tags", is_tag)

    def catalog(self) -> AsyncIterator[str]:
        """See `RegistryClient.catalog`."""
        call = Call(method="GET", url=self._endpoints.catalog(), wanted=Wanted((scope.CATALOG,)))
        return self._pages(call, "repositories", is_repository_name)

    async def is_readable(self, repository: Repository) -> bool:
        """See `RegistryClient.is_readable`."""
        if self._sender.authorizer.challenge is None:
            return True
        url = with_query(self._endpoints.tags(repository), "n=1")
        wanted = Wanted((scope.pull(repository),))
        answer = await self._sender.send(
            Call(method="GET", url=url, name=repository.name, wanted=wanted, limit=PAGE_BYTES_MAX)
        )
        if answer.status in {401, 403}:
            raise refusal(answer, "GET")
        return answer.status == 200

    async def _pages(self, first: Call, key: str, is_valid: Callable[[str], bool]) -> AsyncIterator[str]:
        """Yield what the pages list under `key`; what breaks its grammar is left out: it cannot be asked for."""
        url: httpx.URL | None = first.url
        for _ in range(PAGES_MAX):
            call = Call(
                method="GET", url=url or first.url, name=first.name, wanted=first.wanted, limit=PAGE_BYTES_MAX
            )
            answer = await self._sender.send(call)
            if answer.status != 200:
                raise refusal(answer, "GET")
            for item in _items(answer, key):
                if isinstance(item, str) and is_valid(item):
                    yield item
            previous, url = url, self._next_page(answer)
            if url is None:
                return
            if url == previous:
                break
        raise InvalidAnswerError(f"GET {shown(first.url)}: its pages do not end")

    def _next_page(self, answer: Answer) -> httpx.URL | None:
        """Return where the answer's Link leads; never to another place than the registry itself."""
        match = _NEXT.search(answer.headers.get("link", ""))
        if match is None:
            return None
        url = resolve(match["url"], request=answer.url, what="Link")
        if Origin.of(url) != self._sender.origin:
            raise InvalidAnswerError(f"GET {shown(answer.url)}: its Link leads to {Origin.of(url)}: not followed")
        return url


def _items(answer: Answer, key: str) -> list[object]:
    document = json_object(answer.body) or {}
    items = document.get(key)
    if items is None and key in document:
        return []  # `"tags": null` is what some say for none
    if not isinstance(items, list):
        raise InvalidAnswerError(f"GET {shown(answer.url)}: the answer is not a JSON list of {key}")
    return items
