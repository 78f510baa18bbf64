"""Options of a registry client, and of one request. They stand apart so that all others can import them."""

import math
import ssl
import warnings
from dataclasses import KW_ONLY, InitVar, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from crossmount._arguments import kind_of
from crossmount._dataclass import dataclass
from crossmount._parsing import is_above
from crossmount.errors import InvalidInputError
from crossmount.registry.credentials.given import AnyCredentials, check_credentials

if TYPE_CHECKING:
    from tenacity import BaseRetrying

# Extensions of an `httpx.Request` that our connections understand; other transports ignore them.
OWNER = "crossmount.owner"
"""The text that names whose the request is. Owners share no connections."""

LAST_ON_CONNECTION = "crossmount.last_on_connection"
"""The connection is closed after this request, whatever the value."""

STREAMED = "crossmount.streamed"
"""The answer is read as it comes, perhaps into another request; any value."""

ON_ANSWER = "crossmount.on_answer"
"""A function without arguments; it is called when the final answer begins."""

_OLD_WORDS = {"first_wait": "wait_initial", "longest_wait": "wait_max", "deadline": "timeout"}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is sent again, and how long each wait is. All times are seconds.

    The words are those of tenacity and stamina. The wait after attempt `n` has the bound
    `min(wait_max, wait_initial * 2 ** (n - 1))`.

    Attributes:
        attempts: the most times one request is sent. If 20 % of all requests fail, one request in 400,000 fails
            eight times.
        wait_initial: the bound of the first wait; it doubles with each attempt.
        wait_max: the largest bound of a wait. A Retry-After may ask for more.
        jitter: the random share of each wait, 0 to 1. At 1 a wait is anything from 0 to its bound (full jitter);
            at 0 it is the bound itself.
        timeout: for one request with all its attempts and waits. A Retry-After that ends later is not waited for.
        outage: registries restart, so a host that has answered before gets at least this long from the first
            attempt without an answer, even if `attempts` is exceeded.

    The words of release 0.1.0 are still accepted, with a DeprecationWarning: `first_wait` for `wait_initial`,
    `longest_wait` for `wait_max`, `deadline` for `timeout`.

    Raises:
        InvalidInputError: the jitter is not between 0 and 1, or an old word stands beside its new one.
    """

    attempts: int = 8
    wait_initial: float = 0.2
    wait_max: float = 10.0
    jitter: float = 1.0
    timeout: float = 120.0
    outage: float = 20.0
    _: KW_ONLY
    first_wait: InitVar[float | None] = None
    longest_wait: InitVar[float | None] = None
    deadline: InitVar[float | None] = None

    def __post_init__(self, first_wait: float | None, longest_wait: float | None, deadline: float | None) -> None:
        """Take over the old words, and check the jitter."""
        defaults = {field.name: field.default for field in fields(self)}
        for old, value in zip(_OLD_WORDS, (first_wait, longest_wait, deadline), strict=True):
            if value is None:
                continue
            new = _OLD_WORDS[old]
            if getattr(self, new) is not defaults[new]:
                raise InvalidInputError(f"{old} and {new} are one setting: give {new} alone")
            warnings.warn(f"{old} is now named {new}", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, new, value)  # the value is frozen for everybody else
        if not is_above(self.attempts, 0, whole=True):
            raise InvalidInputError(f"attempts: {self.attempts!r}: give a whole number, above 0")
        for name in ("wait_initial", "wait_max", "timeout", "outage"):
            if not is_above(value := getattr(self, name), -1e-9):
                raise InvalidInputError(f"{name}: {value!r}: give seconds, at least 0")
        if not is_above(self.jitter, -1e-9) or self.jitter > 1.0:
            raise InvalidInputError(f"jitter: {self.jitter!r}: give a share between 0 and 1")


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How to reach a registry.

    Attributes:
        plain_http: use http; it is never used without this option, not even for a loopback registry.
        insecure: do not verify the registry's certificate.
        ca_file: a PEM file of certificate authorities, instead of the system's and of those in certs.d.
        cert_file: a PEM file of the client certificate that the registry is shown, instead of that in certs.d.
        key_file: a PEM file of its key, without a passphrase.
        authfile: the only credential file to read, instead of the usual ones.
        credentials: user name and password, or a `Credential`, for the one registry that is used; or a mapping of
            those by registry; or a `CredentialSource`. None reads the files and helpers of docker and podman; they
            also serve a registry that the mapping does not name.
        ssl_context: the TLS context for the registry itself, instead of `ca_file`, `cert_file` and `insecure`.
        proxy: the HTTP or SOCKS proxy for all requests, instead of those of the environment: its URL, as text or
            of httpx, or an `httpx.Proxy` of a URL and a login.
        transport: an asynchronous transport of httpx that sends all requests instead of our connections; its maker
            closes it. A registry that only the index names is never asked through it. Bytes after an answer's end
            are its affair.
        trusted_realms: hosts outside the registry's domain that may get its credentials.
        connect_timeout: seconds to connect.
        read_timeout: seconds between two bytes of an answer.
        commit_timeout: seconds until the answer to a PUT or a PATCH begins, once its body is sent. Registries on
            object storage may take minutes to store a large blob.
        chunk_size: the most bytes of a blob in one request, where a front end limits the size of requests; None
            sends each blob in one request.
        max_connections: the most connections to one registry; its token service, its storage, and blobs that
            are fetched have as many of their own.
        retry: when a request is sent again: a `RetryPolicy`, or an `AsyncRetrying` or `Retrying` of tenacity, of
            which the strategies `wait` and `stop` are used. Which failures are worth another attempt is decided
            here, and a Retry-After counts more than `wait`.
        rate: the most requests a second, all attempts included; None sets no limit.
        timeout: an `httpx.Timeout`, in place of `connect_timeout` and `read_timeout`. None in it sets no limit.

    Raises:
        InvalidInputError: the rate, `commit_timeout` or `chunk_size` is not above 0, `cert_file` stands without
            `key_file`, or `credentials` are none.
    """

    plain_http: bool = False
    insecure: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    authfile: Path | None = None
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False, kw_only=True)
    proxy: "str | httpx.URL | httpx.Proxy | None" = field(default=None, repr=False, kw_only=True)
    transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False, kw_only=True)
    credentials: AnyCredentials | None = field(default=None, repr=False, hash=False, kw_only=True)
    trusted_realms: tuple[str, ...] = ()
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    commit_timeout: float = 600.0
    chunk_size: int | None = None
    max_connections: int = 64
    retry: "RetryPolicy | BaseRetrying" = RetryPolicy()
    rate: float | None = None
    _: KW_ONLY
    timeout: InitVar[httpx.Timeout | None] = None

    def __post_init__(self, timeout: httpx.Timeout | None) -> None:
        """Check the numbers, that a client certificate has its key, and the kinds of a program's own parts."""
        self._check_kinds(timeout)
        for name in ("ca_file", "cert_file", "key_file", "authfile"):
            if isinstance(file := getattr(self, name), str):
                object.__setattr__(self, name, Path(file))
        if timeout is not None:
            for name, seconds in (("connect_timeout", timeout.connect), ("read_timeout", timeout.read)):
                object.__setattr__(self, name, math.inf if seconds is None else seconds)
        if self.proxy is not None:
            object.__setattr__(self, "proxy", _proxy_url(self.proxy))
        self._check_numbers()
        check_credentials(self.credentials)
        if (self.cert_file is None) != (self.key_file is None):
            given = "cert_file" if self.key_file is None else "key_file"
            raise InvalidInputError(
                f"{given} without its other half: give cert_file and key_file (one PEM file may be both)"
            )

    def _check_numbers(self) -> None:
        for name in ("connect_timeout", "read_timeout", "commit_timeout"):
            if not is_above(value := getattr(self, name), 0):
                raise InvalidInputError(f"{name}: {value!r}: give seconds, above 0")
        if not is_above(self.max_connections, 0, whole=True):
            raise InvalidInputError(f"max_connections: {self.max_connections!r}: give a whole number, above 0")
        if self.chunk_size is not None and not is_above(self.chunk_size, 0):
            raise InvalidInputError(f"chunk_size: {self.chunk_size!r}: give bytes, above 0, or None")
        if self.rate is not None and not is_above(self.rate, 0):
            raise InvalidInputError(f"rate: {self.rate!r}: give requests a second, above 0, or None")

    @property
    def retry_policy(self) -> RetryPolicy:
        """The limits of retries; those of a `RetryPolicy` by default where `retry` is of tenacity."""
        return self.retry if isinstance(self.retry, RetryPolicy) else RetryPolicy()

    def _check_kinds(self, timeout: object) -> None:
        retry: object = self.retry
        if not isinstance(retry, RetryPolicy):
            from tenacity import BaseRetrying  # noqa: PLC0415 what else it may be

            if not isinstance(retry, BaseRetrying):
                wanted = "a crossmount.RetryPolicy, or an AsyncRetrying or Retrying of tenacity"
                raise InvalidInputError(f"retry: {kind_of(retry)}: give {wanted}")
        if not isinstance(timeout, httpx.Timeout | None):
            wanted = "an httpx.Timeout, or connect_timeout and read_timeout in seconds"
            raise InvalidInputError(f"timeout: {kind_of(timeout)}: give {wanted}")
        for name, kind, wanted in (
            ("ssl_context", ssl.SSLContext | None, "an ssl.SSLContext"),
            ("proxy", str | httpx.URL | httpx.Proxy | None, "the proxy's URL, as text or an httpx.URL"),
            ("transport", httpx.AsyncBaseTransport | None, "an httpx.AsyncBaseTransport, in both flavours"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise InvalidInputError(f"{name}: {kind_of(value)}: give {wanted}")
        if self.ssl_context is not None and (self.insecure or self.ca_file or self.cert_file):
            raise InvalidInputError("ssl_context beside insecure, ca_file or cert_file: give the context alone")


def _proxy_url(proxy: str | httpx.URL | httpx.Proxy) -> str:
    """Return a proxy's URL as text, with its login.

    Raises:
        InvalidInputError: it is a Proxy with parts that a URL has not.
    """
    if not isinstance(proxy, httpx.Proxy):
        return str(proxy)
    if proxy.headers or proxy.ssl_context is not None:
        raise InvalidInputError("proxy: an httpx.Proxy with headers or a context: give its URL, or a transport")
    user, password = proxy.auth or ("", "")
    return str(proxy.url.copy_with(username=user, password=password) if proxy.auth else proxy.url)
