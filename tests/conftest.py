"""Fixtures of all tests; their helpers are in tests/support."""

import logging
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("crossmount", deadline=None)  # no timed assertions, Hypothesis's own included
settings.register_profile("nightly", deadline=None)  # --hypothesis-profile=nightly: see tests/promises/known.py
settings.load_profile("crossmount")

pytest_plugins = [
    "support.registries",
    "support.commands",
    "support.servers",
    "support.places",
    "support.browser",
    "promises.summary",
]

# a process started in the background (with & or nohup) ignores these signals, and so would all its children
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class _Unretrieved(logging.Handler):
    """Keeps what asyncio says of tasks and futures whose exception nobody took."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record if it is about such an exception."""
        words = record.getMessage()
        if "never retrieved" in words:
            self.found.append(words)


_unretrieved = _Unretrieved()
logging.getLogger("asyncio").addHandler(_unretrieved)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fail a test in which the exception of a background task was never retrieved: users would see a traceback."""
    result = yield
    found, _unretrieved.found[:] = list(_unretrieved.found), []
    if found:
        pytest.fail("a background task's exception was never retrieved:\n" + "\n".join(found), pytrace=False)
    return result
