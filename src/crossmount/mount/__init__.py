"""From candidates to a `MountStatus`: ranking and decisions are pure, the mounter drives them."""

from crossmount.mount.mounter import Mounter
from crossmount.mount.status import MountResult, MountStatus

__all__ = ["MountResult", "MountStatus", "Mounter"]
