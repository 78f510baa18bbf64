"""Uploads that fail on the way are resumed, and each blob arrives once."""

import httpx
import pytest

from crossmount.errors import (
    AccessDeniedError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.events import BlobCommitting, Event, Retrying
from crossmount.oci import Repository
from crossmount.testing import (
    Alter,
    CutBefore,
    CutReceiving,
    Fault,
    LoseAnswer,
    Reply,
    ScriptedRegistry,
)
from support.registry_kit import DEST, client_of, recorded
from support.uploads import CHUNKS, PIECE, SIZE, pieces, upload


async def test_a_cut_upload_is_resumed_where_it_was() -> None:
    """After half of the bytes only the other half is sent."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="PUT", action=CutReceiving(60_000)))
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
        registry.play(Fault(method="PUT", action=LoseAnswer()))
        item = pieces()
        await upload(registry, item)
        assert item.opened == [0]


async def test_an_unknown_upload_after_a_lost_201_is_success() -> None:
    """A 404 to the repeated last PUT is success if the blob exists."""
    async with ScriptedRegistry() as registry:
        registry.play(
            Fault(method="PUT", action=LoseAnswer()),
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
        registry.play(Fault(method="PATCH", skip=1, action=action))
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
            Fault(method="PUT", action=CutBefore()),
            Fault(method="GET", action=Alter(set_headers=(("Range", "0-0"),))),
        )
        item = pieces()
        await upload(registry, item)
        assert item.opened[-1] == 0
        assert [record.method for record in registry.requests].count("DELETE") == 1


async def test_failures_without_end_end_in_an_error() -> None:
    """After too many failures without progress the last one is raised."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="PUT", action=CutBefore(), times=None))
        with pytest.raises(RegistryUnreachableError, match=r"^PUT http://127\.0\.0\.1"):
            await upload(registry, pieces())
        registry.clear_script()
        registry.play(Fault(method="PUT", action=Reply(status=503), times=None))
        with pytest.raises(RegistryRefusedError) as caught:
            await upload(registry, pieces())
        assert caught.value.status == 503


@pytest.mark.parametrize("status", [400, 403, 413])
async def test_a_final_refusal_is_raised_at_once(status: int) -> None:
    """A refusal that is not transient is raised without another request."""
    async with ScriptedRegistry() as registry:
        registry.play(Fault(method="PUT", action=Reply(status=status, code="DENIED")))
        with pytest.raises(RegistryRefusedError) as caught:
            await upload(registry, pieces())
        assert caught.value.status == status
        assert isinstance(caught.value, AccessDeniedError) is (status == 403)
        assert len(registry.matching(method="PUT")) == 1


async def test_a_wrongly_resumed_upload_is_restarted() -> None:
    """After a 400 to the last PUT of a resumed upload, all bytes are sent once more."""
    async with ScriptedRegistry() as registry:
        registry.play(
            Fault(method="PUT", action=CutReceiving(60_000)),
            Fault(method="PUT", action=Reply(status=400, code="DIGEST_INVALID")),
        )
        async with client_of(registry.address) as client:
            session = await client.start_upload(Repository(registry.address, "team/app"))
            await client.upload_blob(session, item := pieces())
        assert item.opened[0] == item.opened[-1] == 0
        assert registry.uploads(item.descriptor.digest) == 1


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
            Fault(method="PUT", action=CutReceiving(60_000)),
            Fault(method="PATCH", action=Reply(status=status, body=b"", media_type="text/plain"), times=None),
        )
        await upload(registry, pieces())
        assert len(registry.matching(method="PATCH")) == (2 if status == 416 else 1)
        assert len(registry.matching(method="PUT")) == 2


async def test_a_part_that_was_not_taken_is_not_counted() -> None:
    """A 202 whose Range did not grow leads to the whole blob, not to a cut one."""
    async with ScriptedRegistry() as registry:
        headers = (("Location", "/v2/team/app/blobs/uploads/x"), ("Range", "0-59999"))
        registry.play(
            Fault(method="PUT", action=CutReceiving(60_000)),
            Fault(method="PATCH", action=Reply(status=202, headers=headers), times=None),
        )
        await upload(registry, pieces())
        assert len(registry.matching(method="PATCH")) == 1
