"""Where an index's servers are and how to log in there: what an index URL says, as values."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Node = tuple[str, int]
"""Host and port of a server."""

Topology = Literal["server", "socket", "cluster", "sentinel", "memory", "embedded"]

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
    """Name and password, each as words or as a file that holds it; files are read anew for each connection."""

    username: str = ""
    password: str = field(default="", repr=False)
    username_file: Path | None = None
    password_file: Path | None = None

    @property
    def given(self) -> bool:
        """Whether there is anything to log in with."""
        return self != NO_LOGIN


NO_LOGIN = Login()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How servers prove who they are, and how we do.

    Attributes:
        ca_file: the authorities to trust (PEM); None is the system's.
        cert_file: our certificate (PEM), for servers that ask for one.
        key_file: its key; None is in `cert_file`.
        check_hostname: whether a certificate must be for the name that was asked for.
        check_certificate: whether it must come from an authority that is trusted.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    check_hostname: bool = True
    check_certificate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What an index URL names.

    Attributes:
        scheme: as in the URL.
        nodes: the server; for a Cluster some of its servers, for Sentinel its sentinels.
        path: the unix socket.
        service: the name under which sentinels know the master.
        database: the database's number.
        login: for the index's servers.
        sentinel_login: for the sentinels, which are given no other.
        tls: None without TLS.
        client_name: what the server is told that we are.
        from_replicas: whether look-ups may be answered by replicas.
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
    from_replicas: bool = False

    @property
    def topology(self) -> Topology:
        """The kind of the servers; `memory` and `embedded` need no address."""
        return SCHEMES[self.scheme]

    @property
    def is_remote(self) -> bool:
        """Whether the index is on servers that somebody else runs."""
        return self.topology not in {"memory", "embedded"}

    @property
    def where(self) -> str:
        """The address for messages, with nothing in it that could be secret."""
        if self.topology in {"memory", "embedded"}:
            return f"{self.scheme}:"
        place = self.path if self.topology == "socket" else ",".join(_host_and_port(*node) for node in self.nodes)
        return f"{self.scheme}://{place}" + (f"/{self.service}" if self.service else "")

    @property
    def shown(self) -> str:
        """The same for people, with the database's number."""
        return f"{self.where}/{self.database}" if self.topology == "server" else self.where


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
