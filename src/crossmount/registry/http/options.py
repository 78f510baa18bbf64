"""How to talk to registries: values that a client is made with."""

from dataclasses import dataclass
from pathlib import Path

from crossmount.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to give up, in seconds.

    Attributes:
        attempts: how often one request is sent at most. At 20 % of failures one in 400,000 requests meets eight.
        outage: for so long after its first failure a request is not given up for lack of an answer, however
            often it was sent, if the host answered before: registries restart.
        first_wait: the upper bound of the first wait; it doubles with each attempt (full jitter).
        longest_wait: what a wait never exceeds, a Retry-After's aside.
        deadline: for one request with all its attempts and waits; a Retry-After past it is not waited for.
    """

    attempts: int = 8
    outage: float = 20.0
    first_wait: float = 0.2
    longest_wait: float = 10.0
    deadline: float = 120.0


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How to reach a registry.

    Attributes:
        plain_http: speak http; never done unasked, loopback registries included.
        insecure: do not check the registry's certificate.
        ca_file: a PEM file of authorities to trust instead of the system's.
        authfile: the one credential file to read, instead of the usual places.
        trusted_realms: hosts besides the registry's own domain that may be given its credentials.
        connect_timeout: seconds to connect.
        read_timeout: seconds between two bytes of an answer.
        max_connections: connections to one registry.
        retry: when to give up.
        rate: requests a second at most, all kinds and all attempts together; None sets no limit.

    Raises:
        InvalidInputError: the rate is not above 0.
    """

    plain_http: bool = False
    insecure: bool = False
    ca_file: Path | None = None
    authfile: Path | None = None
    trusted_realms: tuple[str, ...] = ()
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    max_connections: int = 64
    retry: RetryPolicy = RetryPolicy()
    rate: float | None = None

    def __post_init__(self) -> None:
        """Check the rate."""
        if self.rate is not None and not self.rate > 0:
            raise InvalidInputError(f"rate: {self.rate!r}: give requests a second, above 0, or None")
