"""One registry over HTTP: client, credentials, auth, retry."""

from crossmount.registry.blobs import BlobStream
from crossmount.registry.client import RegistryClient
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.given import AnyCredentials, GivenCredentials, NoCredentials
from crossmount.registry.credentials.lookup import CredentialSource, StoredCredentials
from crossmount.registry.endpoints import SIZE_UNKNOWN, Mounted, Ping, Prepared, UploadSession
from crossmount.registry.http.options import ClientOptions, RetryPolicy

__all__ = [
    "SIZE_UNKNOWN",
    "AnyCredentials",
    "BlobStream",
    "ClientOptions",
    "Credential",
    "CredentialSource",
    "GivenCredentials",
    "Mounted",
    "NoCredentials",
    "Ping",
    "Prepared",
    "RegistryClient",
    "RetryPolicy",
    "StoredCredentials",
    "UploadSession",
]
