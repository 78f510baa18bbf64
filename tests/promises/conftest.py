"""What the tests of the promises print at the end: how many worlds they tried, and how many requests."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from promises.registry import TRIED


@pytest.fixture(autouse=True)
def _tried(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Attach a test's own counts to its report, which reaches the terminal from any worker."""
    before = Counter(TRIED)
    yield
    for name, count in (TRIED - before).items():
        record_property(name, count)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, count in getattr(report, "user_properties", ()):
                if name in {"worlds", "requests"} and report.when == "teardown":
                    counts[name] += count
    if counts:
        terminalreporter.write_line(
            f"promises: {counts['worlds']} worlds tried, {counts['requests']} requests made"
        )
