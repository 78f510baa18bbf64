"""Manifests and tags over HTTP (distribution specification, "Pulling manifests", "Pushing Manifests")."""

from dataclasses import replace

from crossmount._parsing import decimal
from crossmount.errors import InvalidAnswerError, InvalidDigestError, InvalidInputError, InvalidManifestError
from crossmount.oci import Descriptor, Digest, Manifest, Reference
from crossmount.oci.descriptor import ACCEPT
from crossmount.oci.manifest import MANIFEST_BYTES_MAX
from crossmount.registry.auth.scope import Wanted, pull, push
from crossmount.registry.endpoints import Endpoints
from crossmount.registry.http.refusal import refusal
from crossmount.registry.http.requester import Call, Requester
from crossmount.registry.http.transport import Answer, Body, shown


class Manifests:
    """The manifests of one registry."""

    def __init__(self, endpoints: Endpoints, requester: Requester) -> None:
        self._endpoints = endpoints
        self._requester = requester

    async def head(self, reference: Reference) -> Descriptor | None:
        """See `RegistryClient.head_manifest`."""
        call = self._pull("HEAD", reference)
        answer = await self._requester.send(call)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise refusal(answer, "HEAD")
        digest = _told_digest(answer) or reference.digest
        size, kind = decimal(answer.headers.get("content-length", ""), digits=9), _followed_type(answer)
        if digest is None or kind is None or size is None:
            return (await self.get(reference)).descriptor  # all three headers are only "should"
        if _contradicts(digest, reference.digest):
            raise InvalidAnswerError(f"HEAD {shown(call.url)}: the registry answered for {digest}")
        return Descriptor(kind, reference.digest or digest, size)

    async def get(self, reference: Reference) -> Manifest:
        """See `RegistryClient.get_manifest`."""
        call = self._pull("GET", reference)
        answer = await self._requester.send(replace(call, limit=MANIFEST_BYTES_MAX))
        if answer.status != 200:
            raise refusal(answer, "GET")
        try:
            return Manifest.parse(
                answer.body,
                media_type=_followed_type(answer),
                digest=reference.digest or _told_digest(answer),
                where=str(reference),
            )
        except InvalidManifestError as error:
            raise InvalidAnswerError(f"GET {shown(call.url)}: {error}") from error

    async def put(self, reference: Reference, manifest: Manifest) -> Digest:
        """See `RegistryClient.put_manifest`."""
        digest = manifest.descriptor.digest
        if reference.digest not in {None, digest}:
            raise InvalidInputError(f"{reference}: the manifest to put has the digest {digest}")
        url = self._endpoints.manifest(reference, reference.tag or digest)
        answer = await self._requester.send(
            Call(
                method="PUT",
                url=url,
                name=reference.name,
                wanted=Wanted((push(reference.repository),)),
                headers={"Content-Type": manifest.descriptor.media_type},
                body=Body.of(manifest.content),
            )
        )
        if answer.status not in {200, 201, 202}:
            raise refusal(answer, "PUT", manifest=True)
        told = _told_digest(answer)
        if _contradicts(told, digest):
            raise InvalidAnswerError(f"PUT {shown(url)}: the registry stored {told} instead of {digest}")
        return digest

    def _pull(self, method: str, reference: Reference) -> Call:
        if reference.target is None:
            raise InvalidInputError(f"{reference}: name a tag or a digest")
        return Call(
            method=method,
            url=self._endpoints.manifest(reference, reference.target),
            name=reference.name,
            wanted=Wanted((pull(reference.repository),)),
            headers={"Accept": ACCEPT},
        )


def _contradicts(told: Digest | None, expected: Digest | None) -> bool:
    """Tell whether two digests cannot be of the same bytes, as far as digests of one algorithm tell."""
    if told is None or expected is None:
        return False
    return told.algorithm == expected.algorithm and told != expected


def _told_digest(answer: Answer) -> Digest | None:
    text = answer.headers.get("docker-content-digest")
    try:
        return Digest(text) if text else None
    except InvalidDigestError as error:
        raise InvalidAnswerError(f"{shown(answer.url)}: Docker-Content-Digest: {error}") from None


def _followed_type(answer: Answer) -> str | None:
    """The Content-Type, unless it is one that says nothing about a manifest."""
    kind = answer.content_type
    return None if kind in {"", "application/json", "application/octet-stream", "text/plain"} else kind
