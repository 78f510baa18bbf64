"""The name of an account in a shared index: a digest that tells nothing of the account. No I/O."""

import hashlib

from crossmount.registry.credentials.authfiles import Credential

_ROUNDS = 5000
_BYTES = 3
"""So short that many secrets have the same digest: it confirms no guess of a secret."""


def account_digest(registry: str, credential: Credential | None) -> str:
    """Return the name of an account of a registry, the same for everybody who has the same credential.

    It is keyed by the secret, so nobody else can compute it. A collision is harmless: the index only hints.

    Args:
        registry: the registry, normalised.
        credential: the credential; None for anonymous requests.
    """
    secret, user = ("", "") if credential is None else (credential.secret, credential.username)
    salt = f"crossmount account\n{registry}\n{user}".encode()
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, _ROUNDS, _BYTES).hex()
