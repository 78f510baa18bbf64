"""The exit status and the message of an error: one line, with what went wrong, where, and what to do."""

import re
import signal
import ssl

import click

from crossmount._secrets import mask_forms
from crossmount.cli.text import one_line
from crossmount.errors import (
    AccessDeniedError,
    CopyFailedError,
    CredentialsError,
    CrossmountError,
    IndexRefusedError,
    IndexUnavailableError,
    InvalidDigestError,
    InvalidIndexURLError,
    InvalidInputError,
    InvalidReferenceError,
    MountRequiredError,
    RegistryRefusedError,
    RegistryUnreachableError,
)

DONE, FAILED, USAGE, MUST_MOUNT, DENIED = 0, 1, 2, 3, 4

LOG_IN = "log in (docker login, skopeo login), or give a credential file with --authfile"

_USAGE_ERRORS = (click.UsageError, InvalidDigestError, InvalidReferenceError, InvalidIndexURLError)


class Interrupted(Exception):  # noqa: N818 a user wanted it, so it is no error
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
    """Whether the command line itself is wrong, and not a file or an image that it names."""
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
            words = _cause_first(*_library_message(error))
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            words = f"{where}{error.strerror or error}"
        case _:
            words = f"unexpected {type(error).__name__}: {error}: this is a bug, -vv shows where"
    return one_line(mask_forms(words))


def image_message(error: BaseException, *, transfer: bool = True) -> str:
    """Return why one image failed. For a must-mount layer, a copy has a remedy (`transfer`) that a push lacks."""
    remedy = "; or transfer it with --allow-transfer" if transfer and isinstance(error, MountRequiredError) else ""
    if isinstance(error, CrossmountError):  # the names of both images stand before it, so no cause comes first
        words = one_line(mask_forms(_advised(*_library_message(error))))
    else:
        words = message_of(error)
    return f"{words}{remedy}"


def _copy_message(error: CopyFailedError) -> str:
    """Return why the one image was not copied; of several only their number: each had its own line."""
    asked, failures, verb = len(error.report.images), error.report.failures, error.report.verb
    if asked > 1:
        return f"{len(failures)} of {asked} images not {verb}"
    first = failures[0]
    return (
        f"not {verb}: {first.source} to {first.reference}: {image_message(first.error, transfer=verb == 'copied')}"
    )


def _sentence(words: str) -> str:
    """Return a message of click in our style: no capital letter, no full stop."""
    words = words.removesuffix(".")
    return words[:1].lower() + words[1:]


def _help_of(error: click.UsageError) -> str:
    return f": see {error.ctx.command_path} --help" if error.ctx is not None else ""


def _library_message(error: CrossmountError) -> tuple[str, str]:
    """Return the library's message, and the option or the question that helps; empty for none."""
    words = str(error)
    match error:
        case AccessDeniedError():
            advice = LOG_IN
        case CredentialsError() if "trust the realm" in words:
            advice = "--trusted-realm"
        case RegistryUnreachableError():
            words, advice = _on_registry(words, _tls_failure(error))
        case RegistryRefusedError(status=404) if type(error) is RegistryRefusedError:
            advice = next((advice for about, advice in _NOT_THERE.items() if about in words), "")
        case IndexUnavailableError() if "index at rediss" in words:
            advice = "is it running, does it use TLS, and is --index right?"
        case IndexUnavailableError() if "index at redis" in words and any(s in words for s in _HUNG_UP):
            advice = "is it running, and is --index right? if it needs TLS, give a rediss:// URL"
        case IndexUnavailableError() if "index at " in words:
            advice = "is it running, and is --index right?"
        case IndexRefusedError() if "access a key" in words:
            advice = "may this user use this --namespace?"
        case IndexRefusedError() if _is_of_its_url(error, words):
            advice = "check the user, password and database in --index; is this a Redis server?"
        case _:
            advice = ""
    return words, advice


def _advised(words: str, advice: str) -> str:
    return f"{words}: {advice}" if advice else words


def _cause_first(words: str, advice: str) -> str:
    """Return a message with its advice; a request whose method and URL are long follows the cause in brackets."""
    match = _REQUEST.fullmatch(words)
    if match is not None and len(match["request"]) > _REQUEST_MAX:
        words = f"{match['cause']} ({match['request']})"
    return _advised(words, advice)


_REQUEST = re.compile(r"(?P<request>(?:GET|HEAD|POST|PUT|PATCH|DELETE) \S+): (?P<cause>.+)", re.DOTALL)
_REQUEST_MAX = 40
"""Most characters before the cause, which a reader finds in the first sixty of the line."""

_NOT_THERE = {
    "/blobs/uploads/": "is the name right? some registries want a repository to be created first",
    "/manifests/": "are the name and the tag right?",
    "/tags/list": "is the name right?",
}
"""Advice for a 404 by a part of the request's path."""


def _is_of_its_url(error: IndexRefusedError, words: str) -> bool:
    """Return whether the user, the password or the server may be wrong; a subclass says what else it is."""
    is_of_a_command = any(said in words for said in ("no permissions", "unknown command"))
    is_explained = any(said in words for said in (*_OF_ITS_STATE, *_ADVISED))
    return (type(error) is IndexRefusedError or is_of_a_command) and not is_explained


_OF_ITS_STATE = ("read only", "memory", "loading")
"""Words of a server that refuses because of its state, though the URL is right."""


_HUNG_UP = ("closed by server", "reset by peer")
"""Words of a connection that was cut, as by a server that expects TLS and gets none."""

_ADVISED = ("give a redis", "in the URL", "scripts are not", "holds the key")
"""Words of a message that already says what to do."""


def _on_registry(words: str, tls: ssl.SSLError | None) -> tuple[str, str]:
    """Return the message for an unreachable registry, and what to do."""
    if advice := _advice_on(words):
        return words, advice
    match tls:
        case None:
            return words, "is the registry running, and is the address right?"
        case ssl.SSLCertVerificationError(verify_code=code) if code in _WRONG_NAME:
            # the message is about the authority, but only the name is wrong
            return words.partition(": its certificate")[
                0
            ], "use the name that its certificate is for, or --insecure"
        case ssl.SSLCertVerificationError():
            return words, "--ca-file, --insecure"
    return words, "--plain-http"


def with_option(words: str) -> str:
    """Return the words of a failure in an event, and the option that helps."""
    advice = _advice_on(words) or next((option for said, option in _TLS_OPTIONS.items() if said in words), "")
    return _advised(words, advice)


def _advice_on(words: str) -> str:
    return next((advice for said, advice in _SAID_BY_THE_LIBRARY.items() if said in words), "")


_TLS_OPTIONS = {"allow plain http": "--plain-http", "its certificate is not trusted": "--ca-file, --insecure"}
"""Options by the library's words on TLS, where its failure is not at hand."""

_SAID_BY_THE_LIBRARY = {
    "it speaks TLS": "--plain-http (CROSSMOUNT_PLAIN_HTTP)",
    "client certificate": "--cert-file, --key-file",
    "the proxy ": "is the proxy running? NO_PROXY exempts hosts from it",
}
"""Advice by words of the library's message (importing its module would load httpx for each command)."""

_WRONG_NAME = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


def _tls_failure(error: BaseException) -> ssl.SSLError | None:
    """Return the TLS failure that caused an error, None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause
