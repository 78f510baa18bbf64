"""A master and two replicas under three sentinels that tests can kill, pause, fail over and repair."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from support.servers import Server, starting
from support.several import Several, holds, role_of, until

SERVICE = "main"
QUICK_MS, NEVER_MS = 500, 600_000
"""After how long a silent server counts as down: where a failover is wanted, and otherwise."""

_QUORUM = 2


@dataclass(slots=True, eq=False)
class Sentinels(Several):
    """Servers under Sentinel.

    Attributes:
        servers: the master and its replicas; which one is the master changes.
        sentinels: the sentinels that watch them.
        auth: how the sentinels log in.
    """

    servers: list[Server]
    sentinels: list[Server]
    auth: tuple[str, str] | None = None

    def _url(self, login: str) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{login}{hosts}/{SERVICE}"

    def client(self) -> "redis.Redis":
        """Return a redis-py client of the master."""
        return self.master().client()

    def master(self) -> Server:
        """Return the server that the sentinels call the master."""
        _, port = self.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def replicas(self) -> list[Server]:
        """Return the servers that are not the master."""
        master = self.master()
        return [server for server in self.servers if server is not master]

    def ask(self, *command: str | int) -> Any:
        """Ask the first sentinel that runs."""
        return next(sentinel for sentinel in self.sentinels if sentinel.running).ask(*command)

    def flush(self) -> None:
        """Repair it, and delete all keys and scripts."""
        self.heal()
        self.master().flush()

    def heal(self) -> None:
        """Restart or resume every server, forbid failovers, and recreate all if that is not enough."""
        for server in (*self.servers, *self.sentinels):
            server.revive()
        if not holds(self._quiet):
            self.begin()

    def allow_failovers(self) -> None:
        """Let the sentinels replace a master that fails, until `heal`: else only `fail_over` makes them do it."""
        self._down_after(QUICK_MS)

    def _quiet(self) -> bool:
        """Forbid failovers, so that none can end later, then return whether the setup is whole."""
        self._down_after(NEVER_MS)
        return self.whole()

    def _down_after(self, milliseconds: int) -> None:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                client.sentinel_set(SERVICE, "down-after-milliseconds", milliseconds)

    def begin(self) -> None:
        """Make the first server the master, and wait until the sentinels know all servers."""
        master, *replicas = self.servers
        self.forget()
        with master.client() as client:
            client.replicaof("NO", "ONE")
        for replica in replicas:
            with replica.client() as client:
                client.replicaof("127.0.0.1", master.port)
        # sentinels ask a new master for its replicas at once, and then only every ten seconds
        until(lambda: _in_step(master), "the replicas do not follow")
        self.watch(master)
        until(self.whole, "the sentinels do not find each other and the replicas")

    def forget(self) -> None:
        """Stop the sentinels from watching: they would undo changes of the roles."""
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                if SERVICE in client.sentinel_masters():
                    client.sentinel_remove(SERVICE)

    def watch(self, master: Server) -> None:
        """Let the sentinels watch a master and its replicas."""
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                client.sentinel_monitor(SERVICE, "127.0.0.1", master.port, _QUORUM)
                client.sentinel_set(SERVICE, "down-after-milliseconds", NEVER_MS)
                client.sentinel_set(SERVICE, "failover-timeout", 10_000)
                if self.auth is not None:
                    client.sentinel_set(SERVICE, "auth-user", self.auth[0])
                    client.sentinel_set(SERVICE, "auth-pass", self.auth[1])

    def whole(self) -> bool:
        """Return whether the sentinels name the same master, with two replicas in sync."""
        addresses = set()
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                state = client.sentinel_master(SERVICE)
                addresses.add((state["ip"], state["port"]))
                if state["flags"] != "master" or state["num-slaves"] < 2 or state["num-other-sentinels"] < 2:
                    return False
        return len(addresses) == 1 and _in_step(self.master())

    def fail_over(self) -> Server:
        """Let the sentinels promote a replica, and return it once it is the master."""
        before = self.master()
        self.ask("SENTINEL FAILOVER", SERVICE)
        until(lambda: self.master() is not before and role_of(self.master()) == "master", "no failover")
        return self.master()


def _in_step(master: Server) -> bool:
    """Return whether a server is a master with two replicas in sync."""
    with master.client() as client:
        found = client.info("replication")
    return found["role"] == "master" and all(found.get(f"slave{i}", {}).get("state") == "online" for i in (0, 1))


@contextmanager
def run_sentinels(
    binary: Path, *options: str, login: str = "", operator: str = "", auth: tuple[str, str] | None = None
) -> Iterator[Sentinels]:
    """Run a master, two replicas and three sentinels; `options` are each server's."""
    common = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *options)
    with starting() as start_one:
        servers = [start_one(binary, *common) for _ in range(3)]
        sentinels = []
        for server in servers:
            path = server.folder / "sentinel.conf"
            path.write_text("bind 127.0.0.1\n")
            sentinels.append(start_one(binary, settings=(str(path), "--sentinel")))
        made = Sentinels(servers, sentinels, auth, login=login, operator=operator)
        made.begin()
        yield made
