"""One upload per layer across the fleet: leases, and the wait for another's upload."""

from crossmount.fleet.fleet import Fleet
from crossmount.fleet.patience import Patience
from crossmount.fleet.sharing import mount_or_upload, upload_in_turn
from crossmount.fleet.turn import MountTurn, Slots, Turn, UploadTurn

__all__ = ["Fleet", "MountTurn", "Patience", "Slots", "Turn", "UploadTurn", "mount_or_upload", "upload_in_turn"]
