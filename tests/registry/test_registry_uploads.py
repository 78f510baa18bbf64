"""Uploads in trouble: what the scripted registry does, and that the blob still arrives, once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from crossmount.errors import (
    AccessDeniedError,
    InvalidAnswerError,
    InvalidLayoutError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.events import Event, Retrying
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.registry import Mounted, UploadSession
from crossmount.testing import (
    Alter,
    CutBefore,
    CutReceiving,
    Fault,
    LoseAnswer,
    RegistryOptions,
    Reply,
    ScriptedRegistry,
    html,
)
from support.registry_kit import DEST, client_of, recorded

SIZE = 100_000
PIECE = 1000


@dataclass(frozen=True, slots=True)
class Pieces:
    """A blob that comes in small pieces, and says from where it was read."""

    descriptor: Descriptor
    content: bytes
    opened: list[int]

    async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on."""
        self.opened.append(offset)
        for at in range(offset, len(self.content), PIECE):
            yield self.content[at : at + PIECE]


def pieces(size: int = SIZE) -> Pieces:
    """Return a blob of so many bytes."""
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    return Pieces(Descriptor("x/y", Digest.of(content), size), content, [])


async def upload(registry: ScriptedRegistry, item: Pieces, chunk_size: int | None = None) -> list[Event]:
    """Upload, and check that it arrived once and no session is left."""
    events: list[Event] = []
    async with client_of(registry.address, observer=events.append) as client:
        session = await client.start_upload(Repository(registry.address, "team/app"))
        await client.upload_blob(session, item, chunk_size=chunk_size)
    assert registry.uploads(item.descriptor.digest) == 1
    assert registry.open_sessions == ()
    assert registry.unplayed == ()
    return events


CHUNKS = [None, 30_000]
PUT, PATCH = "PUT", "PATCH"


@pytest.mark.parametrize("chunk_size", CHUNKS)
async def test_without_trouble_no_request_is_superfluous(chunk_size: int | None) -> None:
    """One PUT with all bytes, or PATCHes and one PUT."""
    async with ScriptedRegistry() as registry:
        await upload(registry, pieces(), chunk_size)
        methods = [record.method for record in registry.requests]
        assert methods == (["POST", "PUT"] if chunk_size is None else ["POST", *["PATCH"] * 4, "PUT"])
        [*_, last] = registry.requests
        assert last.headers["content-length"] == ("0" if chunk_size else str(SIZE))
        assert last.headers["content-type"] == "application/octet-stream"


async def test_a_cut_upload_goes_on_where_it_was() -> None:
    """Half the bytes arrived: HEAD, GET, the other half, and no byte of the first half again."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method=PUT, action=CutReceiving(60_000)))
        item = pieces()
        events = await upload(registry, item)
        assert item.opened[0] == 0
        assert 0 < item.opened[1] <= 60_000
        assert len(item.opened) == 2
        assert registry.bytes_received < SIZE + PIECE + 60_000
        assert [event.method for event in events if isinstance(event, Retrying)] == ["PUT"]


async def test_a_lost_201_is_success() -> None:
    """The blob is there and the answer is not: it is not sent again."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method=PUT, action=LoseAnswer()))
        item = pieces()
        await upload(registry, item)
        assert item.opened == [0]


async def test_an_unknown_upload_after_a_lost_201_is_success() -> None:
    """The closing PUT is answered 404 because the one before it was carried out."""
    async with ScriptedRegistry() as registry:
        registry.play(
            Fault(method=PUT, action=LoseAnswer()),
            Fault(method="HEAD", action=Reply(status=404)),  # not to be seen yet, as on a slow mirror
            Fault(method="GET", action=Reply(status=404, code="BLOB_UPLOAD_UNKNOWN")),
            Fault(method="PUT", action=Reply(status=404, code="BLOB_UPLOAD_UNKNOWN")),
        )
        item = pieces()
        async with client_of(registry.address) as client:
            session = await client.start_upload(Repository(registry.address, "team/app"))
            await client.upload_blob(session, item)
        assert registry.uploads(item.descriptor.digest) == 1


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_a_passing_refusal_is_borne(chunk_size: int | None, status: int) -> None:
    """A status that may be otherwise next time does not end an upload."""
    async with ScriptedRegistry() as registry:
        fault = Fault(method="PUT|PATCH", action=Reply(status=status))
        registry.play(fault)
        await upload(registry, pieces(), chunk_size)


@pytest.mark.parametrize("action", [CutBefore(), CutReceiving(10_000), LoseAnswer(), Reply(status=416)])
async def test_a_chunk_in_trouble_is_resumed(action: CutBefore | CutReceiving | LoseAnswer | Reply) -> None:
    """The session is asked for its offset; nothing that it has is sent again."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method=PATCH, skip=1, action=action))
        item = pieces()
        await upload(registry, item, 30_000)
        assert item.opened == sorted(item.opened)
        assert len([record for record in registry.requests if record.method == "GET"]) == 1


@pytest.mark.parametrize("chunk_size", CHUNKS)
async def test_a_session_that_is_gone_is_begun_anew(chunk_size: int | None) -> None:
    """404 in the middle and the blob is not there: a new session, from the first byte."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="PUT|PATCH", action=Reply(status=404, code="BLOB_UPLOAD_UNKNOWN")))
        await upload(registry, pieces(), chunk_size)
        assert [record.method for record in registry.requests].count("POST") == 2


async def test_an_ambiguous_offset_is_begun_anew() -> None:
    """`Range: 0-0` is none or one byte: the old session is cancelled, a new one takes all."""
    async with ScriptedRegistry() as registry:
        registry.play(
            Fault(method=PUT, action=CutBefore()),
            Fault(method="GET", action=Alter(set_headers=(("Range", "0-0"),))),
        )
        item = pieces()
        await upload(registry, item)
        assert item.opened[-1] == 0
        assert [record.method for record in registry.requests].count("DELETE") == 1


async def test_a_patch_answer_without_location_keeps_the_last() -> None:
    """ECR's PATCH may lack it."""
    async with ScriptedRegistry(RegistryOptions(location_state=False)) as registry:
        registry.play(Fault(method=PATCH, action=Alter(drop=("Location", "Range")), times=None))
        await upload(registry, pieces(), 30_000)


async def test_a_registry_that_took_less_of_a_chunk_gets_the_rest() -> None:
    """The next chunk begins where the answer's Range says, unless that cannot be."""
    ranges = iter(["0-9999", "0-99999999", "5-7", "nonsense"])

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return httpx.Response(201)
        told = next(ranges) if request.method == PATCH else "0-0"
        return httpx.Response(202, headers={"Location": "/u?_state=1", "Range": told})

    client, transport = recorded(handler)
    async with client:
        await client.upload_blob(await client.start_upload(DEST), pieces(), chunk_size=30_000)
    sent = [request.headers["content-range"] for request in transport.requests if request.method == PATCH]
    assert sent == ["0-29999", "10000-39999", "40000-69999", "70000-99999"]


async def test_the_sessions_smallest_chunk_counts() -> None:
    """OCI-Chunk-Min-Length is kept to; nonsense in it is not."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="POST", action=Alter(set_headers=(("OCI-Chunk-Min-Length", "40000"),))))
        await upload(registry, pieces(), 10)
        assert [r.received for r in registry.requests if r.method == PATCH] == [40_000, 40_000, 20_000]
        registry.play(Fault(method="POST", action=Alter(set_headers=(("OCI-Chunk-Min-Length", "many"),))))
        async with client_of(registry.address) as client:
            assert (await client.start_upload(Repository(registry.address, "a"))).min_chunk == 0


async def test_trouble_without_end_is_an_error_in_the_end() -> None:
    """So many failures without progress: the last is raised."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method=PUT, action=CutBefore(), times=None))
        with pytest.raises(RegistryUnreachableError, match=r"^PUT http://127\.0\.0\.1"):
            await upload(registry, pieces())
        registry.clear_script()
        registry.play(Fault(method=PUT, action=Reply(status=503), times=None))
        with pytest.raises(RegistryRefusedError) as caught:
            await upload(registry, pieces())
        assert caught.value.status == 503


@pytest.mark.parametrize("status", [400, 403, 413])
async def test_a_final_refusal_is_raised_at_once(status: int) -> None:
    """It is not worth another byte."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method=PUT, action=Reply(status=status, code="DENIED")))
        with pytest.raises(RegistryRefusedError) as caught:
            await upload(registry, pieces())
        assert caught.value.status == status
        assert isinstance(caught.value, AccessDeniedError) is (status == 403)
        assert len(registry.matching(method=PUT)) == 1


async def test_what_was_resumed_wrongly_is_begun_anew() -> None:
    """400 to the end of a resumed upload may be the resumption's fault: once more from the first byte."""
    async with ScriptedRegistry() as registry:
        registry.play(
            Fault(method=PUT, action=CutReceiving(60_000)),
            Fault(method=PUT, action=Reply(status=400, code="DIGEST_INVALID")),
        )
        async with client_of(registry.address) as client:
            session = await client.start_upload(Repository(registry.address, "team/app"))
            await client.upload_blob(session, item := pieces())
        assert item.opened[0] == item.opened[-1] == 0
        assert registry.uploads(item.descriptor.digest) == 1


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, SIZE + PIECE, 0])
@pytest.mark.parametrize("chunk_size", CHUNKS)
async def test_a_blob_of_another_size_is_refused(size: int, chunk_size: int | None) -> None:
    """Too few or too many bytes: the error names the blob, and nothing is stored."""
    wrong = Pieces(Descriptor("x/y", Digest.of(b"right"), SIZE), b"x" * size, [])
    async with ScriptedRegistry() as registry:
        with pytest.raises(InvalidLayoutError, match=wrong.descriptor.digest):
            await upload(registry, wrong, chunk_size)
        assert registry.uploads() == 0


async def test_a_cancelled_upload_ends_at_once() -> None:
    """Ctrl-C in the middle: the error is the cancellation, and the client still works."""
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


async def test_mounts_and_their_answers() -> None:
    """201 is Mounted, 202 is a session, and anything else is an error with its status."""
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
            with pytest.raises(InvalidAnswerError, match=r"is 127\.0\.0\.1 a registry"):
                await client.start_upload(dest)
            registry.play(Fault(method="POST", action=Alter(drop=("Location",))))
            with pytest.raises(InvalidAnswerError, match="no usable Location"):
                await client.start_upload(dest)


async def test_a_lost_mount_is_asked_for_again() -> None:
    """A mount may be repeated."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        digest = registry.put_blob("team/base", b"x")
        registry.play(Fault(method="POST", action=LoseAnswer()))
        dest, source = (Repository(registry.address, n) for n in ("team/app", "team/base"))
        assert await client.mount_blob(dest, digest, source) == Mounted()
