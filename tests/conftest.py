"""Fixtures that all tests share; the helpers behind them are in tests/support."""

pytest_plugins = ["support.registries", "support.servers"]
