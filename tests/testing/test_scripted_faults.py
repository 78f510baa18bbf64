import asyncio
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.oci import Digest
from crossmount.testing import (
    Alter,
    CutBefore,
    CutReceiving,
    CutSending,
    Echo,
    Fault,
    LoseAnswer,
    Pass,
    RegistryOptions,
    Reply,
    blob_unknown,
    html,
)
from crossmount.testing.faults import FaultScript, path_of
from crossmount.testing.values import Request
from support.scripted import (
    code_of,
    finish_upload,
    manifest_of,
    push_blob,
    push_manifest,
    start_upload,
    talk_to,
)
from support.waiting import PATIENCE, until

DATA = b"0123456789" * 100
DIGEST = Digest.of(DATA)
NAME = "team/app"

CUT = (httpx.NetworkError, httpx.RemoteProtocolError)
"""The errors of httpx for a cut connection."""


async def read_into(pieces: list[bytes], client: httpx.AsyncClient, url: str) -> None:
    """Read a body in pieces, and return the bytes before a cut."""
    async with client.stream("GET", url) as answer:
        async for piece in answer.aiter_bytes():
            pieces.append(piece)  # noqa: PERF401 a comprehension would lose them


async def test_a_status_comes_as_often_as_scripted() -> None:
    """Two requests get a 503 with Retry-After, the third gets the registry's answer; the log shows which."""
    busy = Fault(path="/v2/", times=2, action=Reply(status=503, code="UNAVAILABLE", retry_after=3), name="busy")
    async with talk_to(None, busy) as (registry, client):
        answers = [await client.get("/v2/") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 200]
        assert [answer.headers.get("retry-after") for answer in answers] == ["3", "3", None]
        assert code_of(answers[0]) == "UNAVAILABLE"
        assert [record.fault for record in registry.requests] == ["busy", "busy", ""]
        assert registry.unplayed == ()


async def test_each_so_many_th_request_is_met() -> None:
    """With `skip`, `every` and `times`, every third request after the first is affected, up to the limit."""
    third = Fault(path="/v2/", skip=1, every=3, times=2, action=Reply(status=500))
    async with talk_to(None, third) as (registry, client):
        answers = [(await client.get("/v2/")).status_code for _ in range(12)]
        assert [number for number, status in enumerate(answers) if status == 500] == [3, 6]
        assert registry.unplayed == ()


async def test_retry_after_may_be_a_date() -> None:
    """A Retry-After that is a time is sent as an HTTP date."""
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with talk_to(None, Fault(action=Reply(status=429, retry_after=moment))) as (_, client):
        assert (await client.get("/v2/")).headers["retry-after"] == "Wed, 02 Jan 2030 03:04:05 GMT"


async def test_a_portal_answers_html() -> None:
    """`html` answers 200 with a web page."""
    async with talk_to(None, Fault(action=html(), times=None)) as (_, client):
        answer = await client.get("/v2/")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
        assert answer.text.startswith("<!doctype html>")


async def test_a_cut_before_has_no_effect() -> None:
    """The client gets no answer, and the request has no effect."""
    async with talk_to(None, Fault(method="POST", action=CutBefore())) as (registry, client):
        with pytest.raises(CUT):
            await start_upload(client, NAME)
        assert registry.open_sessions == ()
        assert (registry.requests[-1].status, registry.requests[-1].fault) == (0, "CutBefore")


async def test_a_cut_in_the_middle_keeps_what_came() -> None:
    """After a cut at k bytes of a chunk the session has k bytes, and the upload can continue from there."""
    async with talk_to(None, Fault(method="PATCH", action=CutReceiving(after=300))) as (registry, client):
        location = (await start_upload(client, NAME)).headers["location"]
        with pytest.raises(CUT):
            await client.patch(location, content=DATA)
        assert registry.requests[-1].received == 300
        status = await client.get(location)
        assert status.headers["range"] == "0-299"
        done = await finish_upload(client, status.headers["location"], DIGEST, DATA[300:])
        assert done.status_code == 201


async def test_a_short_body_is_taken_and_its_answer_lost() -> None:
    """A cut past the end of the body happens after the request was carried out."""
    async with talk_to(None, Fault(method="PUT", action=CutReceiving(after=10**6))) as (registry, client):
        with pytest.raises(CUT):
            await push_blob(client, NAME, DATA)
        assert registry.uploads(DIGEST) == 1


async def test_a_lost_201_is_an_upload_nobody_heard_of() -> None:
    """The blob exists, the client gets no answer, and a second PUT finds no session."""
    async with talk_to(None, Fault(method="PUT", action=LoseAnswer())) as (registry, client):
        location = (await start_upload(client, NAME)).headers["location"]
        with pytest.raises(CUT):
            await finish_upload(client, location, DIGEST, DATA)
        assert (await client.head(f"/v2/{NAME}/blobs/{DIGEST}")).status_code == 200
        assert (await finish_upload(client, location, DIGEST, DATA)).status_code == 404
        assert registry.uploads(DIGEST) == 1


@pytest.mark.parametrize("after", [0, 1, 999])
async def test_an_answer_can_stop_in_the_middle(after: int) -> None:
    """The client gets exactly the first k bytes of a blob."""
    async with talk_to(None, Fault(method="GET", action=CutSending(after=after))) as (registry, client):
        registry.put_blob(NAME, DATA)
        got: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await read_into(got, client, f"/v2/{NAME}/blobs/{DIGEST}")
        assert b"".join(got) == DATA[:after]
        assert registry.requests[-1].sent == after


async def test_an_answer_can_lie() -> None:
    """`Alter` changes the digest, the bytes, the status, or removes the Content-Length."""
    faults = (
        Fault(method="GET", action=Alter(set_headers=(("Docker-Content-Digest", Digest.of(b"")),))),
        Fault(method="GET", action=Alter(corrupt=True)),
        Fault(method="GET", action=Alter(status=299)),
        Fault(method="HEAD", action=Alter(drop=("Content-Length",))),
    )
    async with talk_to(None, *faults) as (registry, client):
        registry.put_blob(NAME, DATA)
        url = f"/v2/{NAME}/blobs/{DIGEST}"
        wrong_digest, wrong_bytes, wrong_status = [await client.get(url) for _ in range(3)]
        assert wrong_digest.headers.get_list("docker-content-digest") == [Digest.of(b"")]
        assert len(wrong_bytes.content) == len(DATA)
        assert Digest.of(wrong_bytes.content) != DIGEST
        assert wrong_status.status_code == 299
        head = await client.head(url)
        assert (head.status_code, head.headers.get("content-length")) == (200, None)


async def test_a_location_can_lead_elsewhere_once() -> None:
    """A session's Location can name another host; the answer to a PATCH can lack a Location."""
    faults = (
        Fault(method="POST", action=Alter(location_base="http://other.test:81")),
        Fault(method="PATCH", action=Alter(drop=("Location",))),
    )
    async with talk_to(None, *faults) as (_, client):
        elsewhere = (await start_upload(client, NAME)).headers["location"]
        assert elsewhere.startswith("http://other.test:81/v2/team/app/blobs/uploads/upload-1?_state=")
        location = (await start_upload(client, NAME)).headers["location"]
        assert "location" not in (await client.patch(location, content=DATA)).headers


async def test_a_manifest_can_be_refused_for_a_while() -> None:
    """A manifest is refused n times for an unknown blob, then accepted."""
    async with talk_to(None, Fault(method="PUT", path="*/manifests/*", action=blob_unknown())) as (
        registry,
        client,
    ):
        content = manifest_of([registry.put_blob(NAME, DATA)])
        refused, accepted = [await push_manifest(client, NAME, "v1", content) for _ in range(2)]
        assert (code_of(refused), accepted.status_code) == ("MANIFEST_BLOB_UNKNOWN", 201)


async def test_a_fault_waits_for_its_turn() -> None:
    """`skip` ignores the first requests, `play` adds faults, and `clear_script` removes them."""
    teapot = Reply(status=418)
    async with talk_to(None, Fault(skip=1, action=teapot)) as (registry, client):
        assert [(await client.get("/v2/")).status_code for _ in range(3)] == [200, 418, 200]
        registry.play(Fault(times=None, action=teapot))
        assert registry.unplayed != ()
        assert (await client.get("/v2/")).status_code == 418
        assert registry.unplayed == ()
        registry.clear_script()
        assert (await client.get("/v2/")).status_code == 200


async def test_answers_can_be_slow() -> None:
    """A fault delays one answer and `latency` delays all; a client that gives up earlier gets no answer."""
    async with talk_to(RegistryOptions(latency=0.01), Fault(delay=3600)) as (registry, client):
        giving_up = asyncio.create_task(client.get("/v2/", timeout=PATIENCE))
        await until(lambda: registry.underway == 1)
        giving_up.cancel()
        await asyncio.wait([giving_up])
        start = asyncio.get_running_loop().time()
        assert (await client.get("/v2/")).status_code == 200
        assert asyncio.get_running_loop().time() - start >= 0.01
        assert [record.status for record in registry.requests] == [200]


@given(st.integers(0, 4), st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 10))
def test_a_line_meets_what_it_says(skip: int, times: int | None, requests: int) -> None:
    """For any number of requests, a fault affects `times` requests after `skip`."""
    script = FaultScript([Fault(skip=skip, times=times)])
    met = [script.match(Request("GET", "/v2/")) is not None for _ in range(requests)]
    expected = [i >= skip and (times is None or i < skip + times) for i in range(requests)]
    assert met == expected
    assert bool(script.unplayed) == (sum(met) < (times or 1))


@pytest.mark.parametrize(
    ("fault", "fits"),
    [
        (Fault(), True),
        (Fault(method="GET|POST"), True),
        (Fault(method="PUT"), False),
        (Fault(path="/v2/*/uploads/"), True),
        (Fault(path="/v2/"), False),
        (Fault(query="mount=*"), True),
        (Fault(query=""), False),
    ],
)
def test_a_fault_fits_by_method_path_and_query(fault: Fault, fits: bool) -> None:
    """A fault applies only if all three patterns match."""
    assert fault.fits(Request("POST", "/v2/a/b/blobs/uploads/", raw_query="mount=sha256:x")) is fits


def test_locations_lose_only_their_host() -> None:
    """`path_of` keeps path and query of a Location, relative or absolute."""
    assert path_of("https://a.test:1/b?c=http://d") == "/b?c=http://d"
    assert path_of("/b?c=%2F") == "/b?c=%2F"
    assert Fault(action=Pass(), name="x").label == "x"


async def test_an_error_can_repeat_the_request() -> None:
    """`Echo` answers with the request's headers in the error's message, and the request has no effect."""
    async with talk_to(None, Fault(method="POST", action=Echo(400))) as (registry, client):
        answer = await client.post(f"/v2/{NAME}/blobs/uploads/", headers={"Authorization": "Basic made-up"})
        assert answer.status_code == 400
        assert "authorization: Basic made-up" in answer.json()["errors"][0]["message"]
        assert registry.open_sessions == ()
