"""Deadlines that a busy machine keeps: for tests that are not about silent servers or stalled uploads."""

import pytest

from crossmount.fleet import lease, lease_store
from crossmount.index import guard
from crossmount.redis import call, connection, pipeline
from crossmount.transfer import turns

HOWEVER_LONG = 30.0

AN_UPLOAD = 120.0
"""Seconds without progress: a fault may delay one upload several times."""


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extend the deadlines of the index and of leases: many callers in one process on a busy machine are slow."""
    monkeypatch.setitem(connection.OWN_SETTINGS, "socket_timeout", HOWEVER_LONG)
    monkeypatch.setitem(connection.OWN_SETTINGS, "socket_connect_timeout", HOWEVER_LONG)
    monkeypatch.setattr(pipeline, "TIMEOUT_SECONDS", HOWEVER_LONG)
    monkeypatch.setattr(call, "CALL_SECONDS", HOWEVER_LONG)
    monkeypatch.setattr(lease_store, "GRACE_SECONDS", HOWEVER_LONG)
    for name in ("OTHERS_SECONDS", "OWN_SECONDS"):
        monkeypatch.setattr(lease, name, AN_UPLOAD)
    monkeypatch.setattr(turns, "OWN_SECONDS", AN_UPLOAD)
    defaults = {**(guard.GuardedIndex.__init__.__kwdefaults__ or {}), "deadline": HOWEVER_LONG}
    monkeypatch.setattr(guard.GuardedIndex.__init__, "__kwdefaults__", defaults)
