"""TLS to servers. Its files are checked before anything connects, so a mistake in them is an error of the URL."""

import ssl
from pathlib import Path
from typing import Any

from crossmount.errors import InvalidIndexURLError
from crossmount.redis.address import Tls
from crossmount.redis.login import open_regular_file, reason


def tls_settings(tls: Tls) -> dict[str, Any]:
    """Return redis-py's settings for TLS connections.

    Raises:
        InvalidIndexURLError: a file cannot be read, or has no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        about = "ca_file"
        if tls.ca_file is not None:
            context.load_verify_locations(_readable(tls.ca_file))
        about = "cert_file or key_file"
        if tls.cert_file is not None:
            key = None if tls.key_file is None else _readable(tls.key_file)
            context.load_cert_chain(_readable(tls.cert_file), key, password=_no_password)
    except ssl.SSLError as error:
        wrong = f"{about} is no PEM file of its kind, or they do not fit"
        if tls.cert_file is not None and tls.key_file is None and about != "ca_file":
            wrong = "cert_file holds no key, or is no PEM file: give key_file too"
        raise InvalidIndexURLError(f"the index URL's {wrong}") from error
    except (OSError, ValueError) as error:
        raise InvalidIndexURLError(f"the index URL's {about} cannot be read: {reason(error)}") from None
    settings: dict[str, Any] = {
        "ssl_cert_reqs": "required" if tls.check_certificate else "none",
        "ssl_check_hostname": tls.check_hostname,
    }
    files = {"ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
    return settings | {name: str(path) for name, path in files.items() if path is not None}


def take_session_tickets(connection: Any) -> None:
    """Read the session tickets that a TLS server sends after the handshake, by waiting for the reply to a PING.

    redis-py 8 with hiredis takes session tickets (RFC 8446, section 4.6.1) for an unexpected reply, and closes the
    connection. The reply to a login comes after them, so only connections without a login need this.
    """
    connection.on_connect()
    connection.send_command("PING", check_health=False)
    connection.read_response()


def _readable(path: Path) -> str:
    with open_regular_file(path):  # its error has the reason, and OpenSSL's has not
        return str(path)


def _no_password() -> str:
    raise ValueError("its key asks for a password")
