"""Digests, repositories and references from what a program has: the values themselves, or text, which is checked.

The public methods call these once, so that inside the package only values are passed on.
"""

from collections.abc import Iterable

from crossmount.errors import InvalidReferenceError
from crossmount.oci.descriptor import Digest
from crossmount.oci.reference import Located, Reference, Repository


def as_digest(given: str) -> Digest:
    """Return a digest.

    Raises:
        InvalidDigestError: it is no digest.
    """
    return given if type(given) is Digest else Digest(given)


def as_digests(given: Iterable[str]) -> list[Digest]:
    """Return digests, each once, in the same order; one text is one digest.

    Raises:
        InvalidDigestError: one is no digest, or they cannot be iterated over.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [as_digest(given)]
    return list(dict.fromkeys(map(as_digest, given)))


def as_repository(given: str | Located) -> Repository:
    """Return a repository, which text names with its registry: `registry.example/team/app`.

    Raises:
        InvalidReferenceError: it names no repository.
    """
    if isinstance(given, Repository):
        return given
    if isinstance(given, str):
        return Repository.parse(given)
    found = getattr(given, "repository", None)
    if isinstance(found, Repository):
        return found
    raise InvalidReferenceError(
        f"not a repository: a {type(given).__name__}: give REGISTRY/NAME, a Repository or a Reference"
    )


def as_reference(given: str | Located) -> Reference:
    """Return a reference; that of a repository has neither a tag nor a digest.

    Raises:
        InvalidReferenceError, InvalidDigestError: it names no image.
    """
    if isinstance(given, Reference):
        return given
    return Reference.parse(given) if isinstance(given, str) else Reference(as_repository(given))
