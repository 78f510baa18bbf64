"""Where a fleet's time, chance and identity come from: all that a test would want to choose."""

import os
import random
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What comes from outside: time, chance and identity.

    Attributes:
        clock: seconds that only grow.
        epoch: epoch seconds, for people.
        rng: spreads polls and patience.
        token: makes a lease's owner known.
        holder: what a process is called.
    """

    clock: Callable[[], float] = time.monotonic
    epoch: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.Random)
    token: Callable[[], str] = lambda: secrets.token_hex(16)
    holder: Callable[[], str] = lambda: f"{socket.gethostname()}:{os.getpid()}"
