import os
import signal
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import redis
from crossmount.cli.access import display_url, probe_server
from crossmount.index import RedisMountIndex, open_index
from crossmount.redis.url import parse_url
from support.commands import Here, Shell
from support.places import Place, Secured
from support.servers import Server, StartServer

LAYER = "sha256:" + "a" * 64


class Web(socketserver.BaseRequestHandler):
    """A server that answers in http to anything."""

    def handle(self) -> None:
        """Read a little, refuse, and wait until the client disconnects."""
        self.request.recv(1024)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        while self.request.recv(1024):
            pass


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a server that speaks http."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_asking_does_not_start_the_embedded_index(here: Here, shell: Shell) -> None:
    """`index status` does not start the embedded index or create a file."""
    done = here("index", "status")
    assert done.status == 0
    assert done.out.splitlines()[0] == "embedded index: not running, the next command that needs it starts it"
    document = here("index", "status", "--json").document
    assert document.pop("running") is False
    assert document.pop("index") == "embedded"
    assert Path(document.pop("folder")).is_relative_to(shell.folder)
    assert set(document.values()) == {None}
    assert {"uptime_seconds", "layers", "memory_bytes", "memory_bound_bytes", "saved_at"} < set(document)
    assert not (shell.folder / "state").exists()


def test_the_embedded_index_starts_when_it_is_needed_and_stops_on_request(here: Here, shell: Shell) -> None:
    """The embedded index starts on first use, can be stopped, and has its data again after the next start."""
    assert here("add", LAYER, "r.example/a").status == 0
    document = here("index", "status", "--json").document
    assert document["running"] is True
    assert document["layers"] == 1
    assert Path(document["folder"]).is_relative_to(shell.folder)
    assert 0 < document["memory_bytes"] < document["memory_bound_bytes"]
    os.kill(document["pid"], 0)
    words = here("index", "status").out
    assert words.startswith("embedded index: running\n")
    for part in (f"process {document['pid']}", document["server"], "layers   1 in all namespaces", "written 0."):
        assert part in words
    assert here("index", "stop").out == "embedded index: stopped\n"
    assert here("index", "stop").out == "embedded index: it was not running\n"
    assert here("index", "stop", "--json").document == {"index": "embedded", "stopped": False}
    assert here("locate", LAYER).out == "r.example/a\n"
    assert here("index", "stop", "--json").document == {"index": "embedded", "stopped": True}


def test_a_silent_embedded_index_is_reported_and_can_be_ended(here: Here) -> None:
    """An embedded index that hangs is a failure that says how to end it."""
    here("add", LAYER, "r.example/a")
    pid = here("index", "status", "--json").document["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = here("index", "status")
        assert done.status == 1
        assert "crossmount index stop" in done.complaint
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_folder_that_others_may_write_is_refused(here: Here, shell: Shell) -> None:
    """A folder that other users may write is refused, since they could replace the socket."""
    folder = shell.folder / "state" / "embedded"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    done = here("index", "status")
    folder.chmod(0o700)
    assert done.status == 1
    assert "others may write" in done.complaint


def test_a_remote_index_is_reached_and_its_distance_shown(here: Here, redis_server: Server) -> None:
    """For a remote index the output has the name, version and round trip of its server."""
    done = here("index", "status", "--index", redis_server.url)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == f"index: redis://127.0.0.1:{redis_server.port}/0 answers"
    assert any(name in lines[1] for name in ("valkey", "redis 7"))
    document = here("index", "status", "--index", redis_server.url, "--json").document
    assert document["running"] is True
    assert document["round_trip_ms"] > 0


@pytest.mark.parametrize("kind", ["cluster", "sentinels", "secured", "restricted"])
def test_an_index_of_any_topology_is_reached(here: Here, request: pytest.FixtureRequest, kind: str) -> None:
    """Status and doctor work with a Cluster and with Sentinel as with one server, and print no password."""
    place: Place = request.getfixturevalue(kind)
    where = parse_url(place.url).shown
    done = here("index", "status", "--index", place.operator_url)
    assert done.status == 0
    assert done.out.splitlines()[0] == f"index: {where} answers"
    assert "valkey 9" in done.out
    done = here("doctor", "--index", place.url)
    assert done.status == 0
    assert where in done.out
    assert "pass" not in done.out


@pytest.mark.parametrize("kind", ["cluster", "sentinels", "restricted"])
def test_only_an_operator_sees_who_uploads(here: Here, request: pytest.FixtureRequest, kind: str) -> None:
    """`fleet` fails for a Redis user that may not list keys, and works for an operator."""
    place: Place = request.getfixturevalue(kind)
    assert here("fleet", "--index", place.operator_url, "--json").document == {"uploads": []}
    done = here("fleet", "--index", place.url)
    assert done.status == 1
    assert "has no permissions to run the 'scan' command" in done.complaint


@pytest.mark.parametrize(
    ("forbidden", "status", "words"),
    [("-info", 0, "a server of unknown kind"), ("-ping", 1, "refused")],
)
def test_an_acl_may_forbid_who_it_is_but_not_that_it_answers(
    here: Here, start_server: StartServer, forbidden: str, status: int, words: str
) -> None:
    """A server that forbids INFO works as an index; a server that forbids PING fails."""
    server = start_server()
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.execute_command("ACL", "SETUSER", "default", forbidden)
    done = here("index", "status", "--index", server.unix_url)
    assert done.status == status
    assert words in done.out + done.err


@pytest.mark.parametrize("arguments", [("index", "status"), ("index", "stop"), ("doctor",), ("demo",)])
@pytest.mark.parametrize(
    "url", ["redis://me:hidden@localhost:99999", "embedded:x", "redis://[::1", "redis+sentinel://:hidden@h"]
)
def test_a_url_that_names_no_index_is_wrong_usage(here: Here, arguments: tuple[str, ...], url: str) -> None:
    """A URL that breaks the grammar is a usage error in each command that prints it."""
    done = here(*arguments, "--index", url)
    assert done.status == 2
    assert "index URL" in done.complaint
    assert "hidden" not in done.err


def test_the_help_says_where_the_embedded_index_is(here: Here) -> None:
    """The group's help names the variable for the embedded index's folder."""
    assert "$CROSSMOUNT_STATE_DIR" in here("index", "--help").out


@pytest.mark.parametrize("fault", ["/99", "password", "http"])
def test_a_refusal_advises_to_look_at_the_url(here: Here, valkey: Server, web: int, fault: str) -> None:
    """A wrong database, a wrong password and a server of another kind all advise to check --index."""
    url = {
        "/99": f"redis://127.0.0.1:{valkey.port}/99",
        "password": f"redis://:hidden@127.0.0.1:{valkey.port}",
        "http": f"redis://127.0.0.1:{web}",
    }[fault]
    done = here("index", "status", "--index", url)
    assert done.status == 1
    advice = {
        "/99": "is the database in --index right?",
        "password": "are the user and the password in --index right?",
        "http": "that is no Redis server: is the port in --index right?",
    }[fault]
    assert done.complaint.endswith(f": {advice}")
    assert "hidden" not in done.err


def test_a_server_that_wants_tls_is_suspected(here: Here, secured: Secured) -> None:
    """If a server closes a connection without TLS, the message suggests a rediss:// URL."""
    done = here("index", "status", "--index", f"redis://127.0.0.1:{secured.port}")
    assert done.status == 1
    assert done.complaint.endswith("is it running? if it needs TLS, give a rediss:// URL")


def test_tls_to_a_server_that_has_none_is_suspected(here: Here, valkey: Server) -> None:
    """If a TLS greeting is not answered, the message asks whether the server uses TLS."""
    done = here("index", "status", "--index", f"rediss://127.0.0.1:{valkey.port}")
    assert done.status == 1
    assert done.complaint.endswith("is it running? if it has no TLS, give a redis:// URL")


def test_a_remote_index_that_is_gone_is_a_failure(here: Here) -> None:
    """An unreachable remote index is one line and status 1."""
    done = here("index", "status", "--index", "redis://127.0.0.1:1", "--json")
    assert done.status == 1
    assert "does not answer" in done.complaint


@pytest.mark.parametrize(
    ("url", "words"),
    [("off", "index: off\n"), ("memory://", "index: in the memory of one process, lost when it ends\n")],
)
def test_an_index_that_is_no_server_has_a_state_too(here: Here, url: str, words: str) -> None:
    """`index status` works with `off` and `memory://`."""
    assert here("index", "status", "--index", url).out == words
    assert here("index", "status", "--index", url, "--json").document["index"] in {"off", "memory"}


@pytest.mark.parametrize("url", ["off", "memory://", "redis://me:hidden@x.example:1/0"])
def test_only_the_embedded_index_can_be_stopped(here: Here, url: str) -> None:
    """`index stop` refuses a remote index."""
    done = here("index", "stop", "--index", url)
    assert done.status == 2
    assert "only the embedded index can be stopped" in done.complaint
    assert "hidden" not in done.err


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://me:hidden@x.example:6380/1?client_name=hidden", "redis://x.example:6380/1"),
        ("rediss://[::1]/0", "rediss://[::1]:6379/0"),
        ("redis:///0", "redis://localhost:6379/0"),
        ("redis+cluster://me:hidden@a:1,b:2/?client_name=hidden", "redis+cluster://a:1,b:2"),
        ("rediss+sentinel://:hidden@a,b:2/main?sentinel_password=hidden", "rediss+sentinel://a:26379,b:2/main"),
        ("unix:///run/s?password=hidden", "unix:///run/s"),
        ("unix://me:hidden@/run/s", "unix:///run/s"),
        ("embedded:", "embedded:"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, words: str) -> None:
    """The displayed URL of an index has no user, password or parameter."""
    assert display_url(url) == words


async def test_a_memory_index_is_not_reached() -> None:
    """An index in memory has no server and no round trip."""
    assert await probe_server(open_index("memory://")) is None


async def test_the_round_trip_is_the_median(valkey: Server) -> None:
    """One slow answer of five does not change the round trip."""
    times = iter([0, 1, 2, 3, 4, 5, 6, 107, 200, 201])
    index = open_index(valkey.unix_url)
    assert isinstance(index, RedisMountIndex)
    try:
        reached = await probe_server(index, clock=lambda: next(times))
    finally:
        await index.aclose()
    assert reached is not None
    assert reached.round_trip == 1
