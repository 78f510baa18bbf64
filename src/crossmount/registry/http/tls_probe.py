"""One TLS handshake, to find out why a server cut a connection. It sends no request and no credentials."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass


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
