"""The image's HEALTHCHECK: exits with 0 if the proxy in this container answers. The image has no curl.

It takes the address from the proxy's own variables, and uses no HTTP proxy. It does not verify the certificate: it
checks only that the proxy is alive.
"""

import http.client
import os
import ssl
import sys

SECONDS = 4.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 parsed here, not listened on


def main() -> int:
    """Request /_crossmount/healthz, and return the exit status."""
    host, _, port = os.environ.get("CROSSMOUNT_PROXY_LISTEN", "127.0.0.1:5000").rpartition(":")
    host = _EVERYWHERE.get(host, host)
    connection: http.client.HTTPConnection
    if os.environ.get("CROSSMOUNT_PROXY_TLS_CERT"):
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 see above
        connection = http.client.HTTPSConnection(host, int(port), timeout=SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
    try:
        connection.request("GET", "/_crossmount/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"no answer from {host}:{port}: {error}\n")
        return 1
    finally:
        connection.close()
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
