"""From candidates to a `MountStatus`: ranking and decisions are pure, the mounter drives them."""

from crossmount.mount.decision import MountResult, MountStatus
from crossmount.mount.mounter import Mounter

__all__ = ["MountResult", "MountStatus", "Mounter"]
