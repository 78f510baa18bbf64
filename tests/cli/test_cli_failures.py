import asyncio
import os
import signal
import ssl
from pathlib import Path

import click
import pytest

from crossmount import errors
from crossmount._signals import TWICE_SECONDS, ReceivedSignals
from crossmount.cli import event_loop, failures, run
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.redis.replies import WrongTypeError
from support.commands import Here


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.CrossmountError("x"), 1),
        (errors.InvalidInputError("x"), 2),
        (errors.InvalidDigestError("x"), 2),
        (errors.InvalidReferenceError("x"), 2),
        (errors.InvalidIndexURLError("x"), 2),
        (errors.InvalidManifestError("x"), 1),
        (errors.InvalidLayoutError("x"), 1),
        (errors.ListenError("x"), 1),
        (errors.MissingExtraError("x"), 1),
        (errors.IndexUnavailableError("x"), 1),
        (errors.IndexRefusedError("x"), 1),
        (errors.CredentialsError("x"), 1),
        (errors.RegistryUnreachableError("x"), 1),
        (errors.InvalidAnswerError("x"), 1),
        (errors.RegistryRefusedError("x", status=500), 1),
        (errors.BlobUnknownError("x", status=404), 1),
        (errors.AccessDeniedError("x", status=403), 4),
        (errors.MountRequiredError("x"), 3),
        (click.UsageError("x"), 2),
        (click.ClickException("x"), 1),
        (Interrupted(), 130),
        (Interrupted(15), 143),
        (OSError(28, "No space left on device"), 1),
        (ValueError("x"), 1),
    ],
)
def test_every_error_has_its_status(error: Exception, status: int) -> None:
    """The statuses are 1 failed, 2 usage, 3 must-mount, 4 denied, and 128 plus a signal's number."""
    assert failures.status_of(error) == status
    assert "\n" not in failures.message_of(error)


def caused(error: Exception, *causes: Exception) -> Exception:
    """Return an error with a chain of causes."""
    above = error
    for cause in causes:
        above.__cause__ = cause
        above = cause
    return error


def mismatch(code: int) -> ssl.SSLCertVerificationError:
    """Return an OpenSSL verification error with a number."""
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_code = code
    return error


UNTRUSTED = "r: odd: its certificate is not trusted; name its authority's file"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.AccessDeniedError("GET r: 401", status=401), "GET r: 401: log in"),
        (
            caused(errors.RegistryUnreachableError("r: allow plain http"), OSError(), ssl.SSLError()),
            "r: allow plain http: --plain-http",
        ),
        (
            caused(errors.RegistryUnreachableError(UNTRUSTED), OSError(), mismatch(20)),
            f"{UNTRUSTED}: --ca-file, --insecure",
        ),
        (
            caused(errors.RegistryUnreachableError(UNTRUSTED), mismatch(62)),
            "r: odd: use the name that its certificate is for, or --insecure",
        ),
        (
            errors.RegistryUnreachableError("r: refused"),
            "r: refused: is the registry running, and is the address right?",
        ),
        (errors.CredentialsError("r: trust the realm x by name"), "x by name: --trusted-realm"),
        (errors.CredentialsError("file: not JSON"), "file: not JSON"),
        (errors.IndexUnavailableError("index at x does not answer"), "is it running, and is --index right?"),
        (errors.IndexUnavailableError("index at rediss://x does not answer"), "does it use TLS"),
        (
            errors.IndexUnavailableError("index at redis://x does not answer: (104, 'Connection reset by peer')"),
            "is it running, and is --index right? if it needs TLS, give a rediss:// URL",
        ),
        (errors.IndexUnavailableError("the embedded index: gone"), "the embedded index: gone"),
        (errors.IndexRefusedError("two\nlines"), "two lines: check the user, password and database in --index"),
        (
            errors.IndexRefusedError("index at x refused: No permissions to access a key"),
            "access a key: may this user use this --namespace?",
        ),
        (OSError(28, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device"),  # noqa: S108 a name
        (OSError("odd"), "odd"),
        (KeyError("x"), "unexpected KeyError: 'x': this is a bug, -vv shows where"),
        (Interrupted(2, "a was not pushed"), "interrupted: a was not pushed"),
        (Interrupted(15), "ended by SIGTERM"),
    ],
)
def test_errors_say_what_to_do(error: Exception, words: str) -> None:
    """The message names the option that helps, if there is one."""
    assert words in failures.message_of(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.IndexRefusedError("index at x refused: You can't write against a read only replica"),
        errors.IndexRefusedError("index at x refused: command not allowed when used memory > 'maxmemory'"),
        errors.IndexRefusedError("index at x refused: it is no sentinel (odd): give a redis:// URL"),
        WrongTypeError("index at x holds something else"),
    ],
)
def test_a_refusal_that_is_not_for_the_url_gives_no_advice_on_it(error: Exception) -> None:
    """The message of a full, read-only or shared server does not suggest a change of the URL."""
    assert failures.message_of(error) == str(error)


LONG = f"HEAD https://r.example/v2/team/app/blobs/sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.AccessDeniedError(f"{LONG}: 401: no", status=401), f"401: no ({LONG}): {failures.LOG_IN}"),
        (
            errors.RegistryUnreachableError(f"{LONG}: it speaks TLS: odd"),
            f"it speaks TLS: odd ({LONG}): --plain-http (CROSSMOUNT_PLAIN_HTTP)",
        ),
        (errors.InvalidAnswerError(f"{LONG}: odd"), f"odd ({LONG})"),
    ],
)
def test_the_cause_of_a_failed_request_comes_before_a_long_address(error: Exception, words: str) -> None:
    """A message about a request with a long URL has the cause, then the request in brackets, then what to do."""
    assert failures.message_of(error) == words


@pytest.mark.parametrize(
    ("request_line", "advice"),
    [
        ("GET https://r/v2/a/manifests/latest", "are the name and the tag right?"),
        ("GET https://r/v2/a/tags/list", "is the name right?"),
        ("POST https://r/v2/a/blobs/uploads/", "some registries want a repository to be created first"),
    ],
)
def test_a_name_that_a_registry_does_not_know_is_questioned(request_line: str, advice: str) -> None:
    """The message of a 404 asks whether the name is right; one about a manifest's blobs does not."""
    assert advice in failures.message_of(errors.RegistryRefusedError(f"{request_line}: 404", status=404))
    assert advice not in failures.message_of(errors.BlobUnknownError(f"{request_line}: 404", status=404))


def test_a_failure_that_came_as_words_gets_its_option_too() -> None:
    """A cause in an event is completed with the option that helps, as an error is."""
    for words, option in (
        ("GET r: odd: it does not speak TLS; if that is right, allow plain http", "--plain-http"),
        (UNTRUSTED, "--ca-file, --insecure"),
        ("GET r: it speaks TLS (https): leave plain http out", "--plain-http (CROSSMOUNT_PLAIN_HTTP)"),
        ("GET r: 500", "500"),
    ):
        assert failures.with_option(words).endswith(option)


def test_a_defect_is_one_line_and_its_traceback_comes_with_vv(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is one line and status 1; -vv adds a traceback."""

    def broken(ctx: click.Context) -> None:
        raise ssl.SSLError(f"odd {ctx.command_path}")

    monkeypatch.setattr(run.crossmount, "invoke", broken)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    done = here("doctor")
    assert done.status == 1
    assert "odd crossmount" in done.complaint
    done = here("-vv", "doctor")
    assert done.status == 1
    assert done.err.startswith("Traceback (most recent call last):")
    assert done.err.splitlines()[-1].startswith("crossmount: ")


@pytest.mark.parametrize("others", [(), (signal.SIGTERM,), (signal.SIGHUP, signal.SIGTERM)])
def test_a_signal_that_comes_twice_leaves_time_to_clean_up(others: tuple[int, ...]) -> None:
    """`timeout` sends each signal twice: the clean-up goes on, and the status is the first signal's."""
    cleaned: list[str] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            for number in others:
                os.kill(os.getpid(), number)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            cleaned.append("all")

    with pytest.raises(Interrupted) as caught:
        run_async(work())
    assert (caught.value.status, cleaned) == (143, ["all"])


def test_a_later_signal_ends_the_clean_up_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal that comes later does not wait for the clean-up; nothing but the first signal is reported."""
    times = iter((0.0, TWICE_SECONDS))
    monkeypatch.setattr(event_loop, "ReceivedSignals", lambda _: ReceivedSignals(lambda: next(times)))

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(Interrupted) as caught:
        run_async(work())
    assert caught.value.status == 143
    assert caplog.records == []


def test_a_failure_after_a_signal_is_the_signal(tmp_path: Path) -> None:
    """An error during the clean-up after a signal does not hide the signal."""

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError(str(tmp_path))

    with pytest.raises(Interrupted) as caught:
        run_async(work())
    assert caught.value.status == 143
