"""Manifests: HEAD, GET and PUT (distribution specification, "Pulling manifests", "Pushing Manifests")."""

from dataclasses import replace

from crossmount._parsing import decimal
from crossmount.errors import InvalidAnswerError, InvalidDigestError, InvalidInputError, InvalidManifestError
from crossmount.oci import Descriptor, Digest, Located, Manifest, Reference, as_reference
from crossmount.oci.descriptor import ACCEPT
from crossmount.oci.manifest import MANIFEST_BYTES_MAX
from crossmount.registry.auth.scope import Wanted, pull, push
from crossmount.registry.endpoints import RegistryMethods
from crossmount.registry.http.errors import refusal
from crossmount.registry.http.location import shown
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
