"""The folder of the embedded index, and the folders that it refuses."""

import os
import tempfile
from pathlib import Path

import pytest

from crossmount.embedded.files import (
    SOCKET_BYTES_MAX,
    EmbeddedPaths,
    FileLock,
    last_lines,
    locate,
    prepare_folder,
)
from crossmount.errors import IndexUnavailableError

UID = os.geteuid()


def paths_in(folder: Path, *links: Path) -> EmbeddedPaths:
    """Return the paths of an embedded index of this user in a folder."""
    return EmbeddedPaths(folder, links, UID)


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"CROSSMOUNT_STATE_DIR": "/s", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/s/embedded"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/crossmount/embedded-ci-1"),
        ({"XDG_STATE_HOME": "x", "HOME": "/h"}, "/h/.local/state/crossmount/embedded-ci-1"),
        ({"CROSSMOUNT_STATE_DIR": "", "HOME": "/h"}, "/h/.local/state/crossmount/embedded-ci-1"),
    ],
)
def test_folder_is_the_first_that_the_environment_names(env: dict[str, str], folder: str) -> None:
    """CROSSMOUNT_STATE_DIR comes before XDG_STATE_HOME, then the home; relative XDG paths are ignored."""
    assert locate(env, uid=UID, host="ci-1") == EmbeddedPaths(Path(folder), (), UID)


def test_home_comes_from_the_user_database_where_the_environment_has_none() -> None:
    """Without HOME the home folder comes from the password database."""
    assert locate({}, uid=0, host="h").folder == Path("~root").expanduser() / ".local/state/crossmount/embedded-h"


def test_error_for_a_user_without_a_home_names_the_variable() -> None:
    """For a uid without a home folder the error names the variable to set."""
    with pytest.raises(IndexUnavailableError, match="CROSSMOUNT_STATE_DIR"):
        locate({}, uid=2**31 - 7, host="h")


@pytest.mark.parametrize(
    ("host", "name"),
    [("../../etc", "embedded-------etc"), ("", "embedded-host"), ("bücher.de", "embedded-b-cher-de")],
)
def test_host_name_is_one_harmless_component(host: str, name: str) -> None:
    """No host name leads out of the folder."""
    assert locate({"XDG_STATE_HOME": "/x"}, uid=UID, host=host).folder == Path("/x/crossmount", name)


def test_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    """The folder is created for its user only."""
    folder = tmp_path / "a" / "b"
    assert prepare_folder(paths_in(folder)) == folder / "socket"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert prepare_folder(paths_in(folder)) == folder / "socket"


def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """A folder of another uid is never used."""
    (tmp_path / "f").mkdir(mode=0o700)
    with pytest.raises(IndexUnavailableError, match=f"belongs to uid {UID}, not to you"):
        prepare_folder(EmbeddedPaths(tmp_path / "f", (), UID + 1))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """A folder that others can write to is refused."""
    folder = tmp_path / "f"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(IndexUnavailableError, match="others may write"):
        prepare_folder(paths_in(folder))


def test_folder_that_others_may_read_is_closed(tmp_path: Path) -> None:
    """An own folder that others can read is made private."""
    folder = tmp_path / "f"
    folder.mkdir()
    folder.chmod(0o755)
    prepare_folder(paths_in(folder))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_link_or_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A symbolic link in place of the folder is not followed; a file there is an error of one line."""
    (tmp_path / "good").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "good")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(IndexUnavailableError, match="cannot"):
            prepare_folder(paths_in(tmp_path / name))


def test_folder_that_cannot_be_made_is_named() -> None:
    """If the folder cannot be created, the error names it and says what to set."""
    with pytest.raises(IndexUnavailableError, match=r"cannot make /proc/nowhere/x.*CROSSMOUNT_STATE_DIR"):
        prepare_folder(paths_in(Path("/proc/nowhere/x")))


def test_long_folder_is_reached_by_a_short_link(tmp_path: Path) -> None:
    """A path too long for a socket gets a short link, the same each time."""
    folder = tmp_path / ("d" * 120)
    env = {"CROSSMOUNT_STATE_DIR": str(folder), "XDG_RUNTIME_DIR": "/run/user/7"}
    paths = locate(env, uid=UID, host="h")
    assert paths.links == (Path("/run/user/7/crossmount"), Path(f"/tmp/crossmount-{UID}"))  # noqa: S108 compared
    short = paths_in(paths.folder, tmp_path / "s")
    path = prepare_folder(short)
    assert len(os.fsencode(path)) <= SOCKET_BYTES_MAX
    assert path.parent.readlink() == paths.folder
    assert prepare_folder(short) == path


def test_link_that_leads_elsewhere_is_replaced(tmp_path: Path) -> None:
    """A stale link with the right name is replaced."""
    paths = paths_in(tmp_path / "target", tmp_path / "s")
    path = prepare_folder(paths)
    path.parent.unlink()
    path.parent.symlink_to("/elsewhere")
    assert prepare_folder(paths).parent.readlink() == tmp_path / "target"
    assert len(list((tmp_path / "s").iterdir())) == 1


def test_next_folder_is_used_if_a_link_cannot_be_made(tmp_path: Path) -> None:
    """A link folder that others can write to is skipped; without any other the error says why."""
    target, too_long = tmp_path / ("t" * 100), tmp_path / ("l" * 100)
    with tempfile.TemporaryDirectory(prefix="cm-") as name:  # tmp_path itself is long where tests run side by side
        short = Path(name)
        open_to_all = short / "open"
        open_to_all.mkdir()
        open_to_all.chmod(0o777)
        assert prepare_folder(paths_in(target, open_to_all, too_long, short / "s")).is_relative_to(short / "s")
        with pytest.raises(IndexUnavailableError, match=r"others may write.*too long as well"):
            prepare_folder(paths_in(target, open_to_all, too_long))


def test_relative_runtime_folder_does_not_count(tmp_path: Path) -> None:
    """A relative XDG_RUNTIME_DIR is ignored."""
    env = {"CROSSMOUNT_STATE_DIR": str(tmp_path / ("d" * 120)), "XDG_RUNTIME_DIR": "run"}
    assert locate(env, uid=5, host="h").links == (Path("/tmp/crossmount-5"),)  # noqa: S108 compared


def test_lock_is_held_by_one(tmp_path: Path) -> None:
    """A second descriptor gets the lock only after the first has released it."""
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    first.close()
    second.close()


def test_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    """A link in place of the lock is an error, and its target is not created."""
    (tmp_path / "l").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IndexUnavailableError, match="cannot open"):
        FileLock(tmp_path / "l")
    assert not (tmp_path / "elsewhere").exists()


def test_end_of_a_log_is_one_line(tmp_path: Path) -> None:
    """The last lines of a log are joined; an empty or missing log is named as such."""
    log = tmp_path / "log"
    assert last_lines(log) == "no log"
    log.write_bytes(b"")
    assert last_lines(log) == "the log is empty"
    log.write_bytes(b"one\n\ntwo\nthree \xff\nfour\n")
    assert last_lines(log, lines=2) == "three \ufffd | four"
