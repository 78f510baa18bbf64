"""What a background task raises is collected: in one line of the log, without a traceback."""

import asyncio
import gc
import logging

import pytest

from crossmount._tasks import collect
from crossmount.errors import CredentialsError


@pytest.mark.parametrize(
    ("error", "level", "words"),
    [
        (CredentialsError("docker-credential-x is not on the PATH"), logging.DEBUG, "docker-credential-x is not"),
        (TypeError("None"), logging.WARNING, "unexpected TypeError: None: this is a bug"),
    ],
)
async def test_what_a_forgotten_task_raises_is_one_line(
    caplog: pytest.LogCaptureFixture, error: Exception, level: int, words: str
) -> None:
    """A failure that can happen is for the log, a defect is a warning; asyncio has nothing to say."""
    caplog.set_level(logging.DEBUG)

    async def fail() -> None:
        raise error

    task = asyncio.create_task(fail())
    task.add_done_callback(collect)
    await asyncio.wait([task])
    del task
    gc.collect()
    (record,) = [record for record in caplog.records if record.name in {"asyncio", "crossmount._tasks"}]
    assert (record.levelno, record.exc_info) == (level, None)
    assert words in record.getMessage()


async def test_a_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged of a task that was cancelled."""
    caplog.set_level(logging.DEBUG)
    task = asyncio.create_task(asyncio.sleep(1000))
    task.add_done_callback(collect)
    task.cancel()
    await asyncio.wait([task])
    assert [record for record in caplog.records if "background" in record.name] == []


def test_a_task_that_nobody_collects_is_seen() -> None:
    """The suite's own watch sees what asyncio prints of a task's exception that nobody took."""
    handlers = logging.getLogger("asyncio").handlers
    (watch,) = [handler for handler in handlers if type(handler).__name__ == "_Unretrieved"]
    found: list[str] = vars(watch)["found"]
    before = list(found)
    try:
        logging.getLogger("asyncio").error("Task exception was never retrieved")
        assert found == [*before, "Task exception was never retrieved"]
    finally:
        found[:] = before
