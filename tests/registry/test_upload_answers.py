"""What answers to parts and to whole blobs mean, and how long a registry may go on storing one."""

import httpx
import pytest

from crossmount.errors import AccessDeniedError, InvalidAnswerError, RegistryRefusedError
from crossmount.registry.endpoints import UploadSession
from crossmount.registry.http.transport import Answer
from crossmount.registry.resume import CommitWait, Step, StepResult, UploadState
from crossmount.registry.upload_answers import (
    UNKNOWN_SECONDS,
    after_part,
    commit_wait,
    named_limit,
    result_of,
    upload_refusal,
)
from support.registry_kit import DEST

SIZE = 100


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Return an answer."""
    return Answer(httpx.URL("https://r.example/u"), status, httpx.Headers(headers, encoding="utf-8"), body)


def part(*, offset: int = 40, chunk: int | None = None, resumed: bool = True) -> UploadState:
    """Return the state in which a part is sent."""
    session = UploadSession(repository=DEST, location="https://r.example/u", offset=offset)
    return UploadState(session=session, size=SIZE, chunk=chunk, step=Step.SEND_CHUNK, resumed=resumed)


@pytest.mark.parametrize(
    "status", [405, 411, 413, 415, 501, 400, 200, 201, 204, 206, 302, 304, 402, 403, 406, 422]
)
def test_a_refused_part_is_no_end(status: int) -> None:
    """A status by which registries refuse a part, or a 2xx that says nothing, leads to the whole."""
    assert result_of(answer(status), "PATCH", part()) is StepResult.PART_REFUSED


@pytest.mark.parametrize("status", [401, 404, 409, 416, 408, 429, 500, 503])
def test_a_refusal_that_is_not_about_parts_is_not_taken_for_one(status: int) -> None:
    """Denied, gone, out of step or busy is what it is for the whole, too."""
    assert result_of(answer(status), "PATCH", part(resumed=False)) is not StepResult.PART_REFUSED


@pytest.mark.parametrize("status", [403, 422])
def test_a_users_own_parts_may_be_denied(status: int) -> None:
    """Parts of the size that the user gave are not sent as a whole for a word that is not about parts."""
    assert result_of(answer(status), "PATCH", part(chunk=30)) is None


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_range_counts_whatever_the_2xx(status: int) -> None:
    """A part that was answered 2xx with a Range is accepted as far as the Range says."""
    taken = answer(status, range="0-69")
    assert result_of(taken, "PATCH", part()) is StepResult.ACCEPTED
    session = after_part(taken, part())
    assert session is not None
    assert session.offset == 70


@pytest.mark.parametrize(
    ("text", "offset"),
    [("0-99", 100), ("bytes=0-99", 100), ("0-39", 40), ("0-0", 0), ("0-100", 100), ("x", 100), ("5-7", 100)],
)
def test_what_a_registry_says_it_has_counts(text: str, offset: int) -> None:
    """A Range within the blob counts also if it did not grow; no usable Range means all that was sent."""
    session = after_part(answer(202, range=text), part())
    assert session is not None
    assert session.offset == offset


def test_the_range_of_one_byte_may_be_0_0() -> None:
    """`0-0` after one byte is this byte."""
    session = after_part(answer(202, range="0-0"), part(offset=0, chunk=1))
    assert session is not None
    assert session.offset == 1


@pytest.mark.parametrize(("status", "result"), [
    (201, StepResult.STORED), (200, StepResult.STORED), (204, StepResult.STORED), (202, StepResult.FAILED),
    (404, StepResult.GONE), (416, StepResult.OUT_OF_SYNC), (503, StepResult.FAILED), (413, None), (401, None),
    (507, None),
])  # fmt: skip
def test_the_answer_to_a_put(status: int, result: StepResult | None) -> None:
    """Each 2xx but 202 stored the blob; a refusal that is not transient ends the upload."""
    assert result_of(answer(status), "PUT", part(resumed=False)) is result


def test_a_users_own_parts_that_are_too_large_end_the_upload() -> None:
    """A 413 to a part of the size that the user gave is raised, and asks for a smaller one."""
    state = part(chunk=30)
    assert result_of(answer(413), "PATCH", state) is None
    error = upload_refusal(answer(413), "PATCH", state)
    assert "30 bytes in one request; send smaller parts: --chunk-size" in str(error)


def test_a_413_names_the_limit_and_the_option() -> None:
    """The refusal of a whole blob names what was sent, the limit if the answer does, and the option."""
    page = answer(413, b"<html>Maximum request size is 100 MB</html>", **{"content-type": "text/html"})
    error = upload_refusal(page, "PUT", UploadState(session=part().session, size=SIZE))
    assert isinstance(error, RegistryRefusedError)
    assert error.status == 413
    assert str(error) == (
        "PUT https://r.example/u: 413: too large for the registry (its limit: 100 MB): 100 bytes in one request; "
        "send parts: --chunk-size (ClientOptions.chunk_size)"
    )


def test_other_refusals_stay_as_they_are() -> None:
    """Only a 413 gets more words; a part of which nothing was taken is an answer against the specification."""
    assert isinstance(upload_refusal(answer(403), "PUT", part()), AccessDeniedError)
    assert "chunk" not in str(upload_refusal(answer(403), "PUT", part()))
    assert isinstance(upload_refusal(answer(202, range="0-39"), "PATCH", part()), InvalidAnswerError)


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ("request body larger than 10485760 bytes", "10485760 bytes"),
        ("the limit is 100MiB.", "100MiB"),
        ("exceeds the maximum of 1.5 GB", "1.5 GB"),
        ("client_max_body_size: 1m", "1m"),
        ("413 Request Entity Too Large", ""),
        ("limit " + "x" * 5000 + " 10 MB", ""),
        ("", ""),
    ],
)
def test_a_limit_is_read_from_words(body: str, limit: str) -> None:
    """A number after a word for a limit is one; the status and far-off numbers are not."""
    assert named_limit(body.encode()) == limit


@pytest.mark.parametrize(
    ("status", "silence", "wait"),
    [
        (None, None, CommitWait()),
        (None, 1.0, CommitWait(complete=4.0, unknown=5.0)),
        (None, 0.0, CommitWait(complete=0.0, unknown=UNKNOWN_SECONDS)),
        (504, 60.0, CommitWait(complete=240.0, unknown=240.0)),
        (504, 500.0, CommitWait(complete=100.0, unknown=100.0)),
        (None, 600.0, CommitWait(complete=0.0, unknown=UNKNOWN_SECONDS)),
        (503, 0.0, CommitWait()),
        (202, 0.0, CommitWait(unknown=UNKNOWN_SECONDS)),
        (500, 60.0, CommitWait()),
        (404, 60.0, CommitWait()),
    ],
)
def test_how_long_a_commit_is_awaited(status: int | None, silence: float | None, wait: CommitWait) -> None:
    """A registry that did not refuse gets several times the time that it was silent, within the limit."""
    failed = None if status is None else answer(status)
    assert commit_wait(failed, silence, outage=20.0, limit=600.0) == wait
    assert commit_wait(None, 0.0, outage=0.0, limit=600.0) == CommitWait()
