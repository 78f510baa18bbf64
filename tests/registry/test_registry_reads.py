"""Reads of blobs, manifests and lists that are cut, altered or absent."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from crossmount.errors import InvalidAnswerError, RegistryRefusedError, RegistryUnreachableError
from crossmount.oci import Digest, Reference, Repository
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.oci.manifest import MANIFEST_BYTES_MAX
from crossmount.registry import SIZE_UNKNOWN, RegistryClient
from crossmount.testing import Alter, CutSending, Fault, RegistryOptions, Reply, ScriptedRegistry, html
from support.registry_kit import DATA, DEST, HOST, blob, client_of, manifest, recorded

BIG = DATA * 200
DIGEST = blob().descriptor.digest
TAGGED = Reference(DEST, tag="v1")


async def read(client: RegistryClient, repository: Repository, digest: Digest, offset: int = 0) -> bytes:
    """Read a blob to its end."""
    async with client.stream_blob(repository, digest, offset=offset) as stream:
        return b"".join([part async for part in stream])


@pytest.mark.parametrize("offset", [0, 7, 100_000])
async def test_a_cut_blob_is_resumed_where_it_was(offset: int) -> None:
    """After three cuts each byte of the blob has come once."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        digest = registry.put_blob("a", BIG)
        registry.play(Fault(method="GET", action=CutSending(30_000), times=3))
        assert await read(client, Repository(registry.address, "a"), digest, offset) == BIG[offset:]
        ranges = [record.headers.get("range") for record in registry.requests]
        assert len(ranges) == 4
        assert ranges[-1] is not None


async def test_a_registry_without_ranges_is_read_from_the_start() -> None:
    """If a Range is answered by 200, the first bytes are skipped."""
    handler = lambda _: httpx.Response(200, content=DATA)  # noqa: E731 shorter than a function
    client, _ = recorded(handler)
    async with client:
        assert await read(client, DEST, DIGEST, 1000) == DATA[1000:]


@pytest.mark.parametrize(
    "refusal",
    [
        httpx.Response(416),
        httpx.Response(400),
        httpx.Response(405),
        httpx.Response(501),
        httpx.Response(206, headers={"Content-Range": "bytes 5-9/1024"}, content=b"x"),
        httpx.Response(206, content=b"x"),
        httpx.Response(203, content=b"x"),
    ],
)
async def test_a_download_whose_range_is_refused_begins_anew(refusal: httpx.Response) -> None:
    """If a Range is not served as requested, the whole blob is requested, and the first bytes are skipped."""

    def handler(request: httpx.Request) -> httpx.Response:
        return refusal if "range" in request.headers else httpx.Response(200, content=DATA)

    client, transport = recorded(handler)
    async with client:
        assert await read(client, DEST, DIGEST, 1000) == DATA[1000:]
    assert len(transport.requests) == 2


async def test_a_cut_download_of_a_registry_that_refuses_ranges_ends_well() -> None:
    """After a cut and a 416 the bytes still come once, and are verified."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        digest = registry.put_blob("a", BIG)
        registry.play(
            Fault(method="GET", action=CutSending(30_000)), Fault(method="GET", action=Reply(status=416))
        )
        assert await read(client, Repository(registry.address, "a"), digest) == BIG


async def test_a_download_that_drips_ends() -> None:
    """A blob of which a few bytes come now and then fails after the time of a request; a slow reader does not."""

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(1000):
            now[0] += 1.0
            yield b"x"

    now = [0.0]
    client, transport = recorded(lambda _: httpx.Response(200, content=drip()), clock=lambda: now[0])
    async with client:
        with pytest.raises(RegistryUnreachableError, match="GET"):
            await read(client, DEST, DIGEST)
        assert len(transport.requests) < 5
    client, _ = recorded(lambda _: httpx.Response(200, content=DATA), clock=lambda: now[0])
    async with client, client.stream_blob(DEST, DIGEST) as stream:
        async for _part in stream:
            now[0] += 100.0


@pytest.mark.parametrize("status", [405, 501])
async def test_a_registry_without_head_is_asked_for_a_byte(status: int) -> None:
    """Where HEAD is not served, a GET of one byte says whether the blob exists, and HEAD is not sent again."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        repository = Repository(registry.address, "a")
        digests = [registry.put_blob("a", data) for data in (DATA, b"x", b"")]
        registry.play(Fault(method="HEAD", action=Reply(status=status), times=None))
        assert [await client.head_blob(repository, digest) for digest in digests] == [len(DATA), 1, SIZE_UNKNOWN]
        assert await client.head_blob(repository, Digest.of(b"absent")) is None
        assert len(registry.matching(method="HEAD")) == 1
        registry.play(Fault(method="GET", action=Reply(status=403, code="DENIED")))
        with pytest.raises(RegistryRefusedError, match="403"):
            await client.head_blob(repository, digests[0])


async def test_bytes_that_were_not_asked_for_are_refused() -> None:
    """A 206 from another offset than requested is an invalid answer."""
    headers = {"Content-Range": "bytes 5-9/1024"}
    client, _ = recorded(lambda _: httpx.Response(206, headers=headers, content=b"x"))
    async with client:
        with pytest.raises(InvalidAnswerError, match="not asked for"):
            await read(client, DEST, DIGEST)


async def test_altered_bytes_are_noticed() -> None:
    """The bytes of a blob that is read whole are verified, and the error names the blob."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        digest = registry.put_blob("a", DATA)
        registry.play(Fault(method="GET", action=Alter(corrupt=True)))
        with pytest.raises(InvalidAnswerError, match=f"blob {digest}: 1024 bytes came"):
            await read(client, Repository(registry.address, "a"), digest)


async def test_an_absent_blob_is_an_error_on_entering() -> None:
    """An absent blob is a 404 on entering; a stream that is left early is closed."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        repository = Repository(registry.address, "a")
        with pytest.raises(RegistryRefusedError) as caught:
            await read(client, repository, DIGEST)
        assert caught.value.status == 404
        digest = registry.put_blob("a", BIG)
        async with client.stream_blob(repository, digest) as stream:
            assert stream.size == len(BIG)
        async with client.stream_blob(repository, digest) as stream:
            async for _ in stream:
                break
        assert await client.head_blob(repository, digest) == len(BIG)


async def test_cuts_without_progress_end_in_an_error() -> None:
    """Repeated cuts at the same byte end in an error."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        digest = registry.put_blob("a", BIG)
        registry.play(Fault(method="GET", action=CutSending(0), times=None))
        with pytest.raises(RegistryUnreachableError):
            await read(client, Repository(registry.address, "a"), digest)


@pytest.mark.parametrize(
    ("headers", "size"),
    [({"Content-Length": "12"}, 12), ({}, SIZE_UNKNOWN), ({"Content-Length": "x"}, SIZE_UNKNOWN)],
)
async def test_the_size_in_the_answer_to_a_head(headers: dict[str, str], size: int) -> None:
    """A HEAD without a Content-Length is a blob of unknown size."""
    client, _ = recorded(lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"")))
    async with client:
        assert await client.head_blob(DEST, DIGEST) == size


@pytest.mark.parametrize(("status", "size"), [(200, 5), (404, None), (403, SIZE_UNKNOWN)])
async def test_a_head_that_is_sent_to_the_storage(status: int, size: int | None) -> None:
    """A blob exists if the registry redirects its HEAD, even if the storage refuses the HEAD."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == HOST:
            return httpx.Response(307, headers={"Location": "https://store.example.net/blob?sig=1"})
        return httpx.Response(status, headers={"Content-Length": "5"}, stream=httpx.ByteStream(b""))

    client, _ = recorded(handler)
    async with client:
        assert await client.head_blob(DEST, DIGEST) == size


@pytest.mark.parametrize("status", [400, 401, 403, 500])
async def test_a_head_that_is_refused(status: int) -> None:
    """Any status except 200 and 404 from the registry itself is an error."""
    client, _ = recorded(lambda _: httpx.Response(status))
    async with client:
        with pytest.raises(RegistryRefusedError) as caught:
            await client.head_blob(DEST, DIGEST)
        assert caught.value.status == status
        with pytest.raises(RegistryRefusedError):
            await client.head_manifest(TAGGED)


def answering(content: bytes, status: int = 200, /, **headers: str) -> RegistryClient:
    """Return a client of a registry that always answers the same."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(status, headers=named, stream=httpx.ByteStream(b""))
        return httpx.Response(status, headers=named, content=content)

    return recorded(handler)[0]


async def test_a_head_without_its_headers_is_asked_with_get() -> None:
    """If a manifest's HEAD lacks a recommended header, the manifest itself is fetched."""
    item = manifest(blob())
    async with answering(item.content) as client:
        assert await client.head_manifest(TAGGED) == item.descriptor
        by_digest = Reference(DEST, digest=item.descriptor.digest)
        assert await client.head_manifest(by_digest) == item.descriptor


async def test_a_head_for_a_digest_answered_with_another() -> None:
    """A HEAD by digest that is answered with another digest is an error."""
    headers = {"Docker_Content_Digest": DIGEST, "Content_Type": OCI_MANIFEST, "Content_Length": "9"}
    async with answering(b"", **headers) as client:
        with pytest.raises(InvalidAnswerError, match="answered for"):
            await client.head_manifest(Reference(DEST, digest=Digest.of(b"other")))


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"<html>", {"Content_Type": OCI_MANIFEST}),
        (b"{}", {"Content_Type": OCI_MANIFEST}),
        (manifest(blob()).content, {"Content_Type": OCI_MANIFEST, "Docker_Content_Digest": DIGEST}),
        (manifest(blob()).content, {"Docker_Content_Digest": "sha256:short"}),
        (manifest(blob()).content, {"Content_Type": "text/html"}),
    ],
)
async def test_a_manifest_that_is_none(content: bytes, headers: dict[str, str]) -> None:
    """Wrong digest, wrong type and bytes that are no manifest are invalid answers."""
    async with answering(content, **headers) as client:
        with pytest.raises(InvalidAnswerError):
            await client.get_manifest(TAGGED)


async def test_a_manifest_under_a_vague_type_is_read() -> None:
    """With Content-Type application/json the manifest's own mediaType is used."""
    item = manifest(blob())
    async with answering(item.content, Content_Type="application/json; charset=utf-8") as client:
        assert await client.get_manifest(TAGGED) == item


async def test_a_manifest_that_was_stored_as_another() -> None:
    """A stored digest that differs from ours is an error, unless it is of another algorithm."""
    item = manifest(blob())
    async with answering(b"", 201, Docker_Content_Digest=DIGEST) as client:
        with pytest.raises(InvalidAnswerError, match="stored"):
            await client.put_manifest(TAGGED, item)
    async with answering(b"", 201, Docker_Content_Digest=Digest.of(b"x", algorithm="sha512")) as client:
        assert await client.put_manifest(TAGGED, item) == item.descriptor.digest
    async with answering(b"", 201) as client:
        assert await client.put_manifest(TAGGED, item) == item.descriptor.digest


async def test_a_web_page_is_no_registry() -> None:
    """A web page in answer to a ping or a manifest's GET is called a web page in the error."""
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        registry.play(Fault(action=html(200), times=None))
        with pytest.raises(InvalidAnswerError):
            await client.get_manifest(Reference(Repository(registry.address, "a"), tag="t"))
    async with answering(b"<html>", Content_Type="text/html") as client:
        with pytest.raises(InvalidAnswerError, match="is this a registry"):
            await client.ping()
    async with answering(b"<html>", 404, Content_Type="text/html") as client:
        with pytest.raises(InvalidAnswerError, match="a registry"):
            await client.ping()


async def test_a_ping_with_a_strange_realm() -> None:
    """A realm that is no URL has no host in the result of `ping`."""
    for realm in ("https://x:y/", "nonsense"):
        async with answering(b"", 401, WWW_Authenticate=f'Bearer realm="{realm}"') as client:
            assert (await client.ping()).realm_host is None


async def test_lists_come_page_by_page() -> None:
    """The pages of a list are followed by their Link headers to the last one."""
    async with ScriptedRegistry(RegistryOptions(page_size=2)) as registry, client_of(registry.address) as client:
        item = manifest(blob())
        registry.put_blob("team/app", DATA)
        repository = Repository(registry.address, "team/app")
        for number in range(5):
            await client.put_manifest(Reference(repository, tag=f"v{number}"), item)
        assert [tag async for tag in client.list_tags(repository)] == [f"v{number}" for number in range(5)]
        assert len(registry.matching(path="*/tags/list")) == 3
        assert [name async for name in client.catalog()] == ["team/app"]


async def test_an_invalid_name_is_not_listed() -> None:
    """Invalid names and items that are no strings are skipped; null is an empty list."""
    listed: list[Any] = ["ok", "../x", 7, "", "UPPER", "a b"]
    async with answering(json.dumps({"tags": listed}).encode()) as client:
        assert [tag async for tag in client.list_tags(DEST)] == ["ok", "UPPER"]
    async with answering(json.dumps({"repositories": listed}).encode()) as client:
        assert [name async for name in client.catalog()] == ["ok"]
    async with answering(b'{"name": "x", "tags": null}') as client:
        assert [tag async for tag in client.list_tags(DEST)] == []


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"tags": "x"}', b"[" * 100_000])
async def test_a_list_that_is_none(content: bytes) -> None:
    """Anything except a JSON list is an invalid answer."""
    async with answering(content) as client:
        with pytest.raises(InvalidAnswerError, match="JSON list of tags"):
            [tag async for tag in client.list_tags(DEST)]


async def test_pages_that_lead_to_themselves_end() -> None:
    """A Link to the same page is an error, and so is a page that is refused."""
    link = f'<https://{HOST}/v2/team/app/tags/list>; rel="next"'
    async with answering(b'{"tags": ["x"]}', Link=link) as client:
        with pytest.raises(InvalidAnswerError, match="do not end"):
            [tag async for tag in client.list_tags(DEST)]
    async with answering(b"{}", 401) as client:
        with pytest.raises(RegistryRefusedError):
            [name async for name in client.catalog()]


async def test_pages_that_lead_in_a_circle_end() -> None:
    """A Link to an earlier page is an error, after each page was requested once."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert len(sent.requests) <= 3
        following = {"": "one", "last=one": "two", "last=two": "one"}[request.url.query.decode()]
        link = f'</v2/team/app/tags/list?last={following}>; rel="next"'
        return httpx.Response(200, headers={"Link": link}, content=b'{"tags": ["x"]}')

    client, sent = recorded(answer)
    async with client:
        with pytest.raises(InvalidAnswerError, match="do not end"):
            [tag async for tag in client.list_tags(DEST)]
    assert len(sent.requests) == 3


async def test_a_manifest_may_have_4_mib_and_no_more() -> None:
    """A manifest of 4 MiB is read, and a larger one is an error."""
    item = manifest(blob())
    padded = item.content[:-1] + b" " * (MANIFEST_BYTES_MAX - len(item.content)) + b"}"
    async with answering(padded) as client:
        assert (await client.get_manifest(TAGGED)).descriptor.size == MANIFEST_BYTES_MAX
    async with ScriptedRegistry() as registry, client_of(registry.address) as client:
        registry.play(Fault(action=Reply(status=200, body=padded + b" ", media_type=OCI_MANIFEST)))
        with pytest.raises(InvalidAnswerError, match="more than 4194304 bytes"):
            await client.get_manifest(Reference(Repository(registry.address, "a"), tag="t"))
