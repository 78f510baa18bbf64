"""Failures of TLS: what each means, in words, and one handshake to find out why a server cut a connection.

The handshake sends no request and no credentials.
"""

import asyncio
import contextlib
import os
import re
import socket
import ssl

from crossmount._dataclass import dataclass

HTTPS_ADVICE = "leave plain http out"
TLS_EXPECTED = f"it speaks TLS (https): {HTTPS_ADVICE}"
NO_HANDSHAKE = "no answer to the TLS handshake in time"
CERTIFICATE_WANTED = "client certificate"
"""Words of the messages about a server that wants to see a client certificate."""

_ALERTS = {
    "ALERT_CERTIFICATE_REQUIRED": f"it wants a {CERTIFICATE_WANTED}",
    "ALERT_HANDSHAKE_FAILURE": f"it may want a {CERTIFICATE_WANTED}, or another version or cipher of TLS",
    "ALERT_BAD_CERTIFICATE": f"it wants a {CERTIFICATE_WANTED}, or does not accept the one it was shown",
    "ALERT_UNKNOWN_CA": f"it does not know the authority of the {CERTIFICATE_WANTED}",
    "ALERT_CERTIFICATE_": f"it does not accept the {CERTIFICATE_WANTED}",
    "ALERT_UNSUPPORTED_CERTIFICATE": f"it does not accept the {CERTIFICATE_WANTED}",
    "ALERT_ACCESS_DENIED": f"it does not accept the {CERTIFICATE_WANTED}",
}
"""What a server's alert means, by a part of OpenSSL's name for it; the first one that fits counts."""


def tls_error(error: BaseException) -> ssl.SSLError | None:
    """Return the failure of TLS that caused an error; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def is_tls_error(error: BaseException) -> bool:
    """Return whether TLS failed, which another attempt would not change."""
    return tls_error(error) is not None


def explain_tls(text: str, shown: str) -> str:
    """Return what a failed handshake means, with OpenSSL's words, and then what to do.

    Args:
        text: OpenSSL's words.
        shown: the same words without what a peer sent.
    """
    reason = _reason_in(shown)
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return f"it does not speak TLS ({reason}); {HTTP_ADVICE}"
    alert = next((words for name, words in _ALERTS.items() if name in text.upper().replace(" ", "_")), None)
    if alert is not None:
        return f"{alert} ({reason}); {CLIENT_ADVICE}"
    if _OTHER_NAME.search(text):
        return f"its certificate is for another name ({reason}); {NAME_ADVICE}"
    return f"its certificate is not trusted ({reason}); {AUTHORITY_ADVICE}"


HTTP_ADVICE = "if that is right, allow plain http"
CLIENT_ADVICE = "give its file and its key's, or put them into certs.d"
NAME_ADVICE = "use the name that it is for, or connect insecurely"
AUTHORITY_ADVICE = "name its authority's file, or connect insecurely"
"""What to do. The command replaces these words by its options."""

_OTHER_NAME = re.compile(r"hostname mismatch|IP address mismatch", re.IGNORECASE)
_OPENSSL = re.compile(
    r"(?:\[SSL: \w+\] *)?(?:certificate verify failed: *)?(.*?)\.?(?: *\(_ssl\.c:\d+\))?", re.DOTALL
)


def _reason_in(text: str) -> str:
    """Return OpenSSL's words without its number, and without where in its source they are from."""
    match = _OPENSSL.fullmatch(text.strip())
    return (match[1] if match else "") or "TLS failed"


def os_reason(error: BaseException) -> str:
    """Return the operating system's reason below an error, in words; empty if there is none.

    httpx says "All connection attempts failed": the reason is in a cause, or in a group of them.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, BaseExceptionGroup):
            return next(filter(None, map(os_reason, link.exceptions)), "")
        if isinstance(link, socket.gaierror):
            return f"no such host ({link.strerror})"
        if isinstance(link, OSError) and link.errno and not isinstance(link, ssl.SSLError):
            return os.strerror(link.errno).lower()  # asyncio has words of its own, with the address
        link = link.__cause__ or link.__context__
    return ""


@dataclass(frozen=True, slots=True)
class TlsProbe:
    """The result of a handshake.

    Attributes:
        speaks_tls: whether the server answered in TLS.
        alert: the server's alert, if it ended the connection with one.
        hung_up: whether the server closed the connection right after the handshake, without a word.
    """

    speaks_tls: bool
    alert: ssl.SSLError | None = None
    hung_up: bool = False


async def probe_tls(host: str, port: int, *, context: ssl.SSLContext | None, seconds: float) -> TlsProbe:
    """Connect, shake hands, and wait shortly for an alert; then hang up.

    A server that wants a client certificate says so in the handshake (TLS 1.2), or right after it (TLS 1.3).

    Args:
        host: the server's host.
        port: its port.
        context: the client's context; None trusts every server and shows no certificate.
        seconds: for all of it.
    """
    shaken = hung_up = False
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context or unverified_context(), server_hostname=host
            )
            try:
                shaken = True
                if context is not None:
                    hung_up = not await reader.read(1)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except ssl.SSLCertVerificationError:
        return TlsProbe(speaks_tls=True)
    except ssl.SSLError as error:
        is_alert = "ALERT" in (error.reason or "")
        return TlsProbe(speaks_tls=shaken or is_alert, alert=error if is_alert else None)
    except TimeoutError:
        return TlsProbe(speaks_tls=shaken)
    except OSError:
        return TlsProbe(speaks_tls=shaken, hung_up=shaken)
    return TlsProbe(speaks_tls=True, hung_up=hung_up)


def unverified_context() -> ssl.SSLContext:
    """Return a context that accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
