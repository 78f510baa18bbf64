"""Servers that work together as one place: its address, and waiting for what they come to by themselves."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import redis
from support.servers import READY_SECONDS, Server


@dataclass(slots=True, eq=False, kw_only=True)
class Several(ABC):
    """Such a place.

    Attributes:
        login: name and password, as a URL has them.
        operator: the same, for one who may look at all keys.
    """

    login: str = ""
    operator: str = ""

    @property
    def url(self) -> str:
        """Its address."""
        return self._url(self.login)

    @property
    def operator_url(self) -> str:
        """The address for one who may look at all keys."""
        return self._url(self.operator)

    @abstractmethod
    def _url(self, login: str) -> str: ...


def until(condition: Callable[[], bool], complaint: str) -> None:
    """Wait for what servers come to by themselves."""
    deadline = time.monotonic() + READY_SECONDS
    while not holds(condition):
        if time.monotonic() > deadline:
            pytest.fail(complaint)
        time.sleep(0.02)


def holds(condition: Callable[[], bool]) -> bool:
    """Tell whether a condition is true; a server that cannot answer it makes it false."""
    try:
        return condition()
    except redis.RedisError:  # a server that is just starting, or changing its part
        return False


def role_of(node: Server) -> str:
    """Return what a server takes itself for: master or slave."""
    return str(node.ask("INFO", "replication")["role"])
