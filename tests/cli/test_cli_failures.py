import asyncio
import os
import signal
import ssl
from pathlib import Path

import click
import pytest

from crossmount import errors
from crossmount._signals import TWICE_SECONDS, ReceivedSignals
from crossmount.cli import command, event_loop, failures
from crossmount.cli.advice import explain
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
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


UNTRUSTED = "GET r: its certificate is not trusted (odd); name its authority's file, or connect insecurely"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.AccessDeniedError("GET r: 401", status=401), "GET r: 401: docker login REGISTRY"),
        (
            errors.RegistryUnreachableError("r: it does not speak TLS (odd); if that is right, allow plain http"),
            "r: it does not speak TLS (odd): --plain-http, if that is right",
        ),
        (
            errors.RegistryUnreachableError(UNTRUSTED),
            "GET r: its certificate is not trusted (odd): --ca-file FILE, or --insecure",
        ),
        (
            errors.RegistryUnreachableError("r: refused"),
            "r: refused: is the registry running, and is the address right?",
        ),
        (errors.CredentialsError("r: trust the realm x by name"), "x by name: --trusted-realm x"),
        (errors.CredentialsError("file: not JSON"), "file: not JSON"),
        (errors.IndexUnavailableError("index at x does not answer"), "is it running, and is --index right?"),
        (errors.IndexUnavailableError("index at rediss://x does not answer"), "does it use TLS"),
        (
            errors.IndexUnavailableError("index at redis://x does not answer: (104, 'Connection reset by peer')"),
            "is it running? if it needs TLS, give a rediss:// URL",
        ),
        (errors.IndexUnavailableError("the embedded index: gone"), "the embedded index: gone"),
        (
            errors.IndexRefusedError("index at x refused: No permissions to access a key"),
            "access a key: may this user use this --namespace?",
        ),
        (  # as Redis up to 7.0 says it
            errors.IndexRefusedError(
                "index at x refused: this user has no permissions to access one of the keys used as arguments"
            ),
            "as arguments: may this user use this --namespace?",
        ),
        (
            errors.IndexRefusedError("index at x refused: odd"),
            "odd: check the user, password and database in --index",
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
    ("words", "advice"),
    [
        ("You can't write against a read only replica", "give the primary"),
        ("command not allowed when used memory > 'maxmemory'", "raise its maxmemory"),
        ("it is no sentinel (odd): give a redis:// URL", ""),
        ("Redis is loading the dataset in memory", "try again in a moment"),
    ],
)
def test_a_refusal_that_is_not_for_the_url_gives_no_advice_on_it(words: str, advice: str) -> None:
    """The message of a full, read-only or starting server does not suggest that the URL is wrong."""
    shown = failures.message_of(errors.IndexRefusedError(f"index at x refused: {words}"))
    assert shown.startswith(f"index at x refused: {words}")
    assert advice in shown
    assert "check the user" not in shown


LONG = f"HEAD https://r.example/v2/team/app/blobs/sha256:{'0' * 64}"
LOGIN = "docker login r.example, or --authfile FILE"
SHORT = f"HEAD https://r.example/v2/team/app/blobs/sha256:{'0' * 12}…"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.RegistryRefusedError(f"{LONG}: 418: no", status=418), f"418: no ({SHORT})"),
        (
            errors.AccessDeniedError(f"{LONG}: 403: no (credentials from file)", status=403),
            f"403: no (credentials from file) (r.example/team/app): may this account do that? {LOGIN}",
        ),
        (
            errors.AccessDeniedError(f"{LONG}: 401: it wants a login (no credentials)", status=401),
            f"401: r.example/team/app wants a login (no credentials): {LOGIN}",
        ),
        (
            errors.RegistryUnreachableError(f"{LONG}: it speaks TLS: leave plain http out"),
            f"it speaks TLS ({SHORT}): leave out --plain-http (CROSSMOUNT_PLAIN_HTTP)",
        ),
        (
            errors.RegistryUnreachableError(f"{LONG}: cut").knowing(url="https://r.example/v2/"),
            "cut (https://r.example): is the registry running, and is the address right?",
        ),
        (errors.InvalidAnswerError(f"{LONG}: odd"), f"odd ({SHORT}): is this a registry? -vv shows the requests"),
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
        ("GET r: it does not speak TLS; if that is right, allow plain http", "--plain-http, if that is right"),
        (UNTRUSTED, "--ca-file FILE, or --insecure"),
        ("GET r: it speaks TLS (https): leave plain http out", "leave out --plain-http (CROSSMOUNT_PLAIN_HTTP)"),
        ("GET r: 500", "the registry failed: try again later, and see its log"),
        ("index at redis://x does not answer: no reply in time", "and without TLS? else give rediss://"),
    ):
        assert explain(words).endswith(option)


def test_a_defect_is_one_line_and_its_traceback_comes_with_vv(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is one line and status 1; -vv adds a traceback."""

    def broken(ctx: click.Context) -> None:
        raise ssl.SSLError(f"odd {ctx.command_path}")

    monkeypatch.setattr(command.crossmount, "invoke", broken)
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
