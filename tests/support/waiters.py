"""Waiters for a layer in a table of turns, without an event loop or a server."""

from collections.abc import Callable
from dataclasses import dataclass

from crossmount.fleet.waiting import Patience, Waiter
from crossmount.oci import Digest, Repository
from support.index_kit import layer

LAYERS = (layer(0), layer(1))
PATIENCE = Patience(limit=60, least=20)


@dataclass
class Slots:
    """Upload slots that are counted."""

    free: int = 2

    def try_acquire(self) -> bool:
        """Take one."""
        if self.free == 0:
            return False
        self.free -= 1
        return True

    def return_unused(self) -> None:
        """Give one back."""
        self.free += 1

    def release(self) -> None:
        """Give one back that was used."""
        self.free += 1


def make_waiter(
    name: str,
    slots: Slots,
    *,
    layer: Digest = LAYERS[0],
    watch_only: bool = False,
    accepts: Callable[[str], bool] = lambda _: True,
) -> Waiter:
    """Return a waiter for a layer in repository `name`."""
    return Waiter(
        layer=layer,
        dest=Repository("r.example", name),
        size=10,
        value=name,
        excluded=set(),
        patience=PATIENCE,
        slots=None if watch_only else slots,
        accepts=accepts,
    )
