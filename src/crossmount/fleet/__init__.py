"""One upload per layer across the fleet: leases, and the wait for another's upload."""

from crossmount.fleet.fleet import Fleet
from crossmount.fleet.turn import MountTurn, Slots, Turn, UploadTurn, mount_or_upload, upload_in_turn
from crossmount.fleet.waiting import Patience

__all__ = ["Fleet", "MountTurn", "Patience", "Slots", "Turn", "UploadTurn", "mount_or_upload", "upload_in_turn"]
