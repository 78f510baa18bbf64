"""Blocking connections across a fork."""

import redis


class ForkablePool(redis.BlockingConnectionPool):
    """A pool that a process and its forks may use, each on connections of its own."""

    def reset(self) -> None:
        """Begin anew, as in a child after a fork: close the child's ends of its parent's connections."""
        for connection in getattr(self, "_connections", ()):  # it is called by redis-py's constructor, too
            connection.disconnect()  # closes the descriptor; in another process than its own it says no good-bye
        super().reset()  # type: ignore[no-untyped-call]  # redis-py's own gap
