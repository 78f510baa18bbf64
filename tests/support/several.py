"""Several servers that work together: their URL, and waiting for their state."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import redis
from support.servers import READY_SECONDS, Server


@dataclass(slots=True, eq=False, kw_only=True)
class Several(ABC):
    """Several servers with one URL.

    Attributes:
        login: name and password, as a URL has them.
        operator: the same for an operator, who may read all keys.
    """

    login: str = ""
    operator: str = ""

    @property
    def url(self) -> str:
        """The URL for pushers."""
        return self._url(self.login)

    @property
    def operator_url(self) -> str:
        """The URL for an operator, who may read all keys."""
        return self._url(self.operator)

    @abstractmethod
    def _url(self, login: str) -> str: ...


def until(condition: Callable[[], bool], complaint: str) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + READY_SECONDS
    while not holds(condition):
        if time.monotonic() > deadline:
            pytest.fail(complaint)
        time.sleep(0.02)


def holds(condition: Callable[[], bool]) -> bool:
    """Return whether a condition is true; an error of a server counts as false."""
    try:
        return condition()
    except redis.RedisError:  # a server that is starting, or changing its role
        return False


def role_of(node: Server) -> str:
    """Return the role that a server reports: master or slave."""
    return str(node.ask("INFO", "replication")["role"])
