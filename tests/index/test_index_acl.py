"""The access list of deploy/redis: it allows what crossmount asks for and nothing else, and walls tenants off."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import crossmount
from crossmount.errors import IndexRefusedError
from crossmount.fleet.lease import LeaseValue
from crossmount.fleet.leases import Lease, Leases
from crossmount.index import Keys, LayerKnowledge, RedisMountIndex, RegistryTraits, Sighting, open_index
from crossmount.index.link import Command
from crossmount.index.served import server_of
from support import acl
from support.index_kit import layer, repo
from support.servers import Server, StartServer
