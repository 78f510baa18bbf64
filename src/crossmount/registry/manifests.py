"""Manifests, and lists of tags, repositories and referrers, page by page.

The distribution specification has them as "Pulling manifests", "Pushing Manifests" and "Content Discovery".
"""

import re
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace

import httpx

from crossmount._parsing import decimal, json_object
from crossmount.errors import InvalidAnswerError, InvalidDigestError, InvalidInputError, InvalidManifestError
from crossmount.oci import Descriptor, Digest, Located, Manifest, Reference, as_digest, as_reference, as_repository
from crossmount.oci.descriptor import ACCEPT, OCI_INDEX
from crossmount.oci.manifest import MANIFEST_BYTES_MAX
from crossmount.oci.reference import is_repository_name, is_tag
from crossmount.registry.auth.scope import CATALOG, Wanted, pull, push
from crossmount.registry.endpoints import RegistryMethods
from crossmount.registry.http.errors import refusal
from crossmount.registry.http.location import Origin, resolve, shown, with_query
from crossmount.registry.http.requester import RegistryRequest
from crossmount.registry.http.transport import Answer, Body

PUSH_HEADER = "Crossmount-Push"


class Manifests(RegistryMethods):
    """`RegistryClient`'s methods for manifests."""

    async def head_manifest(self, reference: str | Located) -> Descriptor | None:
        """Ask for the descriptor of a manifest or an index.

        Args:
            reference: its digest if it has one, else its tag.

        Returns:
            The descriptor, or None if the manifest does not exist.
        """
        reference = as_reference(reference)
        call = self._pull_call("HEAD", reference)
        answer = await self._requester.send(call)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise refusal(answer, "HEAD")
        digest = _sent_digest(answer) or reference.digest
        size, kind = decimal(answer.headers.get("content-length", ""), digits=9), _followed_type(answer)
        if digest is None or kind is None or size is None:
            return (
                await self.get_manifest(reference)
            ).descriptor  # the specification only recommends the three headers
        if _contradicts(digest, reference.digest):
            raise InvalidAnswerError(f"HEAD {shown(call.url)}: the registry answered for {digest}")
        return Descriptor(kind, reference.digest or digest, size)

    async def get_manifest(self, reference: str | Located) -> Manifest:
        """Fetch a manifest or an index of at most 4 MiB, and verify its digest.

        Args:
            reference: its digest if it has one, else its tag.

        Raises:
            RegistryRefusedError: with status 404 if it does not exist.
            InvalidAnswerError: the bytes have another digest, or are no manifest.
        """
        reference = as_reference(reference)
        call = self._pull_call("GET", reference)
        answer = await self._requester.send(replace(call, limit=MANIFEST_BYTES_MAX))
        if answer.status != 200:
            raise refusal(answer, "GET")
        try:
            return Manifest.parse(
                answer.body,
                media_type=_followed_type(answer),
                digest=reference.digest or _sent_digest(answer),
                where=str(reference),
            )
        except InvalidManifestError as error:
            raise InvalidAnswerError(f"GET {shown(call.url)}: {error}") from error

    async def put_manifest(self, reference: str | Located, manifest: Manifest, *, push_id: str = "") -> Digest:
        """Put a manifest or an index under the reference's tag, or under its own digest if there is no tag.

        Args:
            reference: the repository, and the tag if there is one.
            manifest: the manifest.
            push_id: a random name of the push, sent as `Crossmount-Push`: a proxy of crossmount counts the push by
                the same name, so that it is counted once.

        Returns:
            The manifest's digest.

        Raises:
            BlobUnknownError: the repository lacks a blob that the manifest names.
            InvalidInputError: the reference has another digest.
        """
        reference, digest = as_reference(reference), manifest.descriptor.digest
        if reference.digest not in {None, digest}:
            raise InvalidInputError(f"{reference}: the manifest to put has the digest {digest}")
        url = self._endpoints.manifest(reference, reference.tag or digest)
        answer = await self._requester.send(
            RegistryRequest(
                method="PUT",
                url=url,
                name=reference.name,
                wanted=Wanted((push(reference.repository),)),
                headers={
                    "Content-Type": manifest.descriptor.media_type,
                    **({PUSH_HEADER: push_id} if push_id else {}),
                },
                body=Body.of(manifest.content),
                about={"reference": reference, "digest": digest},
            )
        )
        if answer.status not in {200, 201, 202}:
            raise refusal(answer, "PUT", manifest=True)
        sent = _sent_digest(answer)
        if _contradicts(sent, digest):
            raise InvalidAnswerError(f"PUT {shown(url)}: the registry stored {sent} instead of {digest}")
        return digest

    def _pull_call(self, method: str, reference: Reference) -> RegistryRequest:
        if reference.target is None:
            raise InvalidInputError(f"{reference}: name a tag or a digest")
        return RegistryRequest(
            method=method,
            url=self._endpoints.manifest(reference, reference.target),
            name=reference.name,
            wanted=Wanted((pull(reference.repository),)),
            headers={"Accept": ACCEPT},
            about={"reference": reference, "digest": reference.digest},
        )


def _contradicts(sent: Digest | None, expected: Digest | None) -> bool:
    """Return whether two digests are of one algorithm and differ, so that they cannot be of the same bytes."""
    if sent is None or expected is None:
        return False
    return sent.algorithm == expected.algorithm and sent != expected


def _sent_digest(answer: Answer) -> Digest | None:
    text = answer.headers.get("docker-content-digest")
    try:
        return Digest(text) if text else None
    except InvalidDigestError as error:
        raise InvalidAnswerError(f"{shown(answer.url)}: Docker-Content-Digest: {error}") from None


def _followed_type(answer: Answer) -> str | None:
    """Return the Content-Type, or None if it is too general for a manifest."""
    kind = answer.content_type
    return None if kind in {"", "application/json", "application/octet-stream", "text/plain"} else kind


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
        wanted = Wanted((pull(repository),))
        call = RegistryRequest(
            method="GET", url=self._endpoints.tags(repository), name=repository.name, wanted=wanted
        )
        return self._pages(call, "tags", is_tag)

    def catalog(self) -> AsyncIterator[str]:
        """Yield the names of the registry's repositories, page after page; many registries refuse this."""
        call = RegistryRequest(method="GET", url=self._endpoints.catalog(), wanted=Wanted((CATALOG,)))
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
        wanted = Wanted((pull(repository),))
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
        wanted = Wanted((pull(repository),))
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
