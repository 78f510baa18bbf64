"""Images of a Docker engine, by its API: `GET /images/NAME/get` is what `docker save` calls.

From Docker 25 on the answer is a tar with an image layout in it. It is spooled to disk, as a push reads blobs in
any order, and again after a cut.
"""

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, TypeGuard
from urllib.parse import quote

import httpx

from crossmount._dataclass import dataclass
from crossmount._parsing import json_object, one_line
from crossmount._secrets import without_userinfo
from crossmount.errors import InvalidInputError, InvalidLayoutError
from crossmount.oci import Reference
from crossmount.oci.blob import READ_BYTES
from crossmount.oci.image_spool import ImageSpool
from crossmount.oci.layout_files import OpenFile

SCHEME = "docker-daemon:"

_SOCKET = Path("/var/run/docker.sock")
_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")
_SAVE_SECONDS = 600.0
"""How long the engine may be silent: it packs layers before it sends them."""

_REFUSAL_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where a Docker engine listens.

    Attributes:
        url: the base of its API.
        socket: its socket; None if it listens on TCP.
        certificates: a folder with `ca.pem`, `cert.pem` and `key.pem` for TLS; without it the system's count.
    """

    url: str
    socket: str | None = None
    certificates: Path | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Return the address that `docker` would use: `DOCKER_HOST`, or else the socket of the system or the user.

        Raises:
            InvalidInputError: `DOCKER_HOST` is of a kind that cannot be used.
        """
        host = environment.get("DOCKER_HOST", "")
        if not host:
            own = Path(environment.get("XDG_RUNTIME_DIR", "/nowhere")) / "docker.sock"
            return cls("http://docker", str(own if own.exists() and not _SOCKET.exists() else _SOCKET))
        scheme, _, rest = host.partition("://")
        if scheme == "unix" and rest:
            return cls("http://docker", rest)
        if scheme in {"tcp", "http", "https"} and rest:
            secure = scheme == "https" or (scheme == "tcp" and bool(environment.get("DOCKER_TLS_VERIFY")))
            folder = environment.get("DOCKER_CERT_PATH") or Path(environment.get("HOME", "/")) / ".docker"
            return cls(
                f"{'https' if secure else 'http'}://{rest.rstrip('/')}",
                certificates=Path(folder) if secure else None,
            )
        raise InvalidInputError(
            f"DOCKER_HOST is of a kind that crossmount cannot use ({scheme[:20]}://): save the image to a file "
            f"(docker save -o image.tar NAME), or forward the engine's socket and name it as unix://"
        )

    def __str__(self) -> str:
        return without_userinfo(self.socket or self.url)

    def transport(self) -> httpx.AsyncHTTPTransport:
        """Return a transport to it, which reads nothing else of the environment.

        Raises:
            InvalidInputError: its certificates cannot be read.
        """
        if self.socket is not None:
            return httpx.AsyncHTTPTransport(uds=self.socket, trust_env=False)
        if self.certificates is None or not (self.certificates / "ca.pem").exists():
            return httpx.AsyncHTTPTransport(trust_env=False)
        try:
            context = ssl.create_default_context(cafile=self.certificates / "ca.pem")
            if (self.certificates / "cert.pem").exists():
                context.load_cert_chain(self.certificates / "cert.pem", self.certificates / "key.pem")
        except (OSError, ssl.SSLError) as error:
            raise InvalidInputError(f"{self.certificates}: certificates of Docker: {error}") from error
        return httpx.AsyncHTTPTransport(verify=context, trust_env=False)


def is_source(source: str | Path) -> TypeGuard[str]:
    """Return whether a source of a push is an image of an engine."""
    return isinstance(source, str) and source.startswith(SCHEME)


def image_name(source: str) -> str:
    """Return the name by which the engine is asked for `docker-daemon:NAME[:TAG]`, or for an image's ID.

    Without a tag it is `latest`: the engine would send all tags.

    Raises:
        InvalidReferenceError: it is not a name.
    """
    name = source.removeprefix(SCHEME)
    if _IMAGE_ID.fullmatch(name):
        return name
    return name if Reference.parse(name).target else f"{name}:latest"


async def save_image(source: str, spool: ImageSpool, *, address: EngineAddress | None = None) -> OpenFile:
    """Spool the tar that `docker save` would write.

    Args:
        source: `docker-daemon:NAME[:TAG]`.
        spool: where to put it.
        address: the engine; by default that of the environment.

    Raises:
        InvalidInputError: the name or the engine's address is not valid.
        InvalidLayoutError: the engine does not answer, or has no such image, or the tar does not fit.
    """
    engine, name = address or EngineAddress.of(os.environ), image_name(source)
    spooled = spool.create(source)
    async with _asked(engine, name) as answer:
        async for part in answer.aiter_bytes(READ_BYTES):
            await asyncio.to_thread(spooled.write, part)
    return spooled.finish()


@asynccontextmanager
async def _asked(engine: EngineAddress, name: str) -> AsyncIterator[httpx.Response]:
    """Yield the engine's answer with the tar; turn its failures into our errors."""
    timeout = httpx.Timeout(10.0, read=_SAVE_SECONDS)
    path = f"/images/{quote(name, safe='/:@')}/get"
    try:
        async with (
            httpx.AsyncClient(transport=engine.transport(), base_url=engine.url, timeout=timeout) as client,
            client.stream("GET", path) as answer,
        ):
            if answer.status_code != 200:
                raise await _refusal(engine, name, answer)
            yield answer
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        cause = one_line(str(error)) or type(error).__name__
        raise InvalidLayoutError(
            f"no Docker engine answers at {engine}: {cause}: is it running, and may you use it? "
            f"DOCKER_HOST names another"
        ) from error


async def _refusal(engine: EngineAddress, name: str, answer: httpx.Response) -> InvalidLayoutError:
    body = bytearray()
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > _REFUSAL_BYTES_MAX:
            break
    said = (json_object(bytes(body)) or {}).get("message")
    cause = one_line(said)[:300] if isinstance(said, str) else f"status {answer.status_code}"
    return InvalidLayoutError(f"the Docker engine at {engine} does not send {name[:300]}: {cause}")
