"""Fixtures of all tests; their helpers are in tests/support."""

import gc
import logging
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("crossmount", deadline=None)  # no timed assertions, Hypothesis's own included
settings.register_profile("nightly", deadline=None)  # --hypothesis-profile=nightly: see tests/promises/known.py
settings.load_profile("crossmount")

pytest_plugins = [
    "support.registries",
    "support.commands",
    "support.connecting",
    "support.servers",
    "support.places",
    "support.browser",
    "support.unhurried",
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
        """Keep the record if it is about such an exception.

        A stream of asyncio that the other side has reset, or whose TLS failed, has a future of its own for whoever
        awaits `wait_closed`.
        """
        words, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
        is_of_a_stream = words.startswith("Future ") and isinstance(error, OSError)
        if "never retrieved" in words and not is_of_a_stream:
            self.found.append(words)


_unretrieved = _Unretrieved()
logging.getLogger("asyncio").addHandler(_unretrieved)


def pytest_collection_finish() -> None:
    """Leave what the imports made out of all collections of garbage: each then takes milliseconds."""
    gc.collect()
    gc.freeze()


def _collect_garbage() -> list[str]:
    """Collect the garbage, and return what went wrong meanwhile, such as the warning of an open socket."""
    said: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda raised: said.append(f"{raised.exc_value!r}, in {raised.object!r}")
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
    return said


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fail a test that leaves open resources, or a background task whose exception was never retrieved.

    Users would see a warning or a traceback. Without a collection the next test that collects would fail for it.
    """
    result = yield
    left = _collect_garbage()
    found, _unretrieved.found[:] = list(_unretrieved.found), []
    if left:
        pytest.fail("garbage of this test:\n" + "\n".join(left), pytrace=False)
    if found:
        pytest.fail("a background task's exception was never retrieved:\n" + "\n".join(found), pytrace=False)
    return result
