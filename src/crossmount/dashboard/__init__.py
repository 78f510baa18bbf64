"""The page that shows what a fleet saved, what it uploads now, and how its index and its registries are."""

from crossmount.dashboard.latency import LatencyProbes as LatencyProbes
from crossmount.dashboard.pages import SiteAnswer as SiteAnswer
from crossmount.dashboard.reader import IndexReader as IndexReader
from crossmount.dashboard.site import Site as Site
