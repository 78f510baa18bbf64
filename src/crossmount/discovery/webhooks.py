"""What registries tell of themselves: notifications and webhooks, read into what happened. Pure.

Followed are distribution's notifications (`notifications/event.go`, media types events.v1 and v2), Harbor's
webhooks in both of its formats, Quay's `repo_push`, and ECR's "ECR Image Action" on EventBridge. Which registry it
was is never taken from an event: whoever listens knows it, and no event sends credentials anywhere else. What
breaks a grammar is left out.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmount._parsing import json_object
from crossmount.errors import InvalidDigestError, InvalidInputError, InvalidReferenceError
from crossmount.oci import Digest, Repository
from crossmount.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES
from crossmount.oci.reference import is_tag

EVENTS_MAX = 10_000
"""How many things may have happened in one message."""

_SIZE_MAX = 2**63 - 1
_FOLLOWED = MANIFEST_TYPES | INDEX_TYPES
_HARBOR = {
    "PUSH_ARTIFACT": "push",
    "DELETE_ARTIFACT": "delete",
    "pushImage": "push",  # Harbor 1
    "deleteImage": "delete",
    "harbor.artifact.pushed": "push",  # CloudEvents
    "harbor.artifact.deleted": "delete",
}


@dataclass(frozen=True, slots=True)
class BlobArrived:
    """A repository holds a blob: it was uploaded there, or mounted."""

    repository: Repository
    digest: Digest
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestArrived:
    """A manifest or an index was pushed, by a tag or a `Digest`."""

    repository: Repository
    target: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A manifest or a blob was deleted from a repository; not every registry says which of the two it was."""

    repository: Repository
    digest: Digest


RegistryChange = BlobArrived | ManifestArrived | Deleted


def read_webhook(body: bytes, registry: Repository) -> tuple[RegistryChange, ...]:
    """Return what a registry's message says that happened.

    Args:
        body: the message, JSON.
        registry: any repository of the registry that it is about.

    Returns:
        What matters to the index, in order; nothing for messages of other kinds.

    Raises:
        InvalidInputError: it is not a JSON object, or says more than `EVENTS_MAX` things.
    """
    document = json_object(body)
    if document is None:
        raise InvalidInputError("not an event: give a JSON object")
    found: list[RegistryChange] = []
    for happened in _read(document, _Names(registry)):
        found.append(happened)
        if len(found) > EVENTS_MAX:
            raise InvalidInputError(f"not an event: it says more than {EVENTS_MAX} things")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class _Names:
    """Reads names of one registry."""

    registry: Repository

    def repository(self, name: object) -> Repository | None:
        try:
            return (
                Repository(self.registry.registry, name, self.registry.address) if isinstance(name, str) else None
            )
        except InvalidReferenceError:
            return None


def _read(document: dict[str, Any], names: _Names) -> Iterator[RegistryChange]:
    if isinstance(document.get("events"), list):
        for event in document["events"]:
            yield from _distribution(_map(event), names)
    elif _HARBOR.get(_text(document.get("type"))):
        yield from _harbor(document, names)
    elif document.get("source") == "aws.ecr":
        yield from _ecr(document, names)
    elif "updated_tags" in document:
        yield from _quay(document, names)


def _distribution(event: dict[str, Any], names: _Names) -> Iterator[RegistryChange]:
    target, action = _map(event.get("target")), _text(event.get("action"))
    repository, digest = names.repository(target.get("repository")), _digest(target.get("digest"))
    if repository is None or digest is None:  # without a digest a tag, or a whole repository, was deleted
        return
    if action == "delete":
        yield Deleted(repository, digest)
    elif action in {"push", "mount"}:
        kind = _text(target.get("mediaType"))
        if kind in _FOLLOWED:
            yield ManifestArrived(repository, digest)
        elif "manifest" not in kind:  # schema 1, and what else is no blob
            size = _size(target.get("size"))
            yield BlobArrived(repository, digest, size)
            source = names.repository(target.get("fromRepository"))
            if source is not None:
                yield BlobArrived(source, digest, size)


def _harbor(document: dict[str, Any], names: _Names) -> Iterator[RegistryChange]:
    data = _map(document.get("event_data")) or _map(document.get("data"))
    repository = names.repository(_map(data.get("repository")).get("repo_full_name"))
    resources = data.get("resources")
    if repository is None or not isinstance(resources, list):
        return
    for resource in map(_map, resources):
        yield from _about(_HARBOR[document["type"]], repository, resource.get("digest"), resource.get("tag"))


def _ecr(document: dict[str, Any], names: _Names) -> Iterator[RegistryChange]:
    detail = _map(document.get("detail"))
    repository = names.repository(detail.get("repository-name"))
    if (
        document.get("detail-type") == "ECR Image Action"
        and detail.get("result") == "SUCCESS"
        and repository is not None
    ):
        action = _text(detail.get("action-type")).lower()
        yield from _about(action, repository, detail.get("image-digest"), detail.get("image-tag"))


def _quay(document: dict[str, Any], names: _Names) -> Iterator[RegistryChange]:
    repository, tags = names.repository(document.get("repository")), document["updated_tags"]
    if repository is not None and isinstance(tags, list | dict):  # older releases: a map of tags to image ids
        for tag in tags:
            yield from _about("push", repository, None, tag)


def _about(action: str, repository: Repository, digest: object, tag: object) -> Iterable[RegistryChange]:
    """Return what an action on an image comes to; a tag's deletion alone leaves the image where it was."""
    named = _digest(digest)
    if action == "delete":
        return [Deleted(repository, named)] if named is not None else []
    if action != "push":
        return []
    if named is not None:
        return [ManifestArrived(repository, named)]
    return [ManifestArrived(repository, tag)] if isinstance(tag, str) and is_tag(tag) else []


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _size(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= _SIZE_MAX else None


def _digest(value: object) -> Digest | None:
    try:
        return Digest(value) if isinstance(value, str) else None
    except InvalidDigestError:
        return None


SECRET_MIN = 16
"""Fewer characters could be guessed."""

_FILE_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """Secrets that are accepted; none at all means that anybody is."""

    values: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, path: Path) -> "WebhookSecrets":
        """Read a file: a secret a line, so that a new one can be accepted beside the old one; `#` is a comment.

        Raises:
            InvalidInputError: it can't be read, or has no secret, or one that is too short.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_FILE_MAX)
        except OSError as error:
            raise InvalidInputError(f"{path}: the file of secrets cannot be read: {error.strerror}") from error
        values = tuple(
            line.strip() for line in content.splitlines() if line.strip() and not line.strip().startswith(b"#")
        )
        if not values or any(len(value) < SECRET_MIN for value in values):
            raise InvalidInputError(f"{path}: give a secret of at least {SECRET_MIN} characters a line")
        return cls(values)

    def accept(self, authorization: str | None) -> bool:
        """Tell whether an Authorization header shows a secret, in a time that tells nothing of it.

        It may be a Bearer token, the password of Basic (which a URL can carry), or the whole value, which is what
        Harbor sends.
        """
        if not self.values:
            return True
        if authorization is None:
            return False
        shown = [authorization.strip().encode("utf-8", "surrogateescape")]
        scheme, _, rest = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            shown.append(rest.strip().encode("utf-8", "surrogateescape"))
        elif scheme.lower() == "basic":
            shown.append(_password(rest.strip()))
        matches = [hmac.compare_digest(each, value) for each in shown for value in self.values]
        return any(matches)


def _password(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
