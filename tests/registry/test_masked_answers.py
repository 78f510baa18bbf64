"""What was sent as a credential is masked in whatever a registry's answer, or a failure, lets us say."""

import base64
import json
from urllib.parse import quote

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crossmount._secrets import MASK, mask_forms, mask_values, secrets_in, without_userinfo
from crossmount.errors import CrossmountError, InvalidReferenceError
from crossmount.oci import Digest, Reference, Repository
from crossmount.registry import Credential, GivenCredentials
from crossmount.registry.http.errors import describe
from support.hostile import bearer
from support.registry_kit import DEST, HOST, Handler, recorded

PASSWORD = "S3CRETpassword"
PAIR = base64.b64encode(f"ci:{PASSWORD}".encode()).decode()


def credentials(password: str = PASSWORD, kind: str = "password") -> GivenCredentials:
    """Return the credentials for the registry."""
    return GivenCredentials(HOST, Credential("ci", password, "identity" if kind == "identity" else "password"))


def echo(request: httpx.Request, *, words: str = "{}", status: int = 400) -> httpx.Response:
    """Return an error that repeats what was sent."""
    sent = words.format(request.headers.get("authorization", "") + request.content.decode())
    return httpx.Response(status, json={"errors": [{"code": f"BAD {sent}", "message": f"cannot: {sent}"}]})


async def error_of(handler: Handler, given: GivenCredentials) -> CrossmountError:
    """Return the error of a request for a manifest."""
    client, _ = recorded(handler, credentials=given)
    async with client:
        with pytest.raises(CrossmountError) as caught:
            await client.get_manifest(Reference(DEST, "1"))
    return caught.value


def text_of(error: CrossmountError) -> str:
    """Return all that an error can show."""
    return f"{error} {error!r} {getattr(error, 'codes', ())}"


@pytest.mark.parametrize("status", [400, 401, 403, 500, 202, 203, 206, 300])
async def test_a_registry_that_repeats_basic_credentials_is_not_repeated(status: int) -> None:
    """Neither the header, nor the pair, nor the password in it is in the error or its codes."""

    def handler(request: httpx.Request) -> httpx.Response:
        if "authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic realm=x"})
        return echo(request, words=f"{{}} ci:{PASSWORD} {PASSWORD} {quote(PASSWORD)}", status=status)

    shown = text_of(await error_of(handler, credentials()))
    assert "cannot" in shown
    assert PASSWORD not in shown
    assert PAIR not in shown


@pytest.mark.parametrize("kind", ["password", "identity"])
@pytest.mark.parametrize("shape", ["errors", "oauth"])
async def test_a_token_service_that_repeats_what_it_got_is_not_repeated(kind: str, shape: str) -> None:
    """Neither a password nor an identity token in a form is in the error."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/token":
            return bearer(f"https://{HOST}/token")
        sent = request.headers.get("authorization", "") + request.content.decode()
        if shape == "errors":
            return echo(request)
        return httpx.Response(400, json={"error": "invalid_grant", "error_description": f"you sent {sent}"})

    shown = text_of(await error_of(handler, credentials(kind=kind)))
    assert "gave no token" in shown
    assert PASSWORD not in shown
    assert PAIR not in shown


async def test_a_registry_that_repeats_a_token_is_not_repeated() -> None:
    """A token is masked, also where the cut of a long text would leave a half of it."""
    token = "tokenTOKENtoken" * 3

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, json={"token": token})
        if "authorization" not in request.headers:
            return bearer(f"https://{HOST}/token")
        return echo(request, words="x" * 270 + " {}")

    shown = text_of(await error_of(handler, credentials()))
    assert token[:8] not in shown


async def test_a_server_that_repeats_a_token_outside_of_http_is_not_repeated() -> None:
    """What h11 quotes of a broken answer is in neither the error nor its causes."""

    def handler(request: httpx.Request) -> httpx.Response:
        sent = request.headers.get("authorization")
        if sent is None:
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic realm=x"})
        words = f"illegal header line: bytearray(b'X: {sent}')"
        raise httpx.RemoteProtocolError(words) from ValueError(words)

    error = await error_of(handler, credentials())
    cause: BaseException | None = error
    while cause is not None:
        assert PAIR not in str(cause)
        cause = cause.__cause__ or cause.__context__
    assert "illegal header line" in str(error)


def test_quoted_bytes_are_left_out() -> None:
    """A peer's own bytes are not part of a description."""
    error = httpx.RemoteProtocolError("illegal status line: bytearray(b'SSH-2.0 secret')")
    assert describe(error) == "illegal status line"


SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30)


@given(SECRETS)
def test_a_secret_is_masked_however_it_is_quoted(secret: str) -> None:
    """No spelling of a secret stays: plain, in JSON, in a URL, in base64, in Authorization, as bytes."""
    pair = base64.b64encode(f"ci:{secret}".encode()).decode()
    secrets = secrets_in(f"Basic {pair}")
    assert secret in secrets
    assume(secret not in MASK)
    for spelling in (
        secret,
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        pair,
        f"ci:{secret}",
        repr(secret.encode())[2:-1],
    ):
        assert f"<{spelling}>" not in mask_values(f"you sent <{spelling}> to me", secrets)


def test_a_short_secret_does_not_garble_words() -> None:
    """A password of a few letters is masked as a word alone."""
    assert mask_values("denied: pw is wrong for pwned", ["pw"]) == f"denied: {MASK} is wrong for pwned"


@pytest.mark.parametrize(
    "words", ["password: S3CRETpassword", "Token: S3CRETpassword; sealed", "api_key: S3CRETpassword"]
)
def test_what_follows_the_name_of_a_secret_is_masked(words: str) -> None:
    """A value with a digit in it, after `password: ` and the like, is not a word."""
    assert PASSWORD not in mask_forms(words)


@pytest.mark.parametrize(
    "words",
    [
        "password: incorrect or expired",
        "needs Basic authentication",
        'Bearer realm="https://auth.example/token"',
        "session token expired: run corp-sso login",
        "registry.example:5000/team/app:1@sha256:aa",
        "app:1@sha512:aa",
        "its auth is not base64 of name:password: log in anew",
        "leave user:password@ out",
    ],
)
def test_what_only_sounds_like_a_secret_stays(words: str) -> None:
    """Prose and references are not masked."""
    assert mask_forms(words) == words


@pytest.mark.parametrize(
    "reference",
    [
        "https://user:{}@registry.example.test/x",
        "user:{}@registry.example.test/x:1",
        "user:{}@registry.example.test:5000/x@sha256:" + "a" * 64,
        "oci://user:{}@registry.example.test/x",
        "user:{}@host:5000",
    ],
)
@pytest.mark.parametrize("password", [PASSWORD, "S3CRET/pass", "S3CRET@pass", "S3CRET pass", "S3CRET://pass"])
def test_a_password_in_a_reference_is_not_repeated(reference: str, password: str) -> None:
    """The error says to leave it out, and names what stands behind the @."""
    for parse in (Reference.parse, Repository.parse):
        with pytest.raises(InvalidReferenceError, match="leave user:password@ out") as caught:
            parse(reference.format(password))
        assert "S3CRET" not in str(caught.value)
        assert "host" in str(caught.value) or "registry.example.test" in str(caught.value)


def test_a_digest_is_no_host() -> None:
    """What stands before the @ of a digest stays."""
    digest = Digest.of(b"")
    assert without_userinfo(f"team/app:1@{digest}") == f"team/app:1@{digest}"
    assert without_userinfo("team/app@nonsense") == "team/app@nonsense"
