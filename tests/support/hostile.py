"""Helpers for security tests: a foreign host, credentials, and registries that ask for them.

The requests are recorded by a transport that plays every host, the hostile ones too; where two real
servers can show it, they do. The facts behind the rules are CVEs of 2024 to 2026, named where they are tested.
"""

import base64

import httpx

from crossmount.registry import Credential, GivenCredentials
from support.registry_kit import HOST, Handler, blob

EVIL = "evil.example.net"
SECRET = "hunter2"
BASIC = "Basic " + base64.b64encode(f"ci:{SECRET}".encode()).decode()
DIGEST = blob().descriptor.digest
CREDENTIAL = Credential("ci", SECRET, origin="the test")


def given(registry: str = HOST) -> GivenCredentials:
    """Return the credentials for a registry."""
    return GivenCredentials(registry, CREDENTIAL)


def bearer(realm: str) -> httpx.Response:
    """Return a challenge for a token."""
    return httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})


def authorised(then: Handler) -> Handler:
    """Answer like a registry with Basic authentication: first a challenge, then `then`."""

    def handler(request: httpx.Request) -> httpx.Response:
        if str(request.url).startswith(f"https://{HOST}/") and "authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic realm=x"})
        return then(request)

    return handler


def carried(requests: list[httpx.Request]) -> str:
    """Return the whole content of requests, to search for secrets."""
    return "\n".join(f"{r.method} {r.url}\n{r.headers.raw!r}\n{r.content!r}" for r in requests)
