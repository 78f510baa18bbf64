"""Prints at the end of a run how many worlds the tests of the promises tried, and how many requests were made.

The top conftest names it as a plugin: with workers, the process that prints loads no conftest of a subfolder.
"""

from collections import Counter

import pytest


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
