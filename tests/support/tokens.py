"""A token server for the real registry (distribution, "Token Authentication Specification")."""

import base64
import datetime as dt
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request for a token and its outcome.

    Attributes:
        method: GET, or POST for OAuth2.
        user: its user, empty for none.
        scopes: the requested scopes.
        granted: the granted scopes, with the granted actions.
        status: the status of the answer.
    """

    method: str
    user: str
    scopes: tuple[str, ...]
    granted: tuple[str, ...]
    status: int


@dataclass(slots=True)
class TokenServer:
    """A running token server; tests can change its grants at any time.

    Attributes:
        url: the realm.
        certificate: the file for `rootcertbundle`.
        users: passwords by user name.
        identity_tokens: user names by identity (refresh) token.
        denied: (user, repository) pairs without any grant; the user "" is a request without a user.
        read_only: (user, repository) pairs for which only pull is granted.
        refuses_whole: whether one refused scope refuses the token (403); otherwise the token silently lacks it.
        oauth: whether POST is supported (otherwise 405).
        expires_in: the `expires_in` of answers and the life of tokens; None omits it, and tokens live 60 seconds.
        early: seconds by which they end earlier; the real registry accepts them for 60 more seconds.
        requests: all requests.
    """

    url: str
    certificate: Path
    users: dict[str, str]
    key: ec.EllipticCurvePrivateKey
    chain: str
    service: str = "tests-registry"
    issuer: str = "tests-tokens"
    identity_tokens: dict[str, str] = field(default_factory=dict)
    denied: set[tuple[str, str]] = field(default_factory=set)
    read_only: set[tuple[str, str]] = field(default_factory=set)
    refuses_whole: bool = False
    oauth: bool = True
    expires_in: int | None = 300
    early: int = 0
    requests: list[TokenRequest] = field(default_factory=list)

    def grant(self, user: str, scope: str) -> str:
        """Return a scope with the granted actions, possibly none."""
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = set(actions.split(","))
        if (user, name) in self.denied:
            allowed = set()
        elif (user, name) in self.read_only or not user:
            allowed &= {"pull"}
        return f"{kind}:{name}:{','.join(action for action in actions.split(',') if action in allowed)}"

    def token(self, user: str, scopes: tuple[str, ...]) -> str:
        """Return a signed token."""
        now = int(time.time())
        access = [_access(scope) for scope in scopes if not scope.endswith(":")]
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.service,
            "nbf": now - 600,
            "iat": now,
            "exp": now + (self.expires_in or 60) - self.early,
            "jti": f"{time.monotonic_ns()}",
            "access": access,
        }
        header = {"typ": "JWT", "alg": "ES256", "x5c": [self.chain]}
        signed = f"{_part(header)}.{_part(claims)}"
        r, s = decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def answer(
        self, method: str, user: str | None, scopes: tuple[str, ...], more: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """Decide on one request; a `user` of None gave wrong credentials."""
        granted = () if user is None else tuple(self.grant(user, scope) for scope in scopes)
        status = 401 if user is None else 403 if self.refuses_whole and granted != scopes else 200
        self.requests.append(TokenRequest(method, user or "", scopes, granted, status))
        if status != 200 or user is None:
            return status, {"errors": [{"code": "DENIED", "message": "not allowed"}]}
        token = self.token(user, granted)
        answer: dict[str, Any] = {"token": token, "access_token": token, **more}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return 200, answer


@contextmanager
def serve_tokens(folder: Path, *, users: Mapping[str, str]) -> Iterator[TokenServer]:
    """Run a token server in a thread until the block ends.

    Args:
        folder: where its certificate is written.
        users: passwords by user name.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key)
    file = folder / "tokens.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    chain = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        url = f"http://127.0.0.1:{http.server_port}/token"
        server = TokenServer(url, file, dict(users), key, chain)
        http.tokens = server  # type: ignore[attr-defined]  # read by the handler
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """GET with Basic or nothing, POST with a form."""

    def do_GET(self) -> None:
        """Return a token (GET)."""
        tokens = self._tokens
        query = parse_qs(urlsplit(self.path).query)
        scopes = tuple(part for scope in query.get("scope", ()) for part in scope.split())
        user = _basic_user(tokens, self.headers.get("Authorization"))
        self._send(*tokens.answer("GET", user, scopes, {}))

    def do_POST(self) -> None:
        """Return a token (POST, OAuth2)."""
        tokens = self._tokens
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if not tokens.oauth:
            self._send(405, {"errors": [{"code": "UNSUPPORTED", "message": "no POST here"}]})
            return
        fields = {name: values[0] for name, values in form.items()}
        refresh = fields.get("refresh_token", "")
        user: str | None = None
        if fields.get("grant_type") == "refresh_token":
            user = tokens.identity_tokens.get(refresh)
        elif tokens.users.get(fields.get("username", "")) == fields.get("password", ""):
            user = fields["username"]
        scopes = tuple(fields.get("scope", "").split())
        self._send(*tokens.answer("POST", user, scopes, {"refresh_token": refresh} if refresh else {}))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the library's name
        """Print nothing; `TokenServer.requests` is the log."""

    @property
    def _tokens(self) -> TokenServer:
        tokens = self.server.tokens  # type: ignore[attr-defined]  # set by serve_tokens
        assert isinstance(tokens, TokenServer)
        return tokens

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _basic_user(tokens: TokenServer, header: str | None) -> str | None:
    if header is None:
        return ""
    user, _, password = base64.b64decode(header.partition(" ")[2]).decode().partition(":")
    return user if tokens.users.get(user) == password else None


def _access(scope: str) -> dict[str, Any]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _part(document: object) -> str:
    return _base64url(json.dumps(document).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
