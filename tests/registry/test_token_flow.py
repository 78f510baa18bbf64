import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from crossmount.errors import AccessDeniedError, InvalidAnswerError, RegistryRefusedError
from crossmount.registry.auth.challenge import Bearer
from crossmount.registry.auth.flow import LIFETIME_DEFAULT, Token, TokenRequest, read_token, token_flow
from crossmount.registry.auth.scope import Scope, Wanted, pull, push
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.http.transport import Answer
from support.registry_kit import DEST, SOURCE

REALM = "https://auth.example.org/token?account=ci"
CHALLENGE = Bearer(REALM, "registry.example.org")
WANTED = Wanted((push(DEST),), (pull(SOURCE),))
PASSWORD = Credential("ci", "hunter2", origin="a file")
IDENTITY = Credential("", "refresh-me", "identity", origin="a helper")


def answer(status: int = 200, document: Any = None, **headers: str) -> Answer:
    """Return a realm's answer."""
    body = json.dumps({"token": "t0"} if document is None else document).encode()
    return Answer(httpx.URL(REALM), status, httpx.Headers(headers), body)


def drive(
    wanted: Wanted, credential: Credential | None, respond: Callable[[TokenRequest], Answer]
) -> tuple[Token, list[TokenRequest]]:
    """Run a flow against a function."""
    flow, requests = token_flow(CHALLENGE, wanted, credential), []
    try:
        request = next(flow)
        while True:
            requests.append(request)
            request = flow.send(respond(request))
    except StopIteration as end:
        return end.value, requests


def test_get_repeats_the_scope_parameter() -> None:
    """A GET has one `scope` for each scope, after the realm's own query, and Basic auth."""
    token, [request] = drive(WANTED, PASSWORD, lambda _: answer())
    assert request.method == "GET"
    assert request.url.params.get_list("scope") == ["repository:team/app:pull,push", "repository:team/base:pull"]
    assert request.url.params["service"] == "registry.example.org"
    assert request.url.params["account"] == "ci"
    assert request.authorization == "Basic " + base64.b64encode(b"ci:hunter2").decode()
    assert (token.value, token.lifetime, token.refused) == ("t0", LIFETIME_DEFAULT, ())


def test_an_anonymous_token_is_asked_for_without_authorization() -> None:
    """Without credentials the request for a token has no Authorization."""
    _, [request] = drive(WANTED, None, lambda _: answer())
    assert request.authorization is None


def test_an_identity_token_is_posted_with_one_joined_scope() -> None:
    """A POST has one `scope` with all scopes, and no secret in its URL."""
    _, [request] = drive(WANTED, IDENTITY, lambda _: answer())
    assert request.method == "POST"
    assert request.form is not None
    form = {key: values[0] for key, values in parse_qs(request.form.decode()).items()}
    assert form == {
        "grant_type": "refresh_token",
        "service": "registry.example.org",
        "client_id": "crossmount",
        "refresh_token": "refresh-me",
        "scope": "repository:team/app:pull,push repository:team/base:pull",
    }
    assert str(request.url) == REALM


@pytest.mark.parametrize("status", [404, 405])
def test_a_realm_without_post_is_asked_with_get(status: int) -> None:
    """After 404 or 405 to the POST, a GET sends the identity token as docker's `<token>`."""
    token, requests = drive(WANTED, IDENTITY, lambda r: answer(status) if r.method == "POST" else answer())
    assert [request.method for request in requests] == ["POST", "GET"]
    assert requests[1].authorization == "Basic " + base64.b64encode(b"<token>:refresh-me").decode()
    assert token.value == "t0"


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_asked_again_without_the_sources(status: int) -> None:
    """A token that is refused with the sources is requested without them, and names the refused ones."""
    token, requests = drive(
        WANTED, PASSWORD, lambda r: answer(status) if "base" in str(r.url) else answer(200, {"access_token": "t1"})
    )
    assert len(requests) == 2
    assert token.refused == (pull(SOURCE),)
    assert token.asked == (push(DEST),)
    assert token.satisfies(WANTED)
    assert not token.satisfies(Wanted((push(DEST),), (Scope("repository", "third", ("pull",)),)))


def test_an_overloaded_realm_is_no_refusal() -> None:
    """An overloaded realm is not asked for fewer scopes."""
    with pytest.raises(RegistryRefusedError) as caught:
        drive(WANTED, PASSWORD, lambda _: answer(503))
    assert caught.value.status == 503


@pytest.mark.parametrize(
    ("status", "document", "words"),
    [
        (
            401,
            {"errors": [{"code": "UNAUTHORIZED", "message": "wrong\npassword"}]},
            "UNAUTHORIZED: wrong password",
        ),
        (403, {"error": "invalid_grant", "error_description": "expired"}, "invalid_grant: expired"),
        (401, {"details": "incorrect username"}, "incorrect username"),
        (403, [], ""),
    ],
)
def test_a_refusal_says_where_whose_and_why(status: int, document: Any, words: str) -> None:
    """A refusal names realm, scopes, origin of the credentials and the realm's words, and never the secret."""
    with pytest.raises(AccessDeniedError) as caught:
        drive(Wanted((push(DEST),)), PASSWORD, lambda _: answer(status, document))
    text = str(caught.value)
    assert text.startswith(
        "auth.example.org gave no token for repository:team/app:pull,push (credentials from a file)"
    )
    assert text.endswith(words)
    assert "hunter2" not in text
    assert caught.value.status == status


def test_an_anonymous_refusal_advises_to_log_in() -> None:
    """A refusal without credentials says to log in; a 400 is no denial, a redirect no answer."""
    with pytest.raises(RegistryRefusedError, match="log in") as caught:
        drive(Wanted(), None, lambda _: answer(400, {}))
    assert not isinstance(caught.value, AccessDeniedError)
    with pytest.raises(InvalidAnswerError):
        drive(Wanted(), None, lambda _: answer(302, {}))


def test_a_registry_token_is_used_as_it_is() -> None:
    """A `registrytoken` needs no request."""
    token, requests = drive(WANTED, Credential("", "bearer", "registry"), lambda _: answer())
    assert (token.value, token.lifetime, requests) == ("bearer", None, [])


@pytest.mark.parametrize(
    "document",
    [{}, {"token": ""}, {"token": 7}, {"token": "two words"}, {"token": "line\nbreak"}, {"token": "é"}, [], "x",
     {"access_token": None}],
)  # fmt: skip
def test_a_token_that_fits_in_no_header_is_an_invalid_answer(document: Any) -> None:
    """A token with other than printable characters is an invalid answer."""
    with pytest.raises(InvalidAnswerError, match="no usable token"):
        read_token(answer(200, document))


@pytest.mark.parametrize(
    ("document", "date", "lifetime"),
    [
        ({}, None, 60.0),
        ({"expires_in": 300}, None, 300.0),
        ({"expires_in": 0}, None, 60.0),
        ({"expires_in": "300"}, None, 60.0),
        ({"expires_in": 1e300}, None, 60.0),
        ({"expires_in": 300, "issued_at": "2026-11-23T10:00:00Z"}, "Mon, 23 Nov 2026 10:01:40 GMT", 200.0),
        ({"expires_in": 60, "issued_at": "2026-11-23T10:00:00+00:00"}, "Mon, 23 Nov 2026 12:00:00 GMT", 0.0),
        ({"expires_in": 60, "issued_at": "2026-11-23T12:00:00Z"}, "Mon, 23 Nov 2026 10:00:00 GMT", 60.0),
        ({"expires_in": 60, "issued_at": "yesterday"}, "Mon, 23 Nov 2026 10:00:00 GMT", 60.0),
        ({"expires_in": 60, "issued_at": "2026-11-23T12:00:00Z"}, None, 60.0),
    ],
)
def test_how_long_a_token_lives(document: dict[str, Any], date: str | None, lifetime: float) -> None:
    """A token lives for `expires_in` or 60 seconds, less its age by the realm's own clock."""
    headers = {} if date is None else {"date": date}
    assert read_token(answer(200, {"token": "t", **document}, **headers)) == ("t", lifetime)


def test_requests_and_tokens_hide_their_secrets() -> None:
    """No repr shows a password, a refresh token or a token."""
    token, [request] = drive(WANTED, PASSWORD, lambda _: answer())
    _, [post] = drive(WANTED, IDENTITY, lambda _: answer())
    shown = repr((token, request, post, PASSWORD, IDENTITY))
    for secret in ("hunter2", "refresh-me", "t0", "Basic"):
        assert secret not in shown
