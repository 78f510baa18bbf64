"""The errors that crossmount raises, as one tree.

    CrossmountError
    ├── InvalidInputError            an argument breaks a grammar or a rule (also a ValueError)
    │   ├── InvalidDigestError
    │   ├── InvalidReferenceError
    │   ├── InvalidManifestError
    │   ├── InvalidLayoutError
    │   └── InvalidIndexURLError
    ├── ListenError                  a server cannot listen on an address
    ├── MissingExtraError            an optional part of crossmount is not installed
    ├── IndexFailedError             the index failed (a push continues without it)
    │   ├── IndexUnavailableError    … no answer: connection refused, time-out, cut
    │   └── IndexRefusedError        … an error reply: READONLY, OOM, NOPERM, WRONGTYPE …
    ├── CredentialsError             a credential file or helper cannot be used
    ├── RegistryError                a request to a registry failed
    │   ├── RegistryUnreachableError … no answer
    │   ├── InvalidAnswerError       … an answer that breaks the distribution specification
    │   ├── BlobUnavailableError     … no registry delivered a blob with the right bytes
    │   └── RegistryRefusedError     … an error status, with the registry's own message
    │       ├── AccessDeniedError    … 401 or 403
    │       └── BlobUnknownError     … a manifest names a blob that the repository lacks
    ├── MountRequiredError           must-mount is set on a layer and no mount succeeded
    └── CopyFailedError              some images of a copy failed

A message is one line: what went wrong, where, and what to do. Exceptions of redis-py and httpx are never raised.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self


class CrossmountError(Exception):
    """Base class of all errors that crossmount raises.

    Attributes:
        registry: the registry that it is about, normalised. None here and below: not known, or none.
        repository: the repository, with its registry: `registry.example/team/app`.
        reference: the image, with its tag or digest.
        digest: the blob, layer or manifest.
        status: the HTTP status of the answer.
        codes: the registry's error codes (distribution specification, "Error Codes"), maybe empty.
        method: the method of the request.
        url: its URL without query, user and password.
    """

    registry: str | None = None
    repository: str | None = None
    reference: str | None = None
    digest: str | None = None
    status: int | None = None
    codes: tuple[str, ...] = ()
    method: str | None = None
    url: str | None = None

    def knowing(self, **facts: object) -> Self:
        """Return this error, with the facts that it does not know yet. What is None or empty is no fact."""
        for name, value in facts.items():
            if value and not getattr(self, name):
                setattr(self, name, value if name in _NOT_TEXT else str(value))
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name in FACTS if (value := getattr(self, name))}

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: keyword-only arguments are not in `args`."""
        return _rebuilt, (type(self), self.args, self.__dict__)


FACTS = ("registry", "repository", "reference", "digest", "status", "codes", "method", "url")
_NOT_TEXT = frozenset({"status", "codes"})


def _rebuilt(kind: type[CrossmountError], args: tuple[Any, ...], facts: dict[str, Any]) -> CrossmountError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


@contextmanager
def knowing(**facts: object) -> Iterator[None]:
    """Add these facts to each of our errors that passes and does not have them yet."""
    try:
        yield
    except CrossmountError as error:
        error.knowing(**facts)
        raise


class InvalidInputError(CrossmountError, ValueError):
    """An argument breaks a grammar or a rule."""


class InvalidDigestError(InvalidInputError):
    """Not a digest in the image specification's grammar, or its algorithm is not registered there."""


class InvalidReferenceError(InvalidInputError):
    """Not a reference in the distribution specification's grammar."""


class InvalidManifestError(InvalidInputError):
    """Not a manifest or an index that crossmount can read."""


class InvalidLayoutError(InvalidInputError):
    """An image layout cannot be read, or lacks a blob that it names."""


class InvalidIndexURLError(InvalidInputError):
    """The URL of an index breaks the grammar."""


class ListenError(CrossmountError):
    """A server cannot listen on an address: it is in use, not local, or not allowed."""


class MissingExtraError(CrossmountError):
    """A library of an extra is not installed; the message names the extra."""


class IndexFailedError(CrossmountError):
    """The index failed. It only gives hints, so a push continues without it."""


class IndexUnavailableError(IndexFailedError):
    """The index did not answer in time."""


class IndexRefusedError(IndexFailedError):
    """The index answered with an error."""


class CredentialsError(CrossmountError):
    """A credential file or helper cannot be used."""


class RegistryError(CrossmountError):
    """A request to a registry failed."""


class RegistryUnreachableError(RegistryError):
    """The registry did not answer: connection refused, time-out, cut, or a TLS failure."""


class InvalidAnswerError(RegistryError):
    """The registry's answer breaks the distribution specification, or exceeds a limit."""


class BlobUnavailableError(RegistryError):
    """No registry delivered a blob with the right bytes; the message names each registry and why."""


class RegistryRefusedError(RegistryError):
    """The registry answered with an error status, which is its `status`."""

    status: int

    def __init__(self, message: str, *, status: int, codes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.codes = codes


class AccessDeniedError(RegistryRefusedError):
    """The registry denied access: 401 or 403."""


class BlobUnknownError(RegistryRefusedError):
    """The registry refused a manifest because the repository lacks a blob that it names.

    Attributes:
        blobs: the digests that the registry named as absent, as it wrote them; many registries name none.
    """

    def __init__(
        self, message: str, *, status: int, codes: tuple[str, ...] = (), blobs: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(message, status=status, codes=codes)
        self.blobs = blobs


class MountRequiredError(CrossmountError):
    """A layer with the must-mount flag could not be mounted, and was not uploaded."""


class CopyFailedError(CrossmountError):
    """Some images of a copy, or of a list of pushes, failed; the others arrived.

    Attributes:
        report: the report; its `failures` name the images that failed, and why.
    """

    def __init__(self, message: str, *, report: Any) -> None:
        super().__init__(message)
        self.report = report
