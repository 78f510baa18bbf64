"""Basic authentication as callers send it (RFC 7617)."""

import base64
import binascii

from crossmount.registry.credentials.authfiles import Credential

ORIGIN = "the caller of the proxy"
CHALLENGE = (b"www-authenticate", b'Basic realm="crossmount"')


def read_basic(value: str) -> Credential | None:
    """Return the credential of a Basic header's value (RFC 7617), or None if it is not one."""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    user, colon, password = text.partition(":")
    return Credential(user, password, origin=ORIGIN) if colon else None
