"""The totals of a fleet and of its index as metrics for Prometheus.

They describe the index's namespace, not the process that exports them: several exporters of one namespace show the
same numbers, so queries take their maximum, not their sum. Counters begin anew on the first of January (UTC), like
those of a process that restarts; so they depend neither on when an exporter started nor on how long days are kept.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crossmount._dataclass import dataclass
from crossmount.dashboard.reader import IndexConnection, Reading, RegistryState
from crossmount.dashboard.views import last_days
from crossmount.fleet.active_uploads import MeasuredUpload
from crossmount.maintenance import IndexInfo
from crossmount.savings.report import Savings

MEDIA_TYPE = CONTENT_TYPE_LATEST.encode()

_OUTCOMES = ("mounted", "waited", "existing", "uploaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """The values to export.

    Attributes:
        namespace: the namespace, a label of every series.
    """

    namespace: str
    connection: Reading[IndexConnection]
    savings: Reading[Savings]
    uploads: Reading[list[MeasuredUpload]]
    contents: Reading[IndexInfo]
    registries: Reading[Mapping[str, RegistryState]]


def exposition(state: FleetState) -> bytes:
    """Return the metrics in the format that Prometheus reads.

    Numbers that could not be read now are left out: an old number that looks like a new one would hide an outage.
    """
    registry = CollectorRegistry()
    registry.register(_State(state))
    return generate_latest(registry)


class _State(Collector):
    def __init__(self, state: FleetState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        state = self._state
        up = not state.connection.trouble
        yield self._gauge("index_up", "Whether the index answers.", [((), float(up))])
        if up and state.connection.value is not None and state.connection.value.round_trip is not None:
            round_trip = state.connection.value.round_trip
            yield self._gauge("index_round_trip_seconds", "A round trip to the index.", [((), round_trip)])
        if state.savings.value is not None and not state.savings.trouble:
            yield from self._accounts(state.savings.value)
        if state.uploads.value is not None and not state.uploads.trouble:
            found = state.uploads.value
            yield self._gauge("fleet_uploads", "Uploads in progress.", [((), len(found))])
            waiting = sum(len(each.waiting) for each in found)
            yield self._gauge("fleet_waiting", "Pushes that wait for the upload of another.", [((), waiting)])
        if state.contents.value is not None and not state.contents.trouble:
            yield from self._contents(state.contents.value)
        if state.registries.value is not None and not state.registries.trouble:
            mounts = [
                ((name,), float(each.traits.mounts))
                for name, each in state.registries.value.items()
                if each.traits.mounts is not None
            ]
            yield self._gauge("registry_mounts", "Whether a registry was seen to mount.", mounts, ("registry",))

    def _accounts(self, savings: Savings) -> Iterator[Metric]:
        year = Savings(tuple(day for day in savings.days if day.day.year == savings.until.year))
        rows = year.by_registry
        by_outcome = [(name, outcome) for name in rows for outcome in _OUTCOMES]
        for kind, words in (("bytes", "Bytes of blobs, by outcome."), ("blobs", "Blobs, by outcome.")):
            values = [(key, getattr(rows[key[0]], f"{kind}_{key[1]}")) for key in by_outcome]
            yield self._counter(f"fleet_{kind}", words, values, ("registry", "outcome"))
        results = [((name, "succeeded"), tally.pushes) for name, tally in rows.items()]
        results += [((name, "failed"), tally.pushes_failed) for name, tally in rows.items()]
        yield self._counter("fleet_pushes", "Pushes, by result.", results, ("registry", "result"))
        for name, field, words in (
            ("pushes_without_index", "pushes_without_index", "Pushes that could not use the index."),
            ("fetched_bytes", "bytes_fetched", "Bytes read from other registries to be uploaded."),
            ("waiting_seconds", "seconds_waiting", "Pushes waited for the uploads of others."),
            ("uploading_seconds", "seconds_uploading", "Pushes uploaded."),
        ):
            sums = [((registry,), getattr(tally, field)) for registry, tally in rows.items()]
            yield self._counter(f"fleet_{name}", words, sums, ("registry",))
        parts = {"today": last_days(savings, 1), "7d": last_days(savings, 7), "ever": savings}
        totals = {period: part.total for period, part in parts.items()}
        saved = [((period,), tally.bytes_saved) for period, tally in totals.items()]
        yield self._gauge("fleet_saved_bytes", "Bytes that were not uploaded.", saved, ("period",))
        uploaded = [((period,), tally.bytes_uploaded) for period, tally in totals.items()]
        yield self._gauge("fleet_uploaded_bytes", "Bytes that were uploaded.", uploaded, ("period",))
        seconds = [((period,), part.seconds_saved or 0.0) for period, part in parts.items()]
        yield self._gauge("fleet_saved_seconds", "An estimate of the time saved.", seconds, ("period",))

    def _contents(self, info: IndexInfo) -> Iterator[Metric]:
        yield self._gauge("index_layers", "Layers in the index.", [((), info.layers)])
        yield self._gauge("index_sources", "Sources of layers in the index.", [((), info.sources)])
        if info.memory is not None:
            yield self._gauge("index_memory_bytes", "Memory of the index's keys, about.", [((), info.memory)])
        if info.hit_rate is not None:
            words = "Part of the layers looked up in two weeks that existed or could be mounted."
            yield self._gauge("index_hit_ratio", words, [((), info.hit_rate)])

    def _gauge(
        self, name: str, words: str, values: Iterable[tuple[tuple[str, ...], float]], labels: tuple[str, ...] = ()
    ) -> Metric:
        family = GaugeMetricFamily(f"crossmount_{name}", words, labels=("namespace", *labels))
        for own, value in values:
            family.add_metric((self._state.namespace, *own), value)
        return family

    def _counter(
        self, name: str, words: str, values: Iterable[tuple[tuple[str, ...], float]], labels: tuple[str, ...]
    ) -> Metric:
        family = CounterMetricFamily(f"crossmount_{name}", words, labels=("namespace", *labels))
        for own, value in values:
            family.add_metric((self._state.namespace, *own), value)
        return family
