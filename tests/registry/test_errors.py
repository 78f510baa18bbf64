import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount._parsing import one_line
from crossmount.errors import AccessDeniedError, BlobUnknownError, InvalidAnswerError, RegistryRefusedError
from crossmount.registry.http.errors import read_errors, refusal
from crossmount.registry.http.transport import Answer

URL = httpx.URL("https://r.example.org/v2/a/manifests/t?X-Signature=secret")


def answer(status: int, document: Any = None, *, kind: str = "application/json", **more: Any) -> Answer:
    """Return an answer with this body."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(URL, status, httpx.Headers({"content-type": kind}), body, **more)


def errors(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return a body by the specification."""
    return {"errors": [{"code": code, "message": message} for code, message in pairs]}


def test_the_registrys_own_words_are_in_the_error() -> None:
    """The error has method, URL without query, status, codes and messages on one line."""
    error = refusal(answer(400, errors(("MANIFEST_INVALID", "no\r\nconfig\x1b[31m"))), "PUT")
    assert isinstance(error, RegistryRefusedError)
    assert str(error) == "PUT https://r.example.org/v2/a/manifests/t: 400: MANIFEST_INVALID: no config [31m"
    assert (error.status, error.codes) == (400, ("MANIFEST_INVALID",))


@pytest.mark.parametrize("status", [401, 403])
def test_a_denial_names_the_origin_of_the_credentials(status: int) -> None:
    """401 and 403 are AccessDeniedError with the origin of the credentials."""
    error = refusal(answer(status, {}, sent_with="credentials from a file"), "GET")
    assert isinstance(error, AccessDeniedError)
    assert str(error).endswith("(credentials from a file)")


def test_a_denial_without_credentials_says_that_a_login_is_wanted() -> None:
    """A 401 speaks of wrong credentials only if some were sent."""
    none = str(refusal(answer(401, b"", sent_with="no credentials: looked in a (not there)"), "HEAD"))
    assert none.endswith(": 401: it wants a login (no credentials: looked in a (not there))")
    assert "401: not with these credentials" in str(
        refusal(answer(401, b"", sent_with="credentials from a"), "GET")
    )


@pytest.mark.parametrize("code", ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"])
def test_a_manifest_that_names_an_unknown_blob(code: str) -> None:
    """Both error codes for an unknown blob are BlobUnknownError for a manifest, and for nothing else."""
    refused = answer(404, errors(("OTHER", ""), (code, "sha256:…")))
    assert isinstance(refusal(refused, "PUT", manifest=True), BlobUnknownError)
    assert not isinstance(refusal(refused, "PUT"), BlobUnknownError)


@pytest.mark.parametrize("status", [200, 301, 404, 405])
def test_a_web_page_is_no_registry(status: int) -> None:
    """HTML where a registry would not send it is an invalid answer that names the host."""
    error = refusal(answer(status, b"<html>", kind="text/html; charset=utf-8"), "GET")
    assert isinstance(error, InvalidAnswerError)
    assert "is r.example.org a registry?" in str(error)


def test_a_gateways_page_is_a_refusal() -> None:
    """A 502 with HTML is a refusal with its status."""
    error = refusal(answer(502, b"<html>", kind="text/html"), "GET")
    assert isinstance(error, RegistryRefusedError)
    assert str(error).endswith("502: Bad Gateway")


def test_an_answer_without_words_gets_some() -> None:
    """Each refusal has some words, and says if the body was too long."""
    assert str(refusal(answer(599, b""), "GET")).endswith("599: no reason given")
    assert "too long to read" in str(refusal(answer(500, b"", too_long=True), "GET"))
    assert str(refusal(answer(400, {"errors": [{}]}), "GET")).endswith("an error without words")


DOCUMENTS = st.recursive(
    st.none() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["errors", "code", "message"]), inner, max_size=3)
    ),
)


@given(st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_any_body_is_read(body: bytes) -> None:
    """Any body can be read, and the words are one line."""
    assert "\n" not in read_errors(answer(400, body)).words
    assert "\n" not in str(refusal(answer(400, body), "GET"))


@given(st.text(max_size=2000))
def test_words_of_others_are_one_short_line(text: str) -> None:
    """The other side's words become one line without control characters and of limited length."""
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= 301


def test_deep_json_has_no_words() -> None:
    """A body that is nested too deep has no errors."""
    assert read_errors(answer(400, b"[" * 60_000)).codes == ()
