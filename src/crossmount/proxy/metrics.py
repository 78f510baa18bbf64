"""Counters and clocks for Prometheus, one registry of them for one proxy."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from crossmount.errors import (
    AccessDeniedError,
    CredentialsError,
    IndexFailedError,
    InvalidAnswerError,
    MountRequiredError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.proxy.http.access_log import method_label

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (AccessDeniedError, "denied"),
    (RegistryRefusedError, "refused"),
    (RegistryUnreachableError, "unreachable"),
    (InvalidAnswerError, "bad-answer"),
    (IndexFailedError, "index"),
    (MountRequiredError, "must-mount"),
    (CredentialsError, "credentials"),
    (TimeoutError, "timeout"),
    (OSError, "system"),
)


def cause_of(error: BaseException) -> str:
    """Return the word that failures are counted under."""
    return next((word for kind, word in _CAUSES if isinstance(error, kind)), "other")


class _Told(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, words: str, count: Callable[[], int]) -> None:
        self._name, self._words, self._count = name, words, count

    def collect(self) -> Iterator[Metric]:
        """Give its value of now."""
        yield CounterMetricFamily(self._name, self._words, value=self._count())


class Metrics:
    """What a proxy counts.

    Attributes:
        blobs: blobs by outcome: `mounted`, `existing`, `uploaded`, `spooled`.
        blob_bytes: the same in bytes, as far as sizes are known.
        requests: requests by route, method and status.
        index_seconds: how long the index takes to answer.
        upstream_seconds: how long the registry takes to begin an answer to a request without a body.
        wait_seconds: how long those waited for another's upload that it then brought something.
        failures: by where and by cause.
        unlearnt: sightings that were dropped because the index was too slow.
        sessions: uploads under way.
        spool_bytes: bytes on local disk.
        spool_limit: how many there may be; 0 without a spool.

    Args:
        unserved: tells how many calls the index did not serve so far.
    """

    def __init__(self, *, unserved: Callable[[], int] = lambda: 0) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Told("crossmount_proxy_index_unserved", "Calls that went unserved.", unserved))
        self.blobs = Counter("crossmount_proxy_blobs", "Blobs by outcome.", ["outcome"], registry=self._registry)
        self.blob_bytes = Counter(
            "crossmount_proxy_blob_bytes", "Bytes of blobs by outcome.", ["outcome"], registry=self._registry
        )
        self.requests = Counter(
            "crossmount_proxy_requests", "Requests.", ["route", "method", "status"], registry=self._registry
        )
        self.index_seconds = Histogram(
            "crossmount_proxy_index_seconds", "Reading the index.", buckets=_SECONDS, registry=self._registry
        )
        self.upstream_seconds = Histogram(
            "crossmount_proxy_upstream_seconds",
            "Until the registry begins its answer to a request without a body.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.wait_seconds = Histogram(
            "crossmount_proxy_wait_seconds",
            "Waiting for another's upload of the same layer.",
            buckets=(*_SECONDS, 300.0, 600.0),
            registry=self._registry,
        )
        self.failures = Counter(
            "crossmount_proxy_failures", "Failures.", ["where", "cause"], registry=self._registry
        )
        self.unlearnt = Counter(
            "crossmount_proxy_unlearnt", "Sightings dropped: the index is too slow.", registry=self._registry
        )
        self.sessions = Gauge("crossmount_proxy_sessions", "Uploads under way.", registry=self._registry)
        self.spool_bytes = Gauge("crossmount_proxy_spool_bytes", "Bytes on local disk.", registry=self._registry)
        self.spool_limit = Gauge(
            "crossmount_proxy_spool_limit_bytes", "Bytes that the spool may take.", registry=self._registry
        )
        for outcome in ("mounted", "existing", "uploaded", "spooled"):
            self.blobs.labels(outcome)
            self.blob_bytes.labels(outcome)

    def count_blob(self, outcome: str, size: int | None) -> None:
        """Count a blob."""
        self.blobs.labels(outcome).inc()
        self.blob_bytes.labels(outcome).inc(max(0, size or 0))

    def count_request(self, method: str, kind: str, status: int, *, waited: float) -> None:
        """Count a request, and the seconds that it waited for another's upload."""
        self.requests.labels(kind, method_label(method), status).inc()
        if waited:
            self.wait_seconds.observe(waited)

    def count_failure(self, where: str, error: BaseException) -> None:
        """Count a failure."""
        self.failures.labels(where, cause_of(error)).inc()

    def exposition(self) -> tuple[bytes, bytes]:
        """Return the page that Prometheus reads, and its type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST.encode()
