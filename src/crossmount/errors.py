"""Every error that crosses crossmount's API, as one tree.

    CrossmountError
    ├── InvalidInputError            what was given breaks a grammar or a rule (also a ValueError)
    │   ├── InvalidDigestError
    │   ├── InvalidReferenceError
    │   ├── InvalidManifestError
    │   ├── InvalidLayoutError
    │   └── InvalidIndexURLError
    ├── ListenError                  an address cannot be listened on
    ├── MissingExtraError            an optional part of crossmount is not installed
    ├── IndexFailedError             the index did not serve (a push goes on without it)
    │   ├── IndexUnavailableError    … no answer: refused, silent, gone
    │   └── IndexRefusedError        … a bad answer: READONLY, OOM, NOPERM, WRONGTYPE …
    ├── CredentialsError             a credential file or helper cannot be used
    ├── RegistryError                the registry did not do what was asked
    │   ├── RegistryUnreachableError … no answer
    │   ├── InvalidAnswerError       … an answer that breaks the distribution specification
    │   ├── BlobUnavailableError     … no registry gave a blob's bytes, whole and right
    │   └── RegistryRefusedError     … a status that says no, with the registry's own words
    │       ├── AccessDeniedError    … 401 or 403
    │       └── BlobUnknownError     … a manifest names a blob that the repository lacks
    ├── MountRequiredError           must-mount is set on a layer and no mount succeeded
    └── CopyFailedError              not all images of a copy arrived

A message is one line: what happened, where, and what to do. Nothing of redis-py or httpx appears here.
"""

from typing import Any


class CrossmountError(Exception):
    """The root of every error that crossmount raises on purpose."""


class InvalidInputError(CrossmountError, ValueError):
    """What was given breaks a grammar or a rule."""


class InvalidDigestError(InvalidInputError):
    """Not a digest by the image specification's grammar, or of an algorithm that is not registered there."""


class InvalidReferenceError(InvalidInputError):
    """Not a reference by the distribution specification's grammar."""


class InvalidManifestError(InvalidInputError):
    """Not a manifest or an index that crossmount can follow."""


class InvalidLayoutError(InvalidInputError):
    """An image layout that cannot be read, or that lacks what it names."""


class InvalidIndexURLError(InvalidInputError):
    """An index URL that names no index."""


class ListenError(CrossmountError):
    """An address cannot be listened on: it is in use, not this machine's, or not allowed."""


class MissingExtraError(CrossmountError):
    """An optional part of crossmount is needed and not installed; the message names the extra."""


class IndexFailedError(CrossmountError):
    """The index did not serve. It only hints, so whoever pushes goes on without it."""


class IndexUnavailableError(IndexFailedError):
    """The index gave no answer in time."""


class IndexRefusedError(IndexFailedError):
    """The index answered, and the answer was an error."""


class CredentialsError(CrossmountError):
    """A credential file or helper exists and cannot be used."""


class RegistryError(CrossmountError):
    """The registry did not do what was asked."""


class RegistryUnreachableError(RegistryError):
    """The registry gave no answer: refused, timed out, cut, or not trusted by TLS."""


class InvalidAnswerError(RegistryError):
    """The registry's answer breaks the distribution specification, or a limit of ours."""


class BlobUnavailableError(RegistryError):
    """No registry that should hold a blob gave its bytes, whole and right; the message names each and why."""


class RegistryRefusedError(RegistryError):
    """The registry answered no.

    Attributes:
        status: the HTTP status.
        codes: the registry's own error codes (distribution specification, "Error Codes"), maybe none.
    """

    def __init__(self, message: str, *, status: int, codes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.codes = codes

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between processes: keyword-only arguments are not in `args`."""
        return _rebuild_refused, (type(self), str(self), self.status, self.codes)


def _rebuild_refused(
    kind: type[RegistryRefusedError], message: str, status: int, codes: tuple[str, ...]
) -> RegistryRefusedError:
    return kind(message, status=status, codes=codes)


class AccessDeniedError(RegistryRefusedError):
    """The registry does not allow it: 401 or 403."""


class BlobUnknownError(RegistryRefusedError):
    """A manifest was refused because the repository lacks a blob that it names."""


class MountRequiredError(CrossmountError):
    """A layer is flagged must-mount and no mount succeeded, so it was not uploaded."""


class CopyFailedError(CrossmountError):
    """Not all images of a copy arrived; the others did.

    Attributes:
        report: the `CopyReport`, whose `failures` say which did not, and why.
    """

    def __init__(self, message: str, *, report: Any) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between processes: keyword-only arguments are not in `args`."""
        return _rebuild_copy_failed, (str(self), self.report)


def _rebuild_copy_failed(message: str, report: Any) -> CopyFailedError:
    return CopyFailedError(message, report=report)
