"""Maintenance of an index: its statistics, the prune of sources that are gone, export and import."""

from crossmount.maintenance.export_import import MoveReport, export_index, import_index
from crossmount.maintenance.info import IndexInfo, index_info
from crossmount.maintenance.layer_counts import RegistryInfo
from crossmount.maintenance.prune import prune
from crossmount.maintenance.prune_state import PruneReport

__all__ = [
    "IndexInfo",
    "MoveReport",
    "PruneReport",
    "RegistryInfo",
    "export_index",
    "import_index",
    "index_info",
    "prune",
]
