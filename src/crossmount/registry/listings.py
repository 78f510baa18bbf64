"""Tags, repositories, referrers, page by page (distribution specification, "Content Discovery"; the catalogue)."""

import re
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace

import httpx

from crossmount._parsing import json_object
from crossmount.errors import InvalidAnswerError, InvalidManifestError
from crossmount.oci import Descriptor, Digest, Manifest, Repository
from crossmount.oci.descriptor import OCI_INDEX
from crossmount.oci.reference import is_repository_name, is_tag
from crossmount.registry.auth import scope
from crossmount.registry.auth.scope import Wanted
from crossmount.registry.endpoints import Endpoints
from crossmount.registry.http.location import Origin, resolve, with_query
from crossmount.registry.http.refusal import refusal
from crossmount.registry.http.requester import Call, Requester
from crossmount.registry.http.transport import Answer, shown

PAGE_BYTES_MAX = 16 * 1024 * 1024
PAGES_MAX = 100_000
REFERRERS_MAX = 1000
"""More than that refer to no honest manifest."""

_NO_SUCH_API = frozenset({404, 405, 501})

_NEXT = re.compile(r'<(?P<url>[^<>]*)>[^,<>]*;\s*rel\s*=\s*"?next"?', re.IGNORECASE)


class Listings:
    """What one registry lists."""

    def __init__(self, endpoints: Endpoints, requester: Requester) -> None:
        self._endpoints = endpoints
        self._requester = requester

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
        if self._requester.authorizer.challenge is None:
            return True
        url = with_query(self._endpoints.tags(repository), "n=1")
        wanted = Wanted((scope.pull(repository),))
        answer = await self._requester.send(
            Call(method="GET", url=url, name=repository.name, wanted=wanted, limit=PAGE_BYTES_MAX)
        )
        if answer.status in {401, 403}:
            raise refusal(answer, "GET")
        return answer.status == 200

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[Descriptor, ...] | None:
        """See `RegistryClient.list_referrers`."""
        wanted = Wanted((scope.pull(repository),))
        url = self._endpoints.referrers(repository, digest)
        call = Call(method="GET", url=url, name=repository.name, wanted=wanted, headers={"Accept": OCI_INDEX})
        found: dict[Digest, Descriptor] = {}
        try:
            async for answer in self._answers(call, {200} | _NO_SUCH_API):
                if answer.status != 200:
                    return None
                index = Manifest.parse(answer.body, media_type=OCI_INDEX, where=shown(answer.url))
                found.update({child.digest: child for child in index.children})
                if len(found) > REFERRERS_MAX:
                    raise InvalidAnswerError(f"GET {shown(url)}: more than {REFERRERS_MAX} referrers")
        except InvalidManifestError as error:
            raise InvalidAnswerError(f"GET {shown(url)}: {error}") from error
        return tuple(found.values())

    async def _pages(self, first: Call, key: str, is_valid: Callable[[str], bool]) -> AsyncIterator[str]:
        """Yield what the pages list under `key`; what breaks its grammar is left out: it cannot be asked for."""
        async for answer in self._answers(first):
            for item in _items(answer, key):
                if isinstance(item, str) and is_valid(item):
                    yield item

    async def _answers(self, first: Call, good: Collection[int] = frozenset({200})) -> AsyncIterator[Answer]:
        """Yield page after page; a status that is not `good` is an error."""
        url: httpx.URL | None = first.url
        seen: set[int] = set()  # of hashes: there may be very many pages, of long names
        for _ in range(PAGES_MAX):
            answer = await self._requester.send(replace(first, url=url or first.url, limit=PAGE_BYTES_MAX))
            if answer.status not in good:
                raise refusal(answer, "GET")
            yield answer
            seen.add(hash(url))
            url = self._next_page(answer)
            if url is None:
                return
            if hash(url) in seen:
                break
        raise InvalidAnswerError(f"GET {shown(first.url)}: its pages do not end")

    def _next_page(self, answer: Answer) -> httpx.URL | None:
        """Return where the answer's Link leads; never to another place than the registry itself."""
        match = _NEXT.search(answer.headers.get("link", ""))
        if match is None:
            return None
        url = resolve(match["url"], request=answer.url, what="Link")
        if Origin.of(url) != self._requester.origin:
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
