"""Which retries are worth a line: many requests fail together, for one reason. Pure: the clock comes in."""

from dataclasses import dataclass, field

from crossmount import events
from crossmount.cli import text

LONG_WAIT = 3.0
"""A retry that waits this long, in seconds, is told of unasked."""

QUIET_SECONDS = 1.0
"""For this long at least a told cause stands for others like it."""


@dataclass(slots=True)
class _Told:
    until: float
    alike: int = 0


@dataclass(slots=True)
class Retries:
    """What was told, and what was only counted, by host and cause."""

    _told: dict[tuple[str, str], _Told] = field(default_factory=dict)

    def notice(self, event: events.Retrying, *, now: float, verbose: int) -> str | None:
        """Return the line for a retry, if it gets one.

        The first of a host and a cause has a line; those that follow while it waits are counted in the next.
        Unasked, only long waits are told.
        """
        if not verbose and event.wait < LONG_WAIT:
            return None
        told = self._told.get((event.host, event.cause))
        if told is not None and now < told.until:
            told.alike += 1
            return None
        alike = _alike(told.alike) if told is not None and told.alike else ""
        self._told[event.host, event.cause] = _Told(until=now + max(event.wait, QUIET_SECONDS))
        return (
            f"crossmount: {event.method} {event.host}: {event.cause}: "
            f"attempt {event.attempt} failed, again in {text.duration(event.wait)}{alike}"
        )

    def rest(self) -> list[str]:
        """Return the lines for what was counted and not told, once the push is over."""
        lines = [
            f"crossmount: {host}: {cause}{_alike(told.alike)}"
            for (host, cause), told in self._told.items()
            if told.alike
        ]
        self._told.clear()
        return lines


def _alike(number: int) -> str:
    return f", and {number} more like the last told"
