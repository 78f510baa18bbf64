"""What a failure of TLS means, in words. No I/O."""

import ssl

TLS_EXPECTED = "it speaks TLS (https): leave plain http out"
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


def advice_on_tls(text: str) -> str:
    """Return what a failed handshake means, and what to do.

    Args:
        text: OpenSSL's words.
    """
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "it does not speak TLS; if that is right, allow plain http"
    alert = next((words for name, words in _ALERTS.items() if name in text.upper().replace(" ", "_")), None)
    if alert is not None:
        return f"{alert}; give its file and its key's, or put them into certs.d"
    return "its certificate is not trusted; name its authority's file, or connect insecurely"
