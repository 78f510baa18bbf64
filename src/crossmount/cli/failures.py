"""The exit status and the message of an error: one line, with what went wrong, where, and what to do."""

import errno
import signal

import click

from crossmount._formatting import one_line
from crossmount._secrets import mask_forms
from crossmount.cli.advice import explain
from crossmount.errors import (
    AccessDeniedError,
    BlobUnknownError,
    CopyFailedError,
    CredentialsError,
    CrossmountError,
    IndexFailedError,
    InvalidAnswerError,
    InvalidDigestError,
    InvalidIndexURLError,
    InvalidInputError,
    InvalidReferenceError,
    MountRequiredError,
    RegistryError,
    RegistryRefusedError,
    RegistryUnreachableError,
)

DONE, FAILED, USAGE, MUST_MOUNT, DENIED = 0, 1, 2, 3, 4

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

_USAGE_ERRORS = (click.UsageError, InvalidDigestError, InvalidReferenceError, InvalidIndexURLError)


class Interrupted(Exception):  # noqa: N818 the user wanted it, so it is no error
    """A signal ended the command, which has cleaned up.

    Attributes:
        number: of the signal.
        status: the exit status, 128 + the signal's number.
    """

    def __init__(self, number: int = signal.SIGINT, words: str = "") -> None:
        super().__init__(
            "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}", words
        )
        self.number = number
        self.status = 128 + number

    def __str__(self) -> str:
        return ": ".join(filter(None, self.args))

    def with_note(self, words: str) -> "Interrupted":
        """Return the same with a note on what was done until then."""
        return Interrupted(self.number, words)


def status_of(error: BaseException) -> int:
    """Return the exit status for an error."""
    if isinstance(error, CopyFailedError):
        statuses = {status_of(failure.error) for failure in error.report.failures}
        return statuses.pop() if len(statuses) == 1 else FAILED
    match error:
        case Interrupted():
            return error.status
        case MountRequiredError():
            return MUST_MOUNT
        case AccessDeniedError():
            return DENIED
        case click.UsageError() | InvalidInputError() if _is_usage(error):
            return USAGE
    return FAILED


def _is_usage(error: click.UsageError | InvalidInputError) -> bool:
    """Return whether the command line itself is wrong, not a file or an image that it names."""
    return type(error) is InvalidInputError or isinstance(error, _USAGE_ERRORS)


def message_of(error: BaseException) -> str:
    """Return the one-line message for an error."""
    match error:
        case Interrupted():
            words = str(error)
        case click.UsageError():
            words = f"{_sentence(error.format_message())}{_help_of(error)}"
        case click.ClickException():
            words = _sentence(error.format_message())
        case CopyFailedError():
            words = _copy_message(error)
        case CrossmountError():
            words = _library_message(error)
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            space = ": free some space there, or give another place" if error.errno in _NO_SPACE else ""
            words = f"{where}{error.strerror or error}{space}"
        case _:
            words = f"unexpected {type(error).__name__}: {error}: this is a bug, -vv shows where"
    return one_line(mask_forms(words))


def image_message(error: BaseException, *, source: object, dest: object, verb: str = "copied") -> str:
    """Return why one image failed. For a must-mount layer, a copy has a remedy that a push lacks.

    Args:
        error: the error.
        source: the image.
        dest: the reference that it was to be pushed or copied to.
        verb: what was to be done with it: `copied` or `pushed`.
    """
    images = f"{_where(error, source, dest)}{source} to {dest}"
    if isinstance(error, MountRequiredError):
        remedy = "; or transfer it with --allow-transfer" if verb == "copied" else ""
        words = f"{_library_message(error, where=images)}{remedy}"
    elif isinstance(error, CrossmountError):
        words = _library_message(error, where=images)
    else:
        words = f"{message_of(error)} ({images})"
    return one_line(mask_forms(f"not {verb}: {words}"))


def _where(error: BaseException, source: object, dest: object) -> str:
    """Return the registry that failed, unless it is the only one of the transfer: the request is not shown."""
    if not isinstance(error, (RegistryUnreachableError, RegistryRefusedError, InvalidAnswerError)):
        return ""
    named = {getattr(place, "registry", error.registry) for place in (source, dest)}  # a layout has none
    return f"at {error.registry}, " if error.registry and named != {error.registry} else ""


def _copy_message(error: CopyFailedError) -> str:
    """Return why the image was not copied; for several images their number, since each had its own line."""
    asked, failures, verb = len(error.report.images), error.report.failures, error.report.verb
    if asked > 1:
        return f"{len(failures)} of {asked} images not {verb}"
    first = failures[0]
    return image_message(first.error, source=first.source, dest=first.reference, verb=verb)


def _sentence(words: str) -> str:
    """Return a message of click in our style: no capital letter, no full stop."""
    words = words.removesuffix(".")
    return words[:1].lower() + words[1:]


def _help_of(error: click.UsageError) -> str:
    return f": see {error.ctx.command_path} --help" if error.ctx is not None else ""


def _library_message(error: CrossmountError, *, where: str = "") -> str:
    """Return the library's message in the order of the command's messages, with advice.

    Args:
        error: the error.
        where: the place to name instead of the request.
    """
    words = str(error)
    match error:
        case BlobUnknownError():
            default, rules = "push again; if that does not help, see the registry's log", False
        case RegistryUnreachableError():
            default, rules = "is the registry running, and is the address right?", True
            where = where or _origin(error.url)
        case InvalidAnswerError():
            default, rules = "is this a registry? -vv shows the requests", True
        case RegistryError() | CredentialsError() | IndexFailedError():
            default, rules = "", True
        case _:
            return f"{words} ({where})" if where else words
    return explain(words, registry=error.registry, default=default, where=where, rules=rules)


def _origin(url: str | None) -> str:
    """Return scheme and host of a URL: if nothing answers, the path does not matter."""
    scheme, separator, rest = (url or "").partition("://")
    return f"{scheme}{separator}{rest.partition('/')[0]}"
