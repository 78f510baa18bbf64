"""Text in place of digests, repositories and references; and what is none of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import crossmount
from crossmount import ClientOptions, Digest, InvalidInputError, MemoryMountIndex, Repository, Sighting
from crossmount import asyncio as aio
from crossmount.testing import running_registry
from support.servers import Server

LAYER = Digest.of(b"layer")
HOLDER, OTHER = Repository("r.example", "team/app"), Repository("r.example", "team/other")
NO_DIGESTS = ("nope", "sha256:123", "md5:" + "0" * 32, "", None, 7, b"sha256:" + b"0" * 64, Path("a"))
NO_PLACES = ("", "Upper/Case!", None, 7, b"r.example/a", object())


@pytest.fixture(params=["memory", "redis", "guarded", "over another"])
def index(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each of the blocking indexes."""
    if request.param == "redis":
        server: Server = request.getfixturevalue("valkey")
        with crossmount.open_index(server.unix_url) as opened:
            yield opened
    elif request.param == "guarded":
        yield crossmount.GuardedIndex(MemoryMountIndex())
    else:
        yield MemoryMountIndex(MemoryMountIndex() if request.param == "over another" else None)


def test_text_is_taken_as_what_it_means(index: Any) -> None:
    """Each method of an index takes a digest and a repository as text."""
    index.add_source(str(LAYER), str(HOLDER), must_mount=True)
    index.record([Sighting(str(LAYER), "r.example/team/app", 7)])  # type: ignore[arg-type]  # text, at run time
    assert index.sources(str(LAYER), str(OTHER)) == (HOLDER,)
    assert index.is_mountable(str(LAYER), str(OTHER))
    assert index.must_mount(str(LAYER))
    assert index.locations(str(LAYER)) == (HOLDER,)
    known = index.look_up([str(LAYER)], str(OTHER)).of(LAYER)
    assert (known.sources, known.size) == ((HOLDER,), 7)
    index.clear_must_mount(str(LAYER))
    index.forget(str(LAYER), str(HOLDER))
    assert index.locations(LAYER) == ()


@pytest.mark.parametrize("bad", NO_DIGESTS)
def test_what_is_no_digest_is_refused(index: Any, bad: Any) -> None:
    """No method answers for a digest that is none, or records it."""
    calls: tuple[Callable[[], object], ...] = (
        lambda: index.add_source(bad, HOLDER),
        lambda: index.sources(bad, OTHER),
        lambda: index.is_mountable(bad, OTHER),
        lambda: index.look_up([bad], OTHER),
        lambda: index.must_mount(bad),
        lambda: index.clear_must_mount(bad),
        lambda: index.locations(bad),
        lambda: index.forget(bad, HOLDER),
        lambda: index.record([Sighting(bad, HOLDER)]),
    )
    for call in calls:
        with pytest.raises(InvalidInputError, match="give"):
            call()


@pytest.mark.parametrize("bad", NO_PLACES)
def test_what_is_no_repository_is_refused(index: Any, bad: Any) -> None:
    """No method answers for a place that is none, or records it."""
    calls: tuple[Callable[[], object], ...] = (
        lambda: index.add_source(LAYER, bad),
        lambda: index.sources(LAYER, bad),
        lambda: index.is_mountable(LAYER, bad),
        lambda: index.look_up([LAYER], bad),
        lambda: index.forget(LAYER, bad),
        lambda: index.record([Sighting(LAYER, bad)]),
        lambda: index.record_traits(bad, crossmount.RegistryTraits(mounts=True)),
    )
    for call in calls:
        with pytest.raises(InvalidInputError):
            call()


def test_a_client_takes_text_too() -> None:
    """The methods of a registry client take repositories, references and digests as text."""
    with running_registry() as registry:
        digest, name = registry.put_blob("team/app", b"some bytes"), f"{registry.address}/team/app"
        options = ClientOptions(plain_http=True)
        with crossmount.RegistryClient(registry.address, options=options) as client:
            assert client.head_blob(name, str(digest)) == 10
            assert b"".join(client.stream_blob(name, str(digest))) == b"some bytes"
            assert list(client.list_tags(name)) == []
            assert client.head_manifest(f"{name}:1") is None
            to = f"{registry.address}/team/new"
            client.mount_blob(to, str(digest), name)
            assert client.head_blob(to, digest) == 10
            client.cancel_upload(client.start_upload(name))
            index = MemoryMountIndex()
            index.add_source(str(digest), name)
            with crossmount.Mounter(client, index) as mounter:
                third = f"{registry.address}/team/third"
                assert mounter.mount(str(digest), third).status is crossmount.MountStatus.MOUNTED


@pytest.mark.parametrize("bad", [None, 7, b"r.example/a:1", object()])
async def test_functions_refuse_other_kinds(bad: Any, tmp_path: Path) -> None:
    """A wrong kind is refused by every function, with what to give, before anything is sent."""
    index = aio.MemoryMountIndex()
    for call in (
        lambda: aio.push(tmp_path, bad),
        lambda: aio.push(bad, "r.example/a:1"),
        lambda: aio.copy(bad, "r.example/a"),
        lambda: aio.copy("r.example/a:1", bad),
        lambda: aio.scan(bad, index=index),
        lambda: aio.locality(bad, ["r.example"], index=index),
        lambda: aio.Mounter(aio.RegistryClient("r.example"), index).mount(LAYER, bad),
        lambda: aio.RegistryClient("r.example").head_blob(bad, LAYER),
        lambda: aio.RegistryClient("r.example").get_manifest(bad),
    ):
        with pytest.raises(InvalidInputError, match="give"):
            await call()
    for make in (aio.RegistryClient, lambda registry: aio.EventFeed(registry, index)):
        with pytest.raises(InvalidInputError, match="give"):
            make(bad)
