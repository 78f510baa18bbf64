"""Mounts and uploads (distribution specification, "Pushing blobs")."""

from collections.abc import AsyncIterator, Callable

import httpx

from crossmount.errors import InvalidLayoutError
from crossmount.oci import BlobSource, Digest, Repository
from crossmount.registry.http import NO_BODY, Answer, Body
from crossmount.registry.location import resolve, with_query
from crossmount.registry.refusal import refusal
from crossmount.registry.sender import Call, Sender
from crossmount.registry.urls import Endpoints
from crossmount.registry.values import Mounted, UploadSession

Progress = Callable[[int], None]


class Uploads:
    def __init__(self, endpoints: Endpoints, sender: Sender) -> None:
        self._endpoints = endpoints
        self._sender = sender

    async def mount(self, dest: Repository, digest: Digest, source: Repository | None) -> Mounted | UploadSession:
        answer = await self._sender.send(
            Call(method="POST", url=self._endpoints.mount(dest, digest, source), body=NO_BODY)
        )
        if answer.status == 201:
            return Mounted()
        return _session(answer, "POST", dest)

    async def start(self, dest: Repository) -> UploadSession:
        answer = await self._sender.send(Call(method="POST", url=self._endpoints.uploads(dest), body=NO_BODY))
        return _session(answer, "POST", dest)

    async def upload(self, session: UploadSession, blob: BlobSource, *, on_progress: Progress | None) -> None:
        size = blob.descriptor.size
        url = with_query(httpx.URL(session.location), f"digest={blob.descriptor.digest}")

        async def read() -> AsyncIterator[bytes]:
            sent = 0
            async for data in blob.stream(0):
                yield data
                sent += len(data)
                if on_progress is not None:
                    on_progress(sent)
            if sent != size:
                raise InvalidLayoutError(f"blob {blob.descriptor.digest}: {sent} bytes, not {size}")

        answer = await self._sender.send(
            Call(
                method="PUT",
                url=url,
                headers={"Content-Type": "application/octet-stream"},
                body=Body(size, read),
                repeat=False,
            )
        )
        if answer.status != 201:
            raise refusal(answer, "PUT")

    async def cancel(self, session: UploadSession) -> None:
        await self._sender.send(Call(method="DELETE", url=httpx.URL(session.location), repeat=False))


def _session(answer: Answer, method: str, repository: Repository) -> UploadSession:
    if answer.status != 202:
        raise refusal(answer, method)
    url = resolve(answer.headers.get("location"), request=answer.url)
    least = answer.headers.get("oci-chunk-min-length", "")
    return UploadSession(
        repository=repository, location=str(url), min_chunk=int(least) if least.isdecimal() else 0
    )
