"""The address of an index, as values: servers, login, TLS. `crossmount.redis.url` reads it from a URL."""

from dataclasses import field
from pathlib import Path
from typing import Literal

from crossmount._dataclass import dataclass

Node = tuple[str, int]
"""Host and port of a server."""

Topology = Literal["server", "socket", "cluster", "sentinel", "memory", "embedded"]

ReadFrom = Literal["master", "replica", "nearest"]

SCHEMES: dict[str, Topology] = {
    "redis": "server",
    "rediss": "server",
    "unix": "socket",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "memory": "memory",
    "embedded": "embedded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """User name and password, each as text or as a file that contains it."""

    username: str = ""
    password: str = field(default="", repr=False)
    username_file: Path | None = None
    password_file: Path | None = None

    @property
    def given(self) -> bool:
        """Whether there is a name or a password."""
        return self != NO_LOGIN


NO_LOGIN = Login()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The certificates of both sides.

    Attributes:
        ca_file: the trusted authorities (PEM); None means the system's.
        cert_file: our certificate (PEM), for servers that ask for one.
        key_file: its key (PEM); None means that `cert_file` contains it.
        check_hostname: whether the server's certificate must be for its host name.
        check_certificate: whether it must come from a trusted authority.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    check_hostname: bool = True
    check_certificate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The address of an index.

    Attributes:
        scheme: the scheme of its URL.
        nodes: the server, some servers of a Cluster, or the sentinels.
        path: the path of the unix socket.
        service: the name that sentinels have for the master.
        database: the number of the database.
        login: the login for the servers.
        sentinel_login: the login for the sentinels, which never get the other one.
        tls: None without TLS.
        client_name: the name of our connections (CLIENT SETNAME).
        read_from: who answers look-ups: masters, replicas, or the server with the shortest round trip.
        prefer: a part of the host names of the servers that `nearest` asks first; empty without a preference.
    """

    scheme: str
    nodes: tuple[Node, ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    login: Login = NO_LOGIN
    sentinel_login: Login = NO_LOGIN
    tls: Tls | None = None
    client_name: str = ""
    read_from: ReadFrom = "master"
    prefer: str = ""

    @property
    def topology(self) -> Topology:
        """The kind of the servers; `memory` and `embedded` need no address."""
        return SCHEMES[self.scheme]

    @property
    def is_remote(self) -> bool:
        """Whether the index is on servers that somebody else runs."""
        return self.topology not in {"memory", "embedded"}

    @property
    def reads_apart(self) -> bool:
        """Whether look-ups may have other servers than the rest."""
        return self.read_from != "master"

    @property
    def where(self) -> str:
        """The address for messages, with nothing in it that could be secret."""
        if self.topology in {"memory", "embedded"}:
            return f"{self.scheme}:"
        place = self.path if self.topology == "socket" else ",".join(_host_and_port(*node) for node in self.nodes)
        return f"{self.scheme}://{place}" + (f"/{self.service}" if self.service else "")

    @property
    def shown(self) -> str:
        """The address for people, with the number of the database."""
        return f"{self.where}/{self.database}" if self.topology == "server" else self.where


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
