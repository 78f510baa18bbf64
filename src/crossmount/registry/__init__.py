"""One registry over HTTP: client, credentials, auth, retry."""

from crossmount.registry.client import RegistryClient
from crossmount.registry.options import ClientOptions, RetryPolicy
from crossmount.registry.values import SIZE_UNKNOWN, Mounted, Ping, Prepared, UploadSession

__all__ = [
    "SIZE_UNKNOWN",
    "ClientOptions",
    "Mounted",
    "Ping",
    "Prepared",
    "RegistryClient",
    "RetryPolicy",
    "UploadSession",
]
