"""What an error means for whoever called the command: an exit status and one line. Pure."""

import click

from crossmount.cli.interrupt import Interrupted
from crossmount.cli.text import one_line
from crossmount.errors import (
    AccessDeniedError,
    CredentialsError,
    CrossmountError,
    IndexUnavailableError,
    InvalidDigestError,
    InvalidIndexURLError,
    InvalidInputError,
    InvalidReferenceError,
    MountRequiredError,
    RegistryUnreachableError,
)

DONE, FAILED, USAGE, MUST_MOUNT, DENIED = 0, 1, 2, 3, 4

_USAGE_ERRORS = (InvalidDigestError, InvalidReferenceError, InvalidIndexURLError)


def status_of(error: BaseException) -> int:
    """Return the exit status that an error stands for."""
    match error:
        case Interrupted():
            return error.status
        case MountRequiredError():
            return MUST_MOUNT
        case AccessDeniedError():
            return DENIED
        case click.UsageError():
            return USAGE
        case InvalidInputError() if type(error) is InvalidInputError or isinstance(error, _USAGE_ERRORS):
            return USAGE
    return FAILED


def words_of(error: BaseException) -> str:
    """Return an error in one line: what, where, what to do."""
    match error:
        case Interrupted():
            words = str(error)
        case click.UsageError():
            words = f"{_sentence(error.format_message())}{_help_of(error)}"
        case click.ClickException():
            words = _sentence(error.format_message())
        case CrossmountError():
            words = f"{error}{_option_for(error)}"
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            words = f"{where}{error.strerror or error}"
        case _:
            words = f"unexpected {type(error).__name__}: {error}: this is a bug, -vv shows where"
    return one_line(words)


def _sentence(words: str) -> str:
    """Return click's sentence in the shape of ours."""
    words = words.removesuffix(".")
    return words[:1].lower() + words[1:]


def _help_of(error: click.UsageError) -> str:
    return f": see {error.ctx.command_path} --help" if error.ctx is not None else ""


def _option_for(error: CrossmountError) -> str:
    """Name the option that helps, where the library can only name the remedy."""
    words = str(error)
    return next((advice for kind, about, advice in _ADVICE if isinstance(error, kind) and about in words), "")


_ADVICE: tuple[tuple[type[CrossmountError], str, str], ...] = (
    (
        AccessDeniedError,
        "",
        ": log in (docker login, skopeo login), or name a file of credentials with --authfile",
    ),
    (CredentialsError, "trust the realm", ": --trusted-realm"),
    (RegistryUnreachableError, "plain http", ": --plain-http"),
    (RegistryUnreachableError, "certificate", ": --ca-file, --insecure"),
    (RegistryUnreachableError, "", ": is the registry up, and the address right?"),
    (IndexUnavailableError, "index at ", ": is it up, and --index right?"),
)
"""For a kind of error whose message holds some words: what to add. The first that fits is taken."""
