"""Small clients for the scripted registry, with plain httpx and without crossmount's client."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx

from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.testing import Fault, RegistryOptions, ScriptedRegistry


@asynccontextmanager
async def talk_to(
    options: RegistryOptions | None = None, *faults: Fault
) -> AsyncIterator[tuple[ScriptedRegistry, httpx.AsyncClient]]:
    """Run a registry, and yield it with a client."""
    async with (
        ScriptedRegistry(options, faults=faults) as registry,
        httpx.AsyncClient(base_url=registry.url) as client,
    ):
        yield registry, client


async def start_upload(client: httpx.AsyncClient, name: str, query: str = "") -> httpx.Response:
    """Open a session, or try to mount."""
    return await client.post(f"/v2/{name}/blobs/uploads/{query}")


async def finish_upload(
    client: httpx.AsyncClient, location: str, digest: str, data: bytes = b""
) -> httpx.Response:
    """Send the last PUT."""
    return await client.put(httpx.URL(location).copy_add_param("digest", digest), content=data)


async def push_blob(client: httpx.AsyncClient, name: str, data: bytes) -> Digest:
    """Upload a blob with POST and PUT."""
    started = await start_upload(client, name)
    digest = Digest.of(data)
    done = await finish_upload(client, started.headers["location"], digest, data)
    assert done.status_code == 201, done.text
    return digest


def manifest_of(blobs: Iterable[Digest], **more: object) -> bytes:
    """Return a manifest whose first blob is the config; the sizes are made up."""
    config, *layers = (
        {"mediaType": f"application/vnd.tests.{i}", "digest": digest, "size": 1} for i, digest in enumerate(blobs)
    )
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers, **more}
    return json.dumps(document).encode()


async def push_manifest(
    client: httpx.AsyncClient, name: str, target: str, content: bytes, media_type: str = OCI_MANIFEST
) -> httpx.Response:
    """Put a manifest."""
    url = f"/v2/{name}/manifests/{target}"
    return await client.put(url, content=content, headers={"Content-Type": media_type})


def code_of(response: httpx.Response) -> str:
    """Return the first error code of an answer."""
    code = response.json()["errors"][0]["code"]
    assert isinstance(code, str)
    return code
