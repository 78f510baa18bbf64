"""URLs of a Cluster that name dead servers, no Cluster, or a wrong login."""

import pytest

from crossmount._blocking import run_now
from crossmount.errors import IndexRefusedError, IndexUnavailableError
from crossmount.index import open_index
from support.cluster import Cluster, another, slot
from support.index_kit import layer, repo
from support.links import async_link, blocking_link
from support.servers import Server

A, DEST = repo("team/a"), repo("team/dest")
ONE = layer(1)

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


async def test_a_dead_seed_is_passed_over(cluster: Cluster, closed_port: int) -> None:
    """A dead server in the URL is skipped, whether it is named first or last."""
    for url in (
        cluster.url.replace("127.0.0.1:", f"127.0.0.1:{closed_port},127.0.0.1:", 1),
        f"{cluster.url},127.0.0.1:{closed_port}",
    ):
        async with open_index(url) as index:
            assert await index.sources(ONE, DEST) == ()


@both
async def test_no_server_at_all(flavour: str, closed_port: int) -> None:
    """If no server of the URL answers, the index is unavailable, and the error names the servers."""
    url = f"redis+cluster://u:hunter2secret@127.0.0.1:{closed_port}"
    link = async_link(url) if flavour == "async" else blocking_link(url)
    with pytest.raises(IndexUnavailableError, match=r"redis\+cluster://127\.0\.0\.1") as caught:
        await link.run([("PING",)]) if flavour == "async" else run_now(link.run([("PING",)]))
    assert "hunter2secret" not in str(caught.value)
    with pytest.raises(IndexUnavailableError):
        await link.servers() if flavour == "async" else run_now(link.servers())
    await link.aclose()


@both
async def test_a_server_that_is_no_cluster_is_told(valkey: Server, flavour: str) -> None:
    """A single server is refused, and the error names the scheme to use."""
    url = valkey.url.replace("redis://", "redis+cluster://")
    link = async_link(url) if flavour == "async" else blocking_link(url)
    with pytest.raises(IndexRefusedError, match="disabled: if it is no Cluster, give a redis:// URL"):
        await link.run([("PING",)]) if flavour == "async" else run_now(link.run([("PING",)]))
    await link.aclose()


async def test_a_part_of_a_cluster_behind_a_single_url_is_told(cluster: Cluster) -> None:
    """A server of a Cluster refuses keys of other servers, and the error names the scheme to use."""
    port = another(cluster, cluster.owner_of(slot(ONE))).port
    async with open_index(f"redis://127.0.0.1:{port}") as index:
        with pytest.raises(IndexRefusedError, match=r"give a redis\+cluster:// URL"):
            await index.add_source(ONE, A)


@both
async def test_a_wrong_password_is_told(cluster: Cluster, flavour: str) -> None:
    """A wrong password is a refusal at once, whose message does not contain it."""
    url = cluster.url.replace("a%20pass", "hunter2secret")
    link = async_link(url) if flavour == "async" else blocking_link(url)
    with pytest.raises(IndexRefusedError, match="invalid username-password") as caught:
        await link.run([("PING",)]) if flavour == "async" else run_now(link.run([("PING",)]))
    assert "hunter2secret" not in str(caught.value)
    await link.aclose()
