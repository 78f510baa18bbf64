"""Fixtures of the proxy's tests."""

import pytest

from crossmount.proxy.uploads import source_privacy


@pytest.fixture(autouse=True)
def _patient_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pad answers by half a second, not 40 ms: on a busy machine a mount from an unknown source takes longer."""
    monkeypatch.setattr(source_privacy, "PAD_SECONDS", (0.5, 2.0))
