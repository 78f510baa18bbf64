"""One upload per layer across the fleet: leases, and whose turn it is."""

from crossmount.fleet.fleet import Fleet
from crossmount.fleet.patience import Patience
from crossmount.fleet.turn import ROUNDS, MountTurn, Slots, Turn, UploadTurn

__all__ = ["ROUNDS", "Fleet", "MountTurn", "Patience", "Slots", "Turn", "UploadTurn"]
