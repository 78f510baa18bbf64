"""The webhooks of registries: parses their messages into changes, and checks the secret that they send.

Supported are distribution's notifications (`notifications/event.go`, media types events.v1 and v2), Harbor's
webhooks in both formats, Quay's `repo_push`, and ECR's "ECR Image Action" on EventBridge. The registry is never
taken from a message: the receiver is configured with it, so no message can send credentials elsewhere. Parts that
break a grammar are ignored.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from crossmount._dataclass import dataclass
from crossmount._parsing import json_object
from crossmount.errors import InvalidDigestError, InvalidInputError, InvalidReferenceError
from crossmount.oci import Digest, Repository
from crossmount.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES
from crossmount.oci.reference import is_tag

EVENTS_MAX = 10_000
"""The largest number of changes in one message."""

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
    """A blob was uploaded to a repository, or mounted there."""

    repository: Repository
    digest: Digest
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestArrived:
    """A manifest or an index was pushed; `target` is its tag or its `Digest`."""

    repository: Repository
    target: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A manifest or a blob was deleted from a repository; not every registry says which of the two."""

    repository: Repository
    digest: Digest


RegistryChange = BlobArrived | ManifestArrived | Deleted


def read_webhook(body: bytes, registry: Repository) -> tuple[RegistryChange, ...]:
    """Parse a registry's message.

    Args:
        body: the message, JSON.
        registry: any repository of the registry that sent it.

    Returns:
        The changes that matter to the index, in order; none for messages of other kinds.

    Raises:
        InvalidInputError: it is not a JSON object, or has more than `EVENTS_MAX` changes.
    """
    document = json_object(body)
    if document is None:
        raise InvalidInputError("not an event: give a JSON object")
    found: list[RegistryChange] = []
    for change in _changes(document, _Names(registry)):
        found.append(change)
        if len(found) > EVENTS_MAX:
            raise InvalidInputError(f"not an event: it has more than {EVENTS_MAX} changes")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class _Names:
    """Parses names of one registry."""

    registry: Repository

    def repository(self, name: object) -> Repository | None:
        try:
            return (
                Repository(self.registry.registry, name, self.registry.address) if isinstance(name, str) else None
            )
        except InvalidReferenceError:
            return None


def _changes(document: dict[str, Any], names: _Names) -> Iterator[RegistryChange]:
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
    """Return the changes of one action on an image; deleting only a tag leaves the image in place."""
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
"""The shortest secret, in characters: a shorter one could be guessed."""

_FILE_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """The accepted secrets; without any secret every message is accepted."""

    values: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, path: Path) -> "WebhookSecrets":
        """Read a file with one secret per line, so that an old and a new one are both valid; `#` is a comment.

        Raises:
            InvalidInputError: it cannot be read, or has no secret, or one that is too short.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_FILE_MAX)
        except OSError as error:
            raise InvalidInputError(f"{path}: the secrets file cannot be read: {error.strerror}") from error
        values = tuple(
            line.strip() for line in content.splitlines() if line.strip() and not line.strip().startswith(b"#")
        )
        if not values or any(len(value) < SECRET_MIN for value in values):
            raise InvalidInputError(f"{path}: give one secret of at least {SECRET_MIN} characters per line")
        return cls(values)

    def accept(self, authorization: str | None) -> bool:
        """Return whether an Authorization header has one of the secrets, compared in constant time.

        The secret may be a Bearer token, a Basic password (which a URL can contain), or the whole value, as Harbor
        sends it.
        """
        if not self.values:
            return True
        if authorization is None:
            return False
        sent = [authorization.strip().encode("utf-8", "surrogateescape")]
        scheme, _, rest = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            sent.append(rest.strip().encode("utf-8", "surrogateescape"))
        elif scheme.lower() == "basic":
            sent.append(_password(rest.strip()))
        matches = [hmac.compare_digest(each, value) for each in sent for value in self.values]
        return any(matches)


def _password(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
