"""Looking after an index: what it holds, whether that is still true, and taking it elsewhere."""

from crossmount.upkeep.census import RegistryInfo
from crossmount.upkeep.info import IndexInfo, index_info
from crossmount.upkeep.move import MoveReport, export_index, import_index
from crossmount.upkeep.prune import prune
from crossmount.upkeep.report import PruneReport

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
