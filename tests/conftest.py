"""Fixtures that all tests share; the helpers behind them are in tests/support."""

from hypothesis import settings

settings.register_profile("crossmount", deadline=None)  # no timed assertions, Hypothesis's own included
settings.load_profile("crossmount")

pytest_plugins = ["support.commands", "support.registries", "support.servers", "support.places"]
