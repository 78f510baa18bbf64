"""A client of registries that shares nothing with ours: what a plain push does, and which mounts succeed."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from crossmount.asyncio import Digest
from crossmount.testing import ScriptedRegistry
from promises.worlds import DEST
from support.waiting import PATIENCE

TRIES = 8
"""How often a request is sent at most; a world has fewer passing faults."""

Login = tuple[str, str]

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Spares each client the system's certificates, which take longer to read than a push takes here."""


@dataclass(frozen=True, slots=True)
class RawClient:
    """A caller of one registry, who gets a new token for each request that needs one."""

    http: httpx.AsyncClient
    login: Login | None

    async def send(self, method: str, url: httpx.URL | str, *, content: bytes = b"", kind: str = "") -> int:
        """Send a request and return the status; 0 if there was no answer or no token."""
        answer = await self.answer(method, url, content=content, kind=kind)
        return 0 if answer is None else answer.status_code

    async def answer(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        content: bytes = b"",
        kind: str = "",
        scopes: Sequence[str] = (),
    ) -> httpx.Response | None:
        """Send a request, again after a 401 with a token for `scopes` or else for what the challenge names."""
        headers = {"Content-Type": kind} if kind else {}
        for _ in range(TRIES):
            try:
                answer = await self.http.request(method, url, content=content, headers=headers)
                if answer.status_code == 401:
                    authorization = await self._authorization(answer, scopes)
                    if authorization is None:
                        return None
                    headers = {**headers, "Authorization": authorization}
                    answer = await self.http.request(method, url, content=content, headers=headers)
            except httpx.TransportError:
                return None
            if answer.status_code != 503:
                return answer
        return None

    async def _authorization(self, refused: httpx.Response, scopes: Sequence[str]) -> str | None:
        challenge = refused.headers.get("www-authenticate")
        if self.login is None or challenge is None:
            return None
        if challenge.startswith("Basic"):
            return str(httpx.BasicAuth(*self.login)._auth_header)
        parts = dict(part.split("=", 1) for part in challenge.removeprefix("Bearer ").split('",'))
        values = {name: value.strip('"') for name, value in parts.items()}
        query = httpx.QueryParams({"service": values["service"], "scope": list(scopes) or [values["scope"]]})
        given = await self.http.get(values["realm"], params=query, auth=self.login)
        return f"Bearer {given.json()['token']}" if given.status_code == 200 else None


@asynccontextmanager
async def calling(registry: ScriptedRegistry, login: Login | None) -> AsyncIterator[RawClient]:
    """Give a client of a registry."""
    async with httpx.AsyncClient(base_url=registry.url, timeout=PATIENCE, trust_env=False, verify=_NO_TLS) as http:
        yield RawClient(http, login)


async def push_plainly(
    client: RawClient, blobs: Mapping[Digest, bytes], manifests: Sequence[tuple[str, bytes]], tag: str
) -> bool:
    """Upload each blob whole, in one POST and one PUT, then the manifests; return whether the registry took all.

    Args:
        client: of the registry.
        blobs: those that are at hand; the destination holds the others.
        manifests: media type and bytes; the last one gets the tag.
        tag: where to.
    """
    for digest, data in blobs.items():
        if not await _upload(client, digest, data):
            return False
    for manifest in manifests:
        kind, content = manifest
        name = tag if manifest is manifests[-1] else Digest.of(content)
        if await client.send("PUT", f"/v2/{DEST}/manifests/{name}", content=content, kind=kind) != 201:
            return False
    return True


async def _upload(client: RawClient, digest: Digest, data: bytes) -> bool:
    for _ in range(TRIES):
        opened = await client.answer("POST", f"/v2/{DEST}/blobs/uploads/")
        if opened is None or opened.status_code != 202:
            return False
        location = opened.url.join(opened.headers["location"]).copy_add_param("digest", digest)
        status = await client.send("PUT", location, content=data, kind="application/octet-stream")
        if status:
            return status == 201
    return False


async def can_mount(client: RawClient, registry: ScriptedRegistry, digest: Digest, source: str | None) -> bool:
    """Return whether the caller's mount of a blob puts it into the destination; None lets the registry find it."""
    query = {"mount": digest} if source is None else {"mount": digest, "from": source}
    scopes = [f"repository:{DEST}:pull,push", *([] if source is None else [f"repository:{source}:pull"])]
    await client.answer("POST", httpx.URL(f"/v2/{DEST}/blobs/uploads/", params=query), scopes=scopes)
    return digest in registry.holdings.find(DEST).blobs
