"""The public names for an event loop. `crossmount` itself has the same names, blocking."""

from typing import TYPE_CHECKING

from crossmount._shared import *
from crossmount.discovery import EventFeed as EventFeed
from crossmount.discovery import locality as locality
from crossmount.discovery import scan as scan
from crossmount.fleet import Fleet as Fleet
from crossmount.index import GuardedIndex as GuardedIndex
from crossmount.index import MemoryMountIndex as MemoryMountIndex
from crossmount.index import MountableLayers as MountableLayers
from crossmount.index import MountIndex as MountIndex
from crossmount.index import RedisMountIndex as RedisMountIndex
from crossmount.index import open_index as open_index
from crossmount.maintenance import export_index as export_index
from crossmount.maintenance import import_index as import_index
from crossmount.maintenance import index_info as index_info
from crossmount.maintenance import prune as prune
from crossmount.mount import Mounter as Mounter
from crossmount.registry import RegistryClient as RegistryClient
from crossmount.savings import read_savings as read_savings
from crossmount.transfer.copy import copy as copy
from crossmount.transfer.push import push as push
from crossmount.transfer.registries import Registries as Registries

if not TYPE_CHECKING:  # type checkers export what is imported by `*` or as itself
    __all__ = [name for name in globals() if not name.startswith("_") and name != "TYPE_CHECKING"]
