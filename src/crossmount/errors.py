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

from typing import Any


class CrossmountError(Exception):
    """Base class of all errors that crossmount raises."""


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
    """The registry answered with an error status.

    Attributes:
        status: the HTTP status.
        codes: the registry's error codes (distribution specification, "Error Codes"), maybe empty.
    """

    def __init__(self, message: str, *, status: int, codes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.codes = codes

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: keyword-only arguments are not in `args`."""
        return _rebuild_refused, (type(self), str(self), self.status, self.codes)


def _rebuild_refused(
    kind: type[RegistryRefusedError], message: str, status: int, codes: tuple[str, ...]
) -> RegistryRefusedError:
    return kind(message, status=status, codes=codes)


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

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: keyword-only arguments are not in `args`."""
        return _rebuild_blob_unknown, (str(self), self.status, self.codes, self.blobs)


def _rebuild_blob_unknown(
    message: str, status: int, codes: tuple[str, ...], blobs: frozenset[str]
) -> BlobUnknownError:
    return BlobUnknownError(message, status=status, codes=codes, blobs=blobs)


class MountRequiredError(CrossmountError):
    """A layer with the must-mount flag could not be mounted, and was not uploaded."""


class CopyFailedError(CrossmountError):
    """Some images of a copy failed; the others were copied.

    Attributes:
        report: the `CopyReport`; its `failures` name the images that failed, and why.
    """

    def __init__(self, message: str, *, report: Any) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: keyword-only arguments are not in `args`."""
        return _rebuild_copy_failed, (str(self), self.report)


def _rebuild_copy_failed(message: str, report: Any) -> CopyFailedError:
    return CopyFailedError(message, report=report)
