"""Filling the index past any push: scanning a registry, its event feed; and where an image is warm."""

from crossmount.warmup.feed import EventFeed
from crossmount.warmup.locality import locality
from crossmount.warmup.report import ScanReport
from crossmount.warmup.scan import scan

__all__ = ["EventFeed", "ScanReport", "locality", "scan"]
