"""Lists of tags, repositories and referrers, page by page (distribution specification, "Content Discovery")."""

import re
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace

import httpx

from crossmount._parsing import json_object
from crossmount.errors import InvalidAnswerError, InvalidManifestError
from crossmount.oci import Descriptor, Digest, Located, Manifest, as_digest, as_repository
from crossmount.oci.descriptor import OCI_INDEX
from crossmount.oci.reference import is_repository_name, is_tag
from crossmount.registry.auth import scope
from crossmount.registry.auth.scope import Wanted
from crossmount.registry.endpoints import RegistryMethods
from crossmount.registry.http.errors import refusal
from crossmount.registry.http.location import Origin, resolve, shown, with_query
from crossmount.registry.http.requester import RegistryRequest
from crossmount.registry.http.transport import Answer

PAGE_BYTES_MAX = 16 * 1024 * 1024
PAGES_MAX = 100_000
REFERRERS_MAX = 1000
"""No honest manifest has more referrers."""

_NO_SUCH_API = frozenset({404, 405, 501})

_NEXT = re.compile(r'<(?P<url>[^<>]*)>[^,<>]*;\s*rel\s*=\s*"?next"?', re.IGNORECASE)


class Listings(RegistryMethods):
    """`RegistryClient`'s methods for lists."""

    def list_tags(self, repository: str | Located) -> AsyncIterator[str]:
        """Yield a repository's tags, page after page.

        Args:
            repository: the repository.
        """
        repository = as_repository(repository)
        wanted = Wanted((scope.pull(repository),))
        call = RegistryRequest(
            method="GET", url=self._endpoints.tags(repository), name=repository.name, wanted=wanted
        )
        return self._pages(call, "tags", is_tag)

    def catalog(self) -> AsyncIterator[str]:
        """Yield the names of the registry's repositories, page after page; many registries refuse this."""
        call = RegistryRequest(method="GET", url=self._endpoints.catalog(), wanted=Wanted((scope.CATALOG,)))
        return self._pages(call, "repositories", is_repository_name)

    async def is_readable(self, repository: str | Located) -> bool:
        """Return whether a repository can certainly be read, so that a 404 in it can be trusted.

        A repository can be read if the registry never asked for credentials, or if its tags can be listed. Some
        registries answer 404 for a repository that the account may not read; there, and for a repository without
        tags, the result is False.

        Args:
            repository: the repository.

        Raises:
            AccessDeniedError: the repository may not be read.
        """
        if self._requester.authorizer.challenge is None:
            return True
        repository = as_repository(repository)
        url = with_query(self._endpoints.tags(repository), "n=1")
        wanted = Wanted((scope.pull(repository),))
        answer = await self._requester.send(
            RegistryRequest(method="GET", url=url, name=repository.name, wanted=wanted, limit=PAGE_BYTES_MAX)
        )
        if answer.status in {401, 403}:
            raise refusal(answer, "GET")
        return answer.status == 200

    async def list_referrers(self, repository: str | Located, digest: str) -> tuple[Descriptor, ...] | None:
        """Return the manifests whose subject is `digest` (specification, "Listing Referrers").

        Args:
            repository: the repository.
            digest: the subject's digest.

        Returns:
            Their descriptors, or None if the registry has no referrers API: then they are listed under the tag
            `referrers_tag`.
        """
        repository, digest = as_repository(repository), as_digest(digest)
        wanted = Wanted((scope.pull(repository),))
        url = self._endpoints.referrers(repository, digest)
        call = RegistryRequest(
            method="GET",
            url=url,
            name=repository.name,
            wanted=wanted,
            headers={"Accept": OCI_INDEX},
            about={"digest": digest},
        )
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

    async def _pages(
        self, first: RegistryRequest, key: str, is_valid: Callable[[str], bool]
    ) -> AsyncIterator[str]:
        """Yield the valid items of the list `key` on all pages; an invalid name could not be requested."""
        async for answer in self._answers(first):
            for item in _items(answer, key):
                if isinstance(item, str) and is_valid(item):
                    yield item

    async def _answers(
        self, first: RegistryRequest, good: Collection[int] = frozenset({200})
    ) -> AsyncIterator[Answer]:
        """Yield page after page; a status outside `good` is an error."""
        url: httpx.URL | None = first.url
        seen: set[int] = set()  # hashes, because there may be very many pages with long names
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
        """Return the URL in the answer's Link header, which must be on the registry itself."""
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
        return []  # some registries send `"tags": null` for no tags
    if not isinstance(items, list):
        raise InvalidAnswerError(f"GET {shown(answer.url)}: the answer is not a JSON list of {key}")
    return items
