"""Fixtures that all tests share; the helpers behind them are in tests/support."""

import signal

from hypothesis import settings

settings.register_profile("crossmount", deadline=None)  # no timed assertions, Hypothesis's own included
settings.load_profile("crossmount")

pytest_plugins = ["support.registries", "support.commands", "support.servers", "support.places"]

# a shell that starts this aside, with & or nohup, has it ignore them, and every command of the tests after it
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
