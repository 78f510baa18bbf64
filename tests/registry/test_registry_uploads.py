"""Uploads to a scripted registry: their requests, sizes, chunks, mounts and pauses."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from crossmount.errors import (
    AccessDeniedError,
    InvalidAnswerError,
    InvalidLayoutError,
)
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.registry import Credential, GivenCredentials, Mounted, UploadSession
from crossmount.testing import (
    Alter,
    Fault,
    Grant,
    LoseAnswer,
    RegistryOptions,
    Reply,
    ScriptedRegistry,
    TokenAuth,
    html,
)
from support.registry_kit import DEST, client_of, recorded
from support.uploads import CHUNKS, PIECE, SIZE, Pieces, pieces, upload


@pytest.mark.parametrize("chunk_size", CHUNKS)
async def test_without_failures_no_request_is_superfluous(chunk_size: int | None) -> None:
    """An upload without failures is one PUT, or PATCHes and one PUT."""
    async with ScriptedRegistry() as registry:
        await upload(registry, pieces(), chunk_size)
        methods = [record.method for record in registry.requests]
        assert methods == (["POST", "PUT"] if chunk_size is None else ["POST", *["PATCH"] * 4, "PUT"])
        [*_, last] = registry.requests
        assert last.headers["content-length"] == ("0" if chunk_size else str(SIZE))
        assert last.headers["content-type"] == "application/octet-stream"


async def test_a_patch_answer_without_location_keeps_the_last() -> None:
    """If the answer to a PATCH has no Location, as ECR's may, the old one is used again."""
    async with ScriptedRegistry(RegistryOptions(location_state=False)) as registry:
        registry.play(Fault(method="PATCH", action=Alter(drop=("Location", "Range")), times=None))
        await upload(registry, pieces(), 30_000)


async def test_a_registry_that_stored_a_part_of_a_chunk_gets_the_rest() -> None:
    """The next chunk begins at the end of the answer's Range, unless that is impossible."""
    ranges = iter(["0-9999", "0-99999999", "5-7", "nonsense"])

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return httpx.Response(201)
        taken = next(ranges) if request.method == "PATCH" else "0-0"
        return httpx.Response(202, headers={"Location": "/u?_state=1", "Range": taken})

    client, transport = recorded(handler)
    async with client:
        await client.upload_blob(await client.start_upload(DEST), pieces(), chunk_size=30_000)
    sent = [request.headers["content-range"] for request in transport.requests if request.method == "PATCH"]
    assert sent == ["0-29999", "10000-39999", "40000-69999", "70000-99999"]


async def test_the_sessions_smallest_chunk_is_respected() -> None:
    """OCI-Chunk-Min-Length is respected, and ignored if it is no number."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="POST", action=Alter(set_headers=(("OCI-Chunk-Min-Length", "40000"),))))
        await upload(registry, pieces(), 10)
        assert [r.received for r in registry.requests if r.method == "PATCH"] == [40_000, 40_000, 20_000]
        registry.play(Fault(method="POST", action=Alter(set_headers=(("OCI-Chunk-Min-Length", "many"),))))
        async with client_of(registry.address) as client:
            assert (await client.start_upload(Repository(registry.address, "a"))).min_chunk == 0


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, SIZE + PIECE, 0])
@pytest.mark.parametrize("chunk_size", CHUNKS)
async def test_a_blob_of_another_size_is_refused(size: int, chunk_size: int | None) -> None:
    """A blob with too few or too many bytes is an error that names it, and nothing is stored."""
    wrong = Pieces(Descriptor("x/y", Digest.of(b"right"), SIZE), b"x" * size, [])
    async with ScriptedRegistry() as registry:
        with pytest.raises(InvalidLayoutError, match=wrong.descriptor.digest):
            await upload(registry, wrong, chunk_size)
        assert registry.uploads() == 0


async def test_a_cancelled_upload_ends_at_once() -> None:
    """A cancelled upload raises the cancellation, and the client still works."""
    begun = asyncio.Event()
    item = pieces()

    class Stuck(Pieces):
        async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
            yield self.content[offset : offset + PIECE]
            begun.set()
            await asyncio.Event().wait()

    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        session = await client.start_upload(Repository(registry.address, "team/app"))
        uploading = asyncio.create_task(client.upload_blob(session, Stuck(item.descriptor, item.content, [])))
        await begun.wait()
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        await client.cancel_upload(session)
        assert registry.open_sessions == ()
        assert await client.head_blob(Repository(registry.address, "team/app"), item.descriptor.digest) is None


@pytest.mark.parametrize("chunk_size", CHUNKS)
async def test_a_slow_commit_is_waited_for(chunk_size: int | None) -> None:
    """An answer that takes longer than the read timeout is waited for, and each byte is sent once."""
    async with ScriptedRegistry(RegistryOptions(commit_seconds=0.6)) as registry:
        item = pieces()
        async with client_of(registry.address, options={"read_timeout": 0.2}) as client:
            session = await client.start_upload(Repository(registry.address, "team/app"))
            await client.upload_blob(session, item, chunk_size=chunk_size)
        assert registry.bytes_received == SIZE


async def test_the_clients_chunk_size_applies_to_all_uploads() -> None:
    """A blob larger than `chunk_size` is sent in parts of this size, a smaller one in one request."""
    async with ScriptedRegistry() as registry:
        async with client_of(registry.address, options={"chunk_size": 40_000}) as client:
            dest = Repository(registry.address, "team/app")
            await client.upload_blob(await client.start_upload(dest), pieces())
            await client.upload_blob(await client.start_upload(dest), pieces(40_000))
        assert [record.received for record in registry.requests if record.received] == [
            40_000,
            40_000,
            20_000,
            40_000,
        ]


async def test_a_token_that_expires_during_an_upload_is_renewed() -> None:
    """A 401 in the middle of an upload gets a new token, and the upload goes on where it was."""
    auth = TokenAuth(users={"ci": "pw"}, grants={"ci": (Grant("*", frozenset({"pull", "push", "delete"})),)})
    async with ScriptedRegistry(RegistryOptions(auth=auth)) as registry:
        registry.play(Fault(method="PATCH", skip=1, action=_expired(registry)))
        item = pieces()
        credentials = GivenCredentials(registry.address, Credential("ci", "pw", origin="the test"))
        async with client_of(registry.address, credentials=credentials) as client:
            session = await client.start_upload(Repository(registry.address, "team/app"))
            await client.upload_blob(session, item, chunk_size=30_000)
        assert registry.uploads(item.descriptor.digest) == 1
        assert item.opened == [0, 30_000, 30_000, 60_000, 90_000]
        assert len(registry.matching(path="/token")) == 2


def _expired(registry: ScriptedRegistry) -> Reply:
    challenge = f'Bearer realm="{registry.url}/token",service="registry",error="invalid_token"'
    return Reply(status=401, headers=(("WWW-Authenticate", challenge),))


async def test_mounts_and_their_answers() -> None:
    """A 201 is Mounted, a 202 is a session, and any other status is an error."""
    async with ScriptedRegistry(RegistryOptions(denied_sources=frozenset({"secret/base"}))) as registry:
        digest = registry.put_blob("team/base", b"x")
        registry.put_blob("secret/base", b"x")
        dest, source, secret = (Repository(registry.address, n) for n in ("team/app", "team/base", "secret/base"))
        async with client_of(registry.address) as client:
            assert await client.mount_blob(dest, digest, source) == Mounted()
            assert isinstance(await client.mount_blob(dest, Digest.of(b"?"), source), UploadSession)
            assert isinstance(await client.mount_blob(dest, digest, None), UploadSession)
            with pytest.raises(AccessDeniedError):
                await client.mount_blob(dest, digest, secret)
            registry.play(Fault(method="POST", action=html(200)))
            with pytest.raises(InvalidAnswerError, match=f"is {registry.address} a registry"):
                await client.start_upload(dest)
            registry.play(Fault(method="POST", action=Alter(drop=("Location",))))
            with pytest.raises(InvalidAnswerError, match="no usable Location"):
                await client.start_upload(dest)


async def test_a_mount_without_an_answer_is_retried() -> None:
    """A mount without an answer is sent again."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        digest = registry.put_blob("team/base", b"x")
        registry.play(Fault(method="POST", action=LoseAnswer()))
        dest, source = (Repository(registry.address, n) for n in ("team/app", "team/base"))
        assert await client.mount_blob(dest, digest, source) == Mounted()


async def test_a_pause_that_a_cancel_is_asked_for_concerns_no_upload() -> None:
    """A 429 to the cancel of a session, which is a courtesy, does not stop what is needed."""
    async with ScriptedRegistry() as registry:
        busy = Reply(status=429, headers=(("Retry-After", "3600"),))
        registry.play(Fault(method="DELETE", action=busy, times=None))
        async with client_of(registry.address) as client:
            dest = Repository(registry.address, "team/app")
            await client.cancel_upload(await client.start_upload(dest))
            await client.start_upload(dest)
        assert len(registry.matching(method="DELETE")) == 1
