"""What the answers to an upload's requests mean: sessions, offsets, results, refusals of size. No I/O."""

import re
from dataclasses import replace

from crossmount._parsing import decimal
from crossmount.errors import InvalidAnswerError, RegistryError, RegistryRefusedError
from crossmount.oci import Repository
from crossmount.registry.endpoints import UploadSession
from crossmount.registry.http.errors import refusal
from crossmount.registry.http.location import resolve, shown
from crossmount.registry.http.retry import is_transient
from crossmount.registry.http.transport import Answer
from crossmount.registry.resume import CommitWait, Step, StepResult, UploadState, read_range

_PART_REFUSED = frozenset({405, 411, 413, 415, 501})
_MAY_BE_STORING = frozenset({502, 503, 504})
_TIMES_AGAIN = 4
"""How many times the silence before a failure a registry gets to end what it may be storing."""

UNKNOWN_SECONDS = 5.0
"""The least time for which a registry is asked for a blob after a cut, if its session does not have the bytes."""

POLL_FIRST = 0.25
POLL_MAX = 10.0

_SIZE = r"\d[\d.,]{0,20} ?(?:bytes|[kmgt]i?b?)?"
_LIMIT_WORDS = re.compile(
    rf"(?:limit|max(?:imum)?|larger|more|exceed(?:s|ed|ing)?|than|over)[^0-9<>\n]{{0,40}}?(?P<size>{_SIZE})\b",
    re.IGNORECASE | re.ASCII,
)
_LIMIT_BYTES = 4096


def opened_session(answer: Answer, repository: Repository) -> UploadSession:
    """Return the session that a 202 opens.

    Raises:
        RegistryError: the status is another, or the Location must not be followed.
    """
    if answer.status != 202:
        raise refusal(answer, "POST")
    url = resolve(answer.headers.get("location"), request=answer.url)
    least = decimal(answer.headers.get("oci-chunk-min-length", ""), digits=11)
    return UploadSession(repository=repository, location=str(url), min_chunk=least or 0)


def session_at(answer: Answer, session: UploadSession, offset: int) -> UploadSession:
    """Return a session at an offset, with the answer's Location, or the old one (ECR's PATCH may not send any)."""
    location = answer.headers.get("location")
    if location:
        session = replace(session, location=str(resolve(location, request=answer.url)))
    return replace(session, offset=offset)


def after_part(answer: Answer, state: UploadState) -> UploadSession | None:
    """Return the session after a part that was answered 2xx; None if the answer does not say what was taken.

    A valid Range counts, whatever was sent. A 202 without one means all.
    """
    stored = read_range(answer.headers.get("range"))
    if stored is not None and stored <= state.size:
        # 0-0 is none or one
        return session_at(answer, state.session, 1 if stored == 0 and state.end == 1 else stored)
    return session_at(answer, state.session, state.end) if answer.status == 202 else None


def result_of(answer: Answer, method: str, state: UploadState) -> StepResult | None:
    """Return what the answer to a PUT or a PATCH means for the next step; None if it ends the upload."""
    if answer.is_good:
        if method == "PUT":
            return StepResult.STORED if answer.status != 202 else StepResult.FAILED
        return StepResult.PART_REFUSED if after_part(answer, state) is None else StepResult.ACCEPTED
    if method == "PATCH" and _refuses_parts(answer, state):
        return StepResult.PART_REFUSED
    if is_transient(answer):
        return StepResult.FAILED
    if answer.status in {400, 409} and state.resumed:  # the resumed bytes are not the blob, or stored already
        return StepResult.GONE
    return {404: StepResult.GONE, 416: StepResult.OUT_OF_SYNC}.get(answer.status)


def _refuses_parts(answer: Answer, state: UploadState) -> bool:
    """Return whether a registry that refused a part of a blob may accept the whole blob in one request.

    A front end that lets no PATCH through may say so by any status. A part of the size that the user gave is
    refused for good by what is no word about parts.
    """
    if state.chunk is not None:
        return answer.status in _PART_REFUSED - {413} or (answer.status == 400 and state.resumed)
    is_about_all = is_transient(answer) or answer.status in {401, 404, 409, 416}
    return answer.status in _PART_REFUSED or (300 <= answer.status < 500 and not is_about_all)


def commit_wait(answer: Answer | None, silence: float | None, *, outage: float, limit: float) -> CommitWait:
    """Return how long a registry may go on storing a blob after the request for it failed.

    A gateway that gives up before the registry does answers 504, or cuts the connection. The registry gets several
    times as long again, and some seconds at least if its session does not have the bytes.

    Args:
        answer: the answer that failed; None if there was none.
        silence: seconds from the last byte to the failure; None if not all bytes were sent.
        outage: seconds that a registry's restart may take, by the policy.
        limit: the most seconds in all.
    """
    if silence is None or (answer is not None and answer.status not in _MAY_BE_STORING and not answer.is_good):
        return CommitWait()
    left = limit - silence
    again = min(_TIMES_AGAIN * silence, left)
    is_sure = answer is not None and answer.status == 503
    return CommitWait(
        complete=again,
        unknown=again if is_sure else max(again, min(outage, UNKNOWN_SECONDS)),
    )


def poll_pause(number: int, left: float) -> float:
    """Return the seconds to wait before the registry is asked again.

    Args:
        number: how often it was asked.
        left: the seconds that are left.
    """
    return min(POLL_FIRST * 1.5 ** min(number, 20), POLL_MAX, left)


def upload_refusal(answer: Answer, method: str, state: UploadState) -> RegistryError:
    """Return the error for an answer to a part of an upload, or to all of it."""
    if method == "PATCH" and answer.is_good:
        where, offset = f"PATCH {shown(answer.url)}", state.session.offset
        return InvalidAnswerError(f"{where}: {answer.status}: the registry took nothing after byte {offset}")
    error = refusal(answer, method)
    if answer.status != 413 or not isinstance(error, RegistryRefusedError):
        return error
    size = state.end - state.session.offset if state.step is Step.SEND_CHUNK else state.size
    limit = named_limit(answer.body)
    said = f" (its limit: {limit})" if limit else ""
    smaller = "smaller parts" if state.chunk is not None and state.step is Step.SEND_CHUNK else "parts"
    words = f"{error}{said}: {size} bytes in one request; send {smaller}: --chunk-size (ClientOptions.chunk_size)"
    return RegistryRefusedError(words, status=413, codes=error.codes).knowing(**error.facts)


def named_limit(body: bytes) -> str:
    """Return the size that a refusal names as its limit, or nothing."""
    found = _LIMIT_WORDS.search(body[:_LIMIT_BYTES].decode("utf-8", "replace"))
    return "" if found is None else found["size"].strip(" .,")
