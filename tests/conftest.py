"""Fixtures of all tests; their helpers are in tests/support."""

import signal

from hypothesis import settings

settings.register_profile("crossmount", deadline=None)  # no timed assertions, Hypothesis's own included
settings.register_profile("nightly", deadline=None)  # --hypothesis-profile=nightly: see tests/promises/known.py
settings.load_profile("crossmount")

pytest_plugins = ["support.registries", "support.commands", "support.servers", "support.places"]

# a process started in the background (with & or nohup) ignores these signals, and so would all its children
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
