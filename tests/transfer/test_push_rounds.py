"""How many round trips a push needs if the registry has all its layers: requests that wait for earlier answers."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import httpx

from crossmount import events
from crossmount.asyncio import ClientOptions, Knowledge, Located, RedisMountIndex, push
from crossmount.testing import CutBefore, Fault, RegistryOptions, ScriptedRegistry, TokenAuth
from support.images import MadeImage
from support.links import async_link
from support.servers import Server


class Rounds(httpx.AsyncBaseTransport):
    """Sends requests, and counts how many waited for the answer to another, one after the other.

    The first mounts are answered only when all have been sent, so that a fast answer is no round of its own.

    Args:
        mounts: the number of mounts of the push.
    """

    def __init__(self, mounts: int) -> None:
        self._below = httpx.AsyncHTTPTransport()
        self._mounts = mounts
        self._all_sent = asyncio.Event()
        self.connected = asyncio.Event()
        self.answered = 0
        self.requests: list[tuple[int, str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and note its round."""
        number, path = self.answered + 1, request.url.path
        self.requests.append((number, request.method, path.rstrip("/").rpartition("/")[2]))
        answer = await self._below.handle_async_request(request)
        await answer.aread()
        if request.method == "POST" and answer.status_code == 201:
            self._mounts -= 1
            if self._mounts == 0:
                self._all_sent.set()
            await self._all_sent.wait()
        self.answered = max(self.answered, number)
        if path == "/v2/":
            self.connected.set()
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._below.aclose()


class FarIndex(RedisMountIndex):
    """An index that may be farther away than the registry: then it answers after `until`."""

    until: asyncio.Event | None = None

    async def look_up(
        self, layers: Iterable[str], dest: str | Located, *, account: str | None = None, deletions: bool = False
    ) -> Knowledge:
        """Look up when the registry has answered."""
        if self.until is not None:
            await self.until.wait()
        return await super().look_up(layers, dest, account=account, deletions=deletions)


async def rounds_of_a_push(registry: ScriptedRegistry, image: MadeImage, valkey: Server) -> Rounds:
    """Push an image to three repositories, and return the rounds of the last push."""
    options = ClientOptions(plain_http=True, credentials={registry.address: ("user", "secret")})
    async with FarIndex(async_link(valkey.url)) as index, Rounds(len(image.blobs)) as rounds:
        for name in ("first", "second"):  # the second push shows that the registry's mounts can be trusted
            await push(image.path, f"{registry.address}/{name}:1", index=index, options=options)
        index.until = rounds.connected
        watched = replace(options, transport=rounds)
        report = await push(image.path, f"{registry.address}/third:1", index=index, options=watched)
    assert report.count("mounted") == len(image.blobs)
    return rounds


async def test_mounts_and_the_manifest_are_two_rounds(image: MadeImage, valkey: Server) -> None:
    """A push whose layers are all mounted sends all mounts at once, then the manifest, and nothing else."""
    async with ScriptedRegistry() as registry:
        rounds = await rounds_of_a_push(registry, image, valkey)
    mounts = [(2, "POST", "uploads")] * len(image.blobs)
    assert rounds.requests == [(1, "GET", "v2"), *mounts, (3, "PUT", "1")]


async def test_a_token_is_one_more_round(image: MadeImage, valkey: Server) -> None:
    """The registry asks for a token while the index is read, so no mount is refused first."""
    auth = TokenAuth(users={"user": "secret"})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        rounds = await rounds_of_a_push(registry, image, valkey)
    mounts = [(3, "POST", "uploads")] * len(image.blobs)
    assert rounds.requests == [(1, "GET", "v2"), (2, "GET", "token"), *mounts, (4, "PUT", "1")]


async def test_a_connection_that_fails_is_no_failure(image: MadeImage, valkey: Server) -> None:
    """If the request that connects gets no answer, the push sends its own requests as always, and says nothing."""
    seen: list[events.Event] = []
    async with ScriptedRegistry() as registry, FarIndex(async_link(valkey.url)) as index:
        registry.play(Fault(method="GET", path="/v2/", action=CutBefore()))
        report = await push(
            image.path,
            f"{registry.address}/first:1",
            index=index,
            options=ClientOptions(plain_http=True),
            observer=seen.append,
        )
    assert report.count("uploaded") == len(image.blobs)
    assert not any(isinstance(event, events.Retrying) for event in seen)


async def test_a_push_without_a_server_connects_with_its_first_request(image: MadeImage) -> None:
    """Without an index on a server there is nothing to wait for, and no request that only connects."""
    async with ScriptedRegistry() as registry:
        await push(image.path, f"{registry.address}/first:1", options=ClientOptions(plain_http=True))
        assert "/v2/" not in {request.path for request in registry.requests}
