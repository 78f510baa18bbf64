"""What registries tell of themselves: notifications and webhooks, read into what happened. Pure.

Followed are distribution's notifications (`notifications/event.go`, media types events.v1 and v2), Harbor's
webhooks in both of its formats, Quay's `repo_push`, and ECR's "ECR Image Action" on EventBridge. Which registry it
was is never taken from an event: whoever listens knows it, and no event sends credentials anywhere else. What
breaks a grammar is left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from crossmount._foreign import json_object
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


Happened = BlobArrived | ManifestArrived | Deleted


def read_notice(body: bytes, registry: Repository) -> tuple[Happened, ...]:
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
    found: list[Happened] = []
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


def _read(document: dict[str, Any], names: _Names) -> Iterator[Happened]:
    if isinstance(document.get("events"), list):
        for event in document["events"]:
            yield from _distribution(_map(event), names)
    elif _HARBOR.get(_text(document.get("type"))):
        yield from _harbor(document, names)
    elif document.get("source") == "aws.ecr":
        yield from _ecr(document, names)
    elif "updated_tags" in document:
        yield from _quay(document, names)


def _distribution(event: dict[str, Any], names: _Names) -> Iterator[Happened]:
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


def _harbor(document: dict[str, Any], names: _Names) -> Iterator[Happened]:
    data = _map(document.get("event_data")) or _map(document.get("data"))
    repository = names.repository(_map(data.get("repository")).get("repo_full_name"))
    resources = data.get("resources")
    if repository is None or not isinstance(resources, list):
        return
    for resource in map(_map, resources):
        yield from _about(_HARBOR[document["type"]], repository, resource.get("digest"), resource.get("tag"))


def _ecr(document: dict[str, Any], names: _Names) -> Iterator[Happened]:
    detail = _map(document.get("detail"))
    repository = names.repository(detail.get("repository-name"))
    if (
        document.get("detail-type") == "ECR Image Action"
        and detail.get("result") == "SUCCESS"
        and repository is not None
    ):
        action = _text(detail.get("action-type")).lower()
        yield from _about(action, repository, detail.get("image-digest"), detail.get("image-tag"))


def _quay(document: dict[str, Any], names: _Names) -> Iterator[Happened]:
    repository, tags = names.repository(document.get("repository")), document["updated_tags"]
    if repository is not None and isinstance(tags, list | dict):  # older releases: a map of tags to image ids
        for tag in tags:
            yield from _about("push", repository, None, tag)


def _about(action: str, repository: Repository, digest: object, tag: object) -> Iterable[Happened]:
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
