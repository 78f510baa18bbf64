"""The metrics of a proxy, for Prometheus."""

import platform
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from crossmount import __version__
from crossmount.errors import (
    AccessDeniedError,
    CredentialsError,
    IndexFailedError,
    InvalidAnswerError,
    MountRequiredError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.proxy.tracing import method_label

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
    """Return the label of an error in the metric of failures."""
    return next((word for kind, word in _CAUSES if isinstance(error, kind)), "other")


class _CallbackCounter(Collector):
    """A counter whose value a function returns."""

    def __init__(self, name: str, words: str, count: Callable[[], int]) -> None:
        self._name, self._words, self._count = name, words, count

    def collect(self) -> Iterator[Metric]:
        """Yield the current value."""
        yield CounterMetricFamily(self._name, self._words, value=self._count())


class Exposition(Collector):
    """The metrics of a proxy: of each upstream, and of the process.

    The times at which counters were made (`_created`) are left out: they would double the series without a use.
    The label `upstream` tells the metrics of several upstreams apart.
    """

    def __init__(self) -> None:
        self._upstreams: list[Metrics] = []
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        labels = ["version", "python"]
        build = Gauge("crossmount_proxy_build_info", "The version.", labels, registry=self._process)
        build.labels(__version__, platform.python_version()).set(1)
        self._all = CollectorRegistry()
        self._all.register(self)

    def add(self, metrics: "Metrics") -> None:
        """Add the metrics of an upstream."""
        self._upstreams.append(metrics)

    def page(self) -> tuple[bytes, bytes]:
        """Return the metrics in the format that Prometheus reads, and its media type."""
        return generate_latest(self._all), CONTENT_TYPE_LATEST.encode()

    def collect(self) -> Iterator[Metric]:
        """Yield each family of metrics once, with the samples of all upstreams."""
        families: dict[str, Metric] = {}
        several = len(self._upstreams) > 1
        for metrics in self._upstreams:
            more = {"upstream": metrics.upstream} if several else {}
            for family in metrics.registry.collect():
                empty = Metric(family.name, family.documentation, family.type)
                own = families.setdefault(family.name, empty)
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        own.add_sample(sample.name, {**sample.labels, **more}, sample.value)
        yield from families.values()
        yield from self._process.collect()


class Metrics:
    """The metrics of one upstream of a proxy.

    Attributes:
        upstream: the upstream's name.
        registry: the Prometheus registry that has them.
        blobs: blobs by outcome: `mounted`, `existing`, `uploaded`, `spooled`.
        blob_bytes: bytes of blobs by outcome, where sizes are known.
        requests: requests by route, method and status.
        index_seconds: how long the index takes to answer.
        upstream_seconds: how long the registry takes until its answer to a request without a body begins.
        wait_seconds: how long requests waited for another's upload, if they could then mount the blob.
        failures: failures by place and cause.
        unrecorded: sources that were not recorded because the index was too slow.
        sessions: uploads in progress.
        spool_bytes: spooled bytes on local disk.
        spool_limit: the most spooled bytes; 0 without a spool.

    Args:
        upstream: the upstream's name.
        unserved: returns how many calls the index has not answered so far.
    """

    def __init__(self, upstream: str = "", *, unserved: Callable[[], int] = lambda: 0) -> None:
        self.upstream = upstream
        self.registry = CollectorRegistry()
        self.registry.register(
            _CallbackCounter("crossmount_proxy_index_unserved", "Calls that the index did not answer.", unserved)
        )
        self.blobs = Counter("crossmount_proxy_blobs", "Blobs by outcome.", ["outcome"], registry=self.registry)
        self.blob_bytes = Counter(
            "crossmount_proxy_blob_bytes", "Bytes of blobs by outcome.", ["outcome"], registry=self.registry
        )
        self.requests = Counter(
            "crossmount_proxy_requests", "Requests.", ["route", "method", "status"], registry=self.registry
        )
        self.index_seconds = Histogram(
            "crossmount_proxy_index_seconds", "Reading the index.", buckets=_SECONDS, registry=self.registry
        )
        self.upstream_seconds = Histogram(
            "crossmount_proxy_upstream_seconds",
            "Until the registry begins its answer to a request without a body.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.wait_seconds = Histogram(
            "crossmount_proxy_wait_seconds",
            "Waiting for another's upload of the same layer.",
            buckets=(*_SECONDS, 300.0, 600.0),
            registry=self.registry,
        )
        self.failures = Counter(
            "crossmount_proxy_failures", "Failures.", ["where", "cause"], registry=self.registry
        )
        self.unrecorded = Counter(
            "crossmount_proxy_unlearnt",
            "Records that were dropped: the index is too slow.",
            registry=self.registry,
        )
        self.sessions = Gauge("crossmount_proxy_sessions", "Uploads under way.", registry=self.registry)
        self.spool_bytes = Gauge("crossmount_proxy_spool_bytes", "Bytes on local disk.", registry=self.registry)
        self.spool_limit = Gauge(
            "crossmount_proxy_spool_limit_bytes", "Bytes that the spool may take.", registry=self.registry
        )
        for outcome in ("mounted", "existing", "uploaded", "spooled"):
            self.blobs.labels(outcome)
            self.blob_bytes.labels(outcome)

    def count_blob(self, outcome: str, size: int | None) -> None:
        """Count a blob and its bytes; `size` is None if it is not known."""
        self.blobs.labels(outcome).inc()
        self.blob_bytes.labels(outcome).inc(max(0, size or 0))

    def count_request(self, method: str, route: str, status: int, *, waited: float) -> None:
        """Count a request, and the seconds that it waited for another's upload."""
        self.requests.labels(route, method_label(method), status).inc()
        if waited:
            self.wait_seconds.observe(waited)

    def count_failure(self, where: str, error: BaseException) -> None:
        """Count a failure."""
        self.failures.labels(where, cause_of(error)).inc()
