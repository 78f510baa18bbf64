"""Helpers for tests of the registry client: small blobs, quick clients, and a transport that records."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from crossmount.oci import BytesBlob, Descriptor, Digest, Manifest, Repository
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.registry import ClientOptions, NoCredentials, RegistryClient, RetryPolicy

QUICK = RetryPolicy(attempts=4, outage=0.0, wait_initial=0.001, wait_max=0.002, timeout=20.0)
PLAIN = ClientOptions(plain_http=True, retry=QUICK)
TLS = ClientOptions(retry=QUICK)
DATA = bytes(range(256)) * 4
HOST = "registry.example.org"
DEST = Repository(HOST, "team/app")
SOURCE = Repository(HOST, "team/base")

Handler = Callable[[httpx.Request], httpx.Response]


def blob(data: bytes = DATA) -> BytesBlob:
    """Return a blob in memory."""
    return BytesBlob(Descriptor("application/octet-stream", Digest.of(data), len(data)), data)


def manifest(config: BytesBlob, *layers: BytesBlob) -> Manifest:
    """Return an image manifest of these blobs."""

    def entry(item: BytesBlob) -> dict[str, Any]:
        return {
            "mediaType": item.descriptor.media_type,
            "digest": item.descriptor.digest,
            "size": item.descriptor.size,
        }

    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(config),
        "layers": [entry(layer) for layer in layers],
    }
    return Manifest.parse(json.dumps(document).encode(), where="a test's manifest")


def client_of(address: str, **changes: Any) -> RegistryClient:
    """Return a client of a registry on plain http, without credentials."""
    options = replace(PLAIN, **changes.pop("options", {}))
    return RegistryClient(
        address, options=options, credentials=changes.pop("credentials", NoCredentials()), **changes
    )


@dataclass(slots=True)
class Recorder(httpx.AsyncBaseTransport):
    """A transport that answers from a function, and records every request with its body."""

    handler: Handler
    requests: list[httpx.Request] = field(default_factory=list)
    before: Callable[[httpx.Request], Awaitable[None]] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        await request.aread()
        self.requests.append(request)
        if self.before is not None:
            await self.before(request)
        return self.handler(request)

    def to(self, host: str) -> list[httpx.Request]:
        """Return the requests that were sent to a host."""
        return [request for request in self.requests if request.url.host == host]


def recorded(handler: Handler, registry: str = HOST, **changes: Any) -> tuple[RegistryClient, Recorder]:
    """Return a client over TLS whose requests a function answers, and the recorded requests."""
    transport = Recorder(handler)
    options = replace(TLS, **changes.pop("options", {}))
    credentials = changes.pop("credentials", NoCredentials())
    return RegistryClient(
        registry, options=options, credentials=credentials, transport=transport, **changes
    ), transport
