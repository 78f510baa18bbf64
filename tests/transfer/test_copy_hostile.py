"""Copies of hostile images, and with a hostile index."""

import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from crossmount.errors import CopyFailedError, InvalidAnswerError, RegistryUnreachableError
from crossmount.index import MemoryMountIndex, Sighting
from crossmount.oci import Digest, Repository
from crossmount.oci.descriptor import OCI_INDEX
from crossmount.testing import Alter, Fault, RegistryOptions, Reply, ScriptedRegistry
from crossmount.transfer import remote_image
from crossmount.transfer.copy import copy
from crossmount.transfer.image_pusher import Limits
from crossmount.transfer.origins import Origins, RegistryOrigin
from crossmount.transfer.registries import Registries
from crossmount.transfer.report import CopyReport
from support.certificates import self_signed
from support.copies import OPTIONS
from support.holdings import put_document, put_image, put_index
from support.registry_kit import blob, recorded


@pytest.fixture
async def a() -> AsyncIterator[ScriptedRegistry]:
    """A registry to copy from."""
    async with ScriptedRegistry() as registry:
        yield registry


async def refused(a: ScriptedRegistry, b: ScriptedRegistry) -> InvalidAnswerError:
    """Copy app:1, which must fail, and return the error."""
    with pytest.raises(CopyFailedError) as raised:
        await copied(a, b)
    error = raised.value.report.failures[0].error
    assert isinstance(error, InvalidAnswerError)
    assert b.requests == []
    return error


async def copied(a: ScriptedRegistry, b: ScriptedRegistry) -> CopyReport:
    """Copy app:1."""
    return await copy(f"{a.address}/app:1", f"{b.address}/app", options=OPTIONS)


async def test_an_index_whose_children_are_a_chain_is_refused(a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """The longest way down counts as depth, also if the top index names every member of a chain."""
    links = [put_image(a, "app", None, [b"layer"])]
    for _ in range(30):
        links.append(put_index(a, "app", None, [links[-1]]))
    put_index(a, "app", "1", links[::-1])
    assert "an index in more than 4 others" in str(await refused(a, b))


async def test_manifests_are_bounded_by_their_bytes_too(
    a: ScriptedRegistry, b: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total size of an image's manifests is limited: 1,000 manifests of 4 MiB would not fit into memory."""
    monkeypatch.setattr(remote_image, "BYTES_MAX", 100_000)

    def padded(number: int) -> Digest:
        document = {"schemaVersion": 2, "manifests": [], "annotations": {"x": f"{number}" * 30_000}}
        return put_document(a, "app", None, document, OCI_INDEX)

    put_index(a, "app", "1", [padded(number) for number in range(60)])
    assert "more than 100000 bytes" in str(await refused(a, b))
    assert len(a.matching(path="*/manifests/*")) < 50


LAYERS = [bytes([number]) * 100_000 for number in range(1, 5)]


@pytest.mark.parametrize("action", [Alter(corrupt=True), Reply(status=500)], ids=["wrong", "broken"])
async def test_a_failing_registry_of_the_index_is_not_asked_again(
    b: ScriptedRegistry, tmp_path: Path, action: Alter | Reply
) -> None:
    """A registry that sent wrong bytes, or none, is not asked again, so that a hostile hint costs little."""
    context, authority = self_signed(tmp_path)
    options = replace(OPTIONS, ca_file=authority)
    index = MemoryMountIndex()
    async with (
        ScriptedRegistry(RegistryOptions(latency=0.5)) as far,  # so that the other one is nearer on a busy machine
        ScriptedRegistry(tls=context) as hint,
        Registries(options) as registries,
    ):
        put_image(far, "app", "1", LAYERS)
        hint.play(Fault(method="GET", path="*/blobs/*", action=action, times=None))
        for name in ("one", "two"):
            for layer in LAYERS:
                held = Sighting(hint.put_blob(name, layer), Repository(hint.address, name), len(layer))
                await index.record([held])
        source, dest = f"{far.address}/app:1", f"{b.address}/app"
        await copy(source, dest, index=index, registries=registries, limits=Limits(uploads=1))
        assert 1 <= len(hint.matching(method="GET", path="*/blobs/*")) <= 2 * OPTIONS.retry_policy.attempts
    assert "1" in b.holdings.find("app").tags


async def test_a_slow_registry_of_the_index_is_abandoned() -> None:
    """A slow registry that only the index names is abandoned; one that the user named may be slow."""
    item = blob(bytes(10_000))

    async def drip() -> AsyncGenerator[bytes]:
        for start in range(10_000):
            yield bytes(10_000)[start : start + 1]

    def answer(request: httpx.Request) -> httpx.Response:
        del request
        return httpx.Response(200, headers={"Content-Length": "10000"}, content=drip())

    client, _ = recorded(answer, "slow.example")
    repository = Repository("slow.example", "app")
    async with client, Registries(OPTIONS, clock=itertools.count(step=0.5).__next__) as registries:
        origin = RegistryOrigin(repository, client, Origins(registries=registries, index=MemoryMountIndex()))
        with pytest.raises(RegistryUnreachableError, match=r"slow\.example/app: .* too slowly"):
            [part async for part in origin.read(item.descriptor, 0)]
        registries.name("slow.example")
        assert b"".join([part async for part in origin.read(item.descriptor, 0)]) == bytes(10_000)
