"""Failing uploads to a scripted registry: each blob still arrives once."""

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
from crossmount.events import BlobCommitting, Event, Retrying
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.registry import Credential, GivenCredentials, Mounted, UploadSession
from crossmount.testing import (
    Alter,
    CutBefore,
    CutReceiving,
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

SIZE = 100_000
PIECE = 1000


@dataclass(frozen=True, slots=True)
class Pieces:
    """A blob that is read in small pieces, and records the offsets of its reads."""

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
    """Upload a blob, and check that it arrived once and that no session is left."""
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
async def test_without_failures_no_request_is_superfluous(chunk_size: int | None) -> None:
    """An upload without failures is one PUT, or PATCHes and one PUT."""
    async with ScriptedRegistry() as registry:
        await upload(registry, pieces(), chunk_size)
        methods = [record.method for record in registry.requests]
        assert methods == (["POST", "PUT"] if chunk_size is None else ["POST", *["PATCH"] * 4, "PUT"])
        [*_, last] = registry.requests
        assert last.headers["content-length"] == ("0" if chunk_size else str(SIZE))
        assert last.headers["content-type"] == "application/octet-stream"


async def test_a_cut_upload_is_resumed_where_it_was() -> None:
    """After half of the bytes only the other half is sent."""
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
    """If the blob exists after a lost answer, it is not sent again."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method=PUT, action=LoseAnswer()))
        item = pieces()
        await upload(registry, item)
        assert item.opened == [0]


async def test_an_unknown_upload_after_a_lost_201_is_success() -> None:
    """A 404 to the repeated last PUT is success if the blob exists."""
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
async def test_a_transient_refusal_is_no_error(chunk_size: int | None, status: int) -> None:
    """A transient status does not end an upload."""
    async with ScriptedRegistry() as registry:
        fault = Fault(method="PUT|PATCH", action=Reply(status=status))
        registry.play(fault)
        await upload(registry, pieces(), chunk_size)


@pytest.mark.parametrize("action", [CutBefore(), CutReceiving(10_000), LoseAnswer(), Reply(status=416)])
async def test_a_failed_chunk_is_resumed(action: CutBefore | CutReceiving | LoseAnswer | Reply) -> None:
    """After a failed chunk the session's offset is requested, and no stored byte is sent again."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method=PATCH, skip=1, action=action))
        item = pieces()
        await upload(registry, item, 30_000)
        assert item.opened == sorted(item.opened)
        assert len([record for record in registry.requests if record.method == "GET"]) == 1


@pytest.mark.parametrize("chunk_size", CHUNKS)
async def test_a_session_that_is_gone_is_replaced(chunk_size: int | None) -> None:
    """If the session is gone and the blob does not exist, a new session gets all bytes."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="PUT|PATCH", action=Reply(status=404, code="BLOB_UPLOAD_UNKNOWN")))
        await upload(registry, pieces(), chunk_size)
        assert [record.method for record in registry.requests].count("POST") == 2


async def test_an_ambiguous_offset_restarts_the_upload() -> None:
    """After `Range: 0-0`, which is no byte or one, the session is cancelled and a new one gets all bytes."""
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
    """If the answer to a PATCH has no Location, as ECR's may, the old one is used again."""
    async with ScriptedRegistry(RegistryOptions(location_state=False)) as registry:
        registry.play(Fault(method=PATCH, action=Alter(drop=("Location", "Range")), times=None))
        await upload(registry, pieces(), 30_000)


async def test_a_registry_that_stored_a_part_of_a_chunk_gets_the_rest() -> None:
    """The next chunk begins at the end of the answer's Range, unless that is impossible."""
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


async def test_the_sessions_smallest_chunk_is_respected() -> None:
    """OCI-Chunk-Min-Length is respected, and ignored if it is no number."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="POST", action=Alter(set_headers=(("OCI-Chunk-Min-Length", "40000"),))))
        await upload(registry, pieces(), 10)
        assert [r.received for r in registry.requests if r.method == PATCH] == [40_000, 40_000, 20_000]
        registry.play(Fault(method="POST", action=Alter(set_headers=(("OCI-Chunk-Min-Length", "many"),))))
        async with client_of(registry.address) as client:
            assert (await client.start_upload(Repository(registry.address, "a"))).min_chunk == 0


async def test_failures_without_end_end_in_an_error() -> None:
    """After too many failures without progress the last one is raised."""
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
    """A refusal that is not transient is raised without another request."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method=PUT, action=Reply(status=status, code="DENIED")))
        with pytest.raises(RegistryRefusedError) as caught:
            await upload(registry, pieces())
        assert caught.value.status == status
        assert isinstance(caught.value, AccessDeniedError) is (status == 403)
        assert len(registry.matching(method=PUT)) == 1


async def test_a_wrongly_resumed_upload_is_restarted() -> None:
    """After a 400 to the last PUT of a resumed upload, all bytes are sent once more."""
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


@pytest.mark.parametrize("gateway", [None, 504])
@pytest.mark.parametrize("session_status", [404, 204])
async def test_bytes_are_not_sent_again_while_the_registry_may_store_them(
    gateway: int | None, session_status: int
) -> None:
    """After a gateway gave up, the registry is asked for the blob until it has it."""
    now, heads = [0.0], 0
    item = pieces()

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal heads
        match request.method:
            case "PUT":
                now[0] += 60.0
                if gateway is None:
                    raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
                return httpx.Response(gateway)
            case "HEAD":
                heads += 1
                return httpx.Response(200 if heads > 3 else 404)
            case "GET":
                return httpx.Response(session_status, headers={"Range": f"0-{SIZE - 1}"})
        return httpx.Response(202, headers={"Location": "/u"})

    events: list[Event] = []
    client, transport = recorded(handler, clock=lambda: now[0], observer=events.append)
    async with client:
        await client.upload_blob(await client.start_upload(DEST), item)
    assert item.opened == [0]
    assert [request.method for request in transport.requests].count("PUT") == 1
    assert BlobCommitting(digest=item.descriptor.digest, size=SIZE, dest=DEST) in events


@pytest.mark.parametrize("status", [405, 411, 413, 415, 416, 501, 200, 204, 302, 403, 422])
async def test_a_registry_that_refuses_parts_gets_the_whole_blob(status: int) -> None:
    """After a cut, a refused part leads to a new session and one PUT of the whole."""
    async with ScriptedRegistry() as registry:
        registry.play(
            Fault(method=PUT, action=CutReceiving(60_000)),
            Fault(method=PATCH, action=Reply(status=status, body=b"", media_type="text/plain"), times=None),
        )
        await upload(registry, pieces())
        assert len(registry.matching(method=PATCH)) == (2 if status == 416 else 1)
        assert len(registry.matching(method=PUT)) == 2


async def test_a_part_that_was_not_taken_is_not_counted() -> None:
    """A 202 whose Range did not grow leads to the whole blob, not to a cut one."""
    async with ScriptedRegistry() as registry:
        headers = (("Location", "/v2/team/app/blobs/uploads/x"), ("Range", "0-59999"))
        registry.play(
            Fault(method=PUT, action=CutReceiving(60_000)),
            Fault(method=PATCH, action=Reply(status=202, headers=headers), times=None),
        )
        await upload(registry, pieces())
        assert len(registry.matching(method=PATCH)) == 1


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
        registry.play(Fault(method=PATCH, skip=1, action=_expired(registry)))
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
            with pytest.raises(InvalidAnswerError, match=r"is 127\.0\.0\.1 a registry"):
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
