"""Fixtures that all tests share; the helpers behind them are in tests/support."""

pytest_plugins = ["support.commands", "support.registries", "support.servers"]
