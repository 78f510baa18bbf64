"""Copies of images that somebody made to do harm, and by an index that somebody wrote to do harm."""

from collections.abc import AsyncIterator

import pytest

from crossmount.errors import CopyFailedError, InvalidAnswerError
from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_INDEX
from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.testing import ScriptedRegistry
from crossmount.transfer import CopyReport, copy, remote
from support.holdings import put_document, put_image, put_index

OPTIONS = ClientOptions(plain_http=True, retry=RetryPolicy(attempts=2, first_wait=0.01, longest_wait=0.02))


@pytest.fixture
async def a() -> AsyncIterator[ScriptedRegistry]:
    """A registry to copy from."""
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def b() -> AsyncIterator[ScriptedRegistry]:
    """An empty registry."""
    async with ScriptedRegistry() as registry:
        yield registry


async def refused(a: ScriptedRegistry, b: ScriptedRegistry) -> InvalidAnswerError:
    """Copy app:1 in vain, and return why."""
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
    """Depth counts by the longest way down: naming all of a chain at its top does not make it flat."""
    links = [put_image(a, "app", None, [b"layer"])]
    for _ in range(30):
        links.append(put_index(a, "app", None, [links[-1]]))
    put_index(a, "app", "1", links[::-1])
    assert "an index in more than 4 others" in str(await refused(a, b))


async def test_manifests_are_bounded_by_their_bytes_too(
    a: ScriptedRegistry, b: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand manifests of 4 MiB each would be one image, and more than there is memory."""
    monkeypatch.setattr(remote, "BYTES_MAX", 100_000)

    def padded(number: int) -> Digest:
        document = {"schemaVersion": 2, "manifests": [], "annotations": {"x": f"{number}" * 30_000}}
        return put_document(a, "app", None, document, OCI_INDEX)

    put_index(a, "app", "1", [padded(number) for number in range(60)])
    assert "more than 100000 bytes" in str(await refused(a, b))
    assert len(a.matching(path="*/manifests/*")) < 50
