"""Fills the index without a push: by a scan of a registry, by its webhooks; and finds where layers already are."""

from crossmount.discovery.feed import EventFeed
from crossmount.discovery.locality import locality
from crossmount.discovery.scan import scan
from crossmount.discovery.scan_state import ScanReport

__all__ = ["EventFeed", "ScanReport", "locality", "scan"]
