"""Every kind of server for an index: one server, behind TLS, with an access list, a Cluster, under Sentinel.

Each worker has one of each; it starts on first use, and is repaired and emptied before each test.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from support import acl
from support.certificates import Authority, Issued
from support.cluster import Cluster, run_cluster
from support.sentinels import Sentinels, run_sentinels
from support.servers import Server, run_server
from support.terminator import terminated


class Place(Protocol):
    """A server, or several, for an index."""

    @property
    def url(self) -> str:
        """The URL for pushers."""
        ...

    @property
    def operator_url(self) -> str:
        """The URL for an operator, who may read all keys."""
        ...

    def client(self) -> Any:
        """Return a redis-py client with all rights; a context manager."""
        ...

    def flush(self) -> None:
        """Empty it."""
        ...


@dataclass(frozen=True, slots=True)
class Fronted:
    """A server with another URL than its own.

    Attributes:
        url: the URL for pushers.
        operator_url: the URL for an operator.
        server: the server itself.
    """

    url: str
    operator_url: str
    server: Server

    def client(self) -> Any:
        """See `Place`."""
        return self.server.client()

    def flush(self) -> None:
        """See `Place`."""
        self.server.flush()


@dataclass(frozen=True, slots=True)
class Secured(Fronted):
    """A server behind TLS that requires client certificates.

    Attributes:
        authority: the issuer of the server's and the clients' certificates.
        port: the port to connect to.
    """

    authority: Authority
    client_certificate: Issued
    port: int


@pytest.fixture(scope="session")
def acl_users(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Return the options of a server with the users of deploy/redis."""
    return acl.write_users(tmp_path_factory.mktemp("users"))


@pytest.fixture(scope="session")
def acl_process(valkey_binary: Path, acl_users: tuple[str, ...]) -> Iterator[Fronted]:
    """Run this worker's server with the users of deploy/redis; tests use `restricted`."""
    with run_server(valkey_binary, *acl_users) as server:
        place = f"127.0.0.1:{server.port}"
        yield Fronted(f"redis://{acl.LOGIN}{place}", f"redis://{acl.OPERATOR}{place}", server)


@pytest.fixture(scope="session")
def tls_process(valkey_process: Server) -> Iterator[Secured]:
    """Run TLS in front of this worker's Valkey; tests use `secured`."""
    with tempfile.TemporaryDirectory(prefix="cm-tls-") as folder:
        authority = Authority(Path(folder))
        client = authority.issue("client")
        with terminated(valkey_process.socket, authority, authority.issue("server")) as port:
            files = f"ca_file={authority.file}&cert_file={client.certificate}&key_file={client.key}"
            url = f"rediss://127.0.0.1:{port}?{files}"
            yield Secured(url, url, valkey_process, authority, client, port)


@pytest.fixture(scope="session")
def cluster_processes(valkey_binary: Path, acl_users: tuple[str, ...]) -> Iterator[Cluster]:
    """Run this worker's Cluster, with the users of deploy/redis; tests use `cluster`."""
    users = (*acl_users, *acl.REPLICATION)
    with run_cluster(valkey_binary, *users, login=acl.LOGIN, operator=acl.OPERATOR) as made:
        yield made


@pytest.fixture(scope="session")
def sentinel_processes(valkey_binary: Path, acl_users: tuple[str, ...]) -> Iterator[Sentinels]:
    """Run this worker's servers under Sentinel, with the users of deploy/redis; tests use `sentinels`."""
    users = (*acl_users, *acl.REPLICATION)
    with run_sentinels(valkey_binary, *users, login=acl.LOGIN, operator=acl.OPERATOR, auth=acl.SENTINEL) as made:
        yield made


@pytest.fixture
def restricted(acl_process: Fronted) -> Fronted:
    """Return an empty server whose user has the rights of the access list in deploy/redis."""
    acl_process.flush()
    return acl_process


@pytest.fixture
def secured(tls_process: Secured) -> Secured:
    """Return an empty server behind TLS."""
    tls_process.flush()
    return tls_process


@pytest.fixture
def cluster(cluster_processes: Cluster) -> Cluster:
    """Return an empty, intact Cluster of three masters and three replicas."""
    cluster_processes.flush()
    return cluster_processes


@pytest.fixture
def sentinels(sentinel_processes: Sentinels) -> Sentinels:
    """Return an empty, intact master with two replicas and three sentinels."""
    sentinel_processes.flush()
    return sentinel_processes


PLACES = ("valkey", "redis7", "restricted", "secured", "cluster", "sentinels")


@pytest.fixture(params=PLACES)
def any_place(request: pytest.FixtureRequest) -> Place:
    """Return each kind of server in turn, empty."""
    found: Place = request.getfixturevalue(request.param)
    return found
