"""Filling the index past any push: scanning a registry, its event feed; and where an image is warm."""

from crossmount.discovery.feed import EventFeed
from crossmount.discovery.locality import locality
from crossmount.discovery.scan import scan
from crossmount.discovery.scan_report import ScanReport

__all__ = ["EventFeed", "ScanReport", "locality", "scan"]
