"""What authorizes one request, and the account behind it. No I/O."""

import hashlib
from dataclasses import dataclass, field

from crossmount.registry.auth.flow import Token
from crossmount.registry.credentials.authfiles import Credential

_ROUNDS = 5000
_BYTES = 3
"""So short that many secrets have the same digest: it confirms no guess of a secret."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """What authorizes one request.

    Attributes:
        header: the value of Authorization, or None for a request without.
        credential: the credential behind it, None for an anonymous request.
        token: the token in the header, if it is one.
        lacks_source: whether the token lacks the source of a mount, so that the request would be refused.
    """

    header: str | None = field(default=None, repr=False)
    credential: Credential | None = None
    token: Token | None = None
    lacks_source: bool = False


ANONYMOUS = Authorization()


def account_digest(registry: str, credential: Credential | None) -> str:
    """Return the name of an account in a shared index, the same for everybody who has the same credential.

    It is keyed by the secret, so nobody else can compute it. A collision is harmless: the index only hints.

    Args:
        registry: the registry, normalised.
        credential: the credential; None for anonymous requests.
    """
    secret, user = ("", "") if credential is None else (credential.secret, credential.username)
    salt = f"crossmount account\n{registry}\n{user}".encode()
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, _ROUNDS, _BYTES).hex()
