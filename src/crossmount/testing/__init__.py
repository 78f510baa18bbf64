"""A registry in one process, for tests: all of the distribution specification, and scripted faults.

`ScriptedRegistry` for async code, `running_registry` for blocking code,
`python -m crossmount.testing` for a separate process.
"""

from crossmount.testing.faults import (
    Alter,
    CutBefore,
    CutReceiving,
    CutSending,
    Echo,
    Fault,
    IgnoreMount,
    LoseAnswer,
    Pass,
    Reply,
    blob_unknown,
    html,
)
from crossmount.testing.options import BasicAuth, Grant, RegistryOptions, TokenAuth
from crossmount.testing.server import ScriptedRegistry
from crossmount.testing.threads import running_registry
from crossmount.testing.values import RequestRecord

__all__ = [
    "Alter",
    "BasicAuth",
    "CutBefore",
    "CutReceiving",
    "CutSending",
    "Echo",
    "Fault",
    "Grant",
    "IgnoreMount",
    "LoseAnswer",
    "Pass",
    "RegistryOptions",
    "Reply",
    "RequestRecord",
    "ScriptedRegistry",
    "TokenAuth",
    "blob_unknown",
    "html",
    "running_registry",
]
