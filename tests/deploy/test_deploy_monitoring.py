"""deploy/grafana and deploy/prometheus: proxy and dashboard have every metric, label and value that they query."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from crossmount.dashboard import exporter
from crossmount.index import Sighting, open_index
from crossmount.index.protocol import RegistryTraits
from crossmount.oci import Digest, Repository
from crossmount.proxy import telemetry
from crossmount.proxy.http.routes import Route, route_name
from crossmount.savings import PushIncrement, Tally
from crossmount.savings.accounts import AccountEntry
from crossmount.testing import Fault, Reply, ScriptedRegistry
from support.dashboards import site_over
from support.deployed import DEPLOY, document, documents
from support.proxies import begin_upload, metrics_page, proxy_before
from support.servers import Server

GROUPS = document(DEPLOY / "prometheus" / "alerts.yaml")["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "crossmount-proxy.json").read_text())
PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus itself adds to scraped series."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The series of a query: its name, and matchers by label."""

    name: str
    matchers: tuple[tuple[str, str], ...]


def selectors(found: Any) -> Iterator[promql_parser.VectorSelector]:
    """Yield the series that an expression reads."""
    match found:
        case promql_parser.VectorSelector():
            yield found
        case promql_parser.MatrixSelector():
            yield found.vector_selector
        case promql_parser.Call():
            for argument in found.args:
                yield from selectors(argument)
        case promql_parser.BinaryExpr():
            yield from selectors(found.lhs)
            yield from selectors(found.rhs)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:  # an aggregation, a parenthesis, a subquery
            yield from selectors(found.expr)


def asked(query: str) -> list[Asked]:
    """Parse a query, with sample values for Grafana's variables."""
    query = re.sub(r"\[\$__(?:rate_interval|range)\]", "[5m]", query)
    return [
        Asked(str(found.name), tuple((m.name, m.value) for m in found.matchers.matchers))
        for found in selectors(promql_parser.parse(query))
    ]


def grouped(query: str) -> set[str]:
    """Return the labels that a query keeps."""
    lists = re.findall(r"\bby \(([^)]*)\)", query)
    return {label.strip() for labels in lists for label in labels.split(",")}


def queries() -> dict[str, str]:
    """Return every query, by the name of its alert or panel."""
    alerts = {rule["alert"]: rule["expr"] for rule in RULES}
    panels = {f"{p['title']} {t['refId']}": t["expr"] for p in BOARD["panels"] for t in p["targets"]}
    return alerts | panels


QUERIES = queries()


@pytest.fixture
async def series(tmp_path: Path, valkey: Server) -> dict[str, set[str]]:
    """Scrape a proxy on which everything has succeeded and failed once, and a dashboard; return all series."""
    refused = Fault(method="POST", path="*/uploads/?mount*", times=1, action=Reply(status=403))
    index = open_index("memory://")
    async with (
        ScriptedRegistry(faults=[refused]) as registry,
        proxy_before(registry.url, spool=tmp_path / "spool", index=index) as proxy,
    ):
        digest = registry.put_blob("base", b"layer")
        await index.add_source(digest, proxy.repository("base"))
        for name in ("a", "b"):
            await proxy.client.head(f"/v2/{name}/blobs/{digest}")
        await begin_upload(proxy, "c")
        proxy.app.core.metrics.count_failure("mount", OSError())
        page = (await proxy.client.get("/_crossmount/metrics")).text
    await index.aclose()
    page += await exported(valkey)
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if not sample.name.startswith("crossmount_"):
                continue  # those of the process, which every board of processes shows
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def exported(server: Server) -> str:
    """Return the metrics of a dashboard whose index has one push, one look-up and the traits of a registry."""
    index = open_index(server.url)
    here = Repository("registry.example.com", "team/app")
    push = PushIncrement("registry.example.com", "team", Tally(bytes_mounted=1, pushes=1))
    index.account(AccountEntry("1" * 32, datetime.now(UTC).date(), push))
    await index.look_up([Digest.of(b"layer")], here)
    await index.record([Sighting(Digest.of(b"layer"), here)])
    await index.record_traits(here.registry, RegistryTraits(mounts=True))
    try:
        async with site_over(index) as site:
            await site.answer("", b"")
            return (await site.answer("metrics", b"")).body.decode()
    finally:
        await index.aclose()


async def test_every_query_asks_for_series_that_the_proxy_has(series: dict[str, set[str]]) -> None:
    """Each query parses as PromQL, and its names and labels are among the proxy's metrics."""
    for whose, query in QUERIES.items():
        names = asked(query)
        assert names, whose
        labels: set[str] = set()
        for found in names:
            assert found.name in series, (whose, found.name)
            labels |= series[found.name] | PROMETHEUS
            assert {label for label, _ in found.matchers} <= series[found.name] | PROMETHEUS, whose
        assert grouped(query) <= labels, whose


async def test_every_series_of_the_proxy_is_shown(series: dict[str, set[str]]) -> None:
    """Every metric of the proxy and of the fleet is on the dashboard."""
    shown = {found.name for p in BOARD["panels"] for t in p["targets"] for found in asked(t["expr"])}
    counted = {name for name in series if not name.endswith(("_build_info", "_count", "_sum"))}
    assert shown == counted


def test_every_value_that_is_asked_for_can_be_there() -> None:
    """Every cause, outcome and route in a query can occur; an alert on another value would never fire."""
    causes = {word for _, word in telemetry._CAUSES} | {"other"}
    page = metrics_page(telemetry.Metrics()).decode()
    outcomes = set(re.findall(r'blobs_total\{outcome="(\w+)"', page)) | set(exporter._OUTCOMES)
    known = {
        "cause": causes,
        "outcome": outcomes,
        "route": {"own"},
        "job": {"crossmount-proxy", "$job"},
        "result": {"succeeded", "failed"},
        "period": {"today", "7d", "ever"},
    }
    for whose, query in QUERIES.items():
        for found in asked(query):
            for label, value in found.matchers:
                if label in known:
                    assert set(value.split("|")) <= known[label], whose
    assert known["route"] <= {route_name(kind.__new__(kind)) for kind in get_args(Route)}


def test_alerts_say_how_bad_and_what_it_means() -> None:
    """Each alert has a severity, and a summary whose templates name labels of the alert."""
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert used <= (grouped(rule["expr"]) or PROMETHEUS), rule["alert"]


def test_the_alerts_that_were_asked_for_are_there() -> None:
    """There are alerts for a down proxy, a degraded index, failures, a full spool, lost sources and latency."""
    words = ["Down", "IndexDegraded", "UpstreamFailing", "Slow", "SpoolNearlyFull", "NotLearning"]
    words += ["NothingMounted", "PushesWithoutIndex", "StoppedMounting"]
    assert all(any(word in rule["alert"] for rule in RULES) for word in words)


def test_the_job_is_called_as_the_service_monitor_calls_it() -> None:
    """The job name of the alerts is the label that the ServiceMonitor takes it from."""
    folder = DEPLOY / "kubernetes"
    label = document(folder / "components" / "monitoring" / "servicemonitor.yaml")["spec"]["jobLabel"]
    service = document(folder / "deployment" / "service.yaml")
    jobs = {
        value
        for query in QUERIES.values()
        for found in asked(query)
        for name, value in found.matchers
        if name == "job"
    }
    assert jobs - {"$job"} == {service["metadata"]["labels"][label]}


def test_the_dashboard_can_be_imported() -> None:
    """Panels have unique numbers and places, and use the selected data source."""
    panels = BOARD["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "instance"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert not documents(DEPLOY / "prometheus" / "alerts.yaml")[1:]


REDIS_RULES = document(DEPLOY / "prometheus" / "redis.yaml")["groups"][0]["rules"]
EXPORTED: dict[str, set[str]] = {
    "up": set(),
    "redis_up": set(),
    "redis_memory_used_bytes": set(),
    "redis_memory_max_bytes": set(),
    "redis_evicted_keys_total": set(),
    "redis_rejected_connections_total": set(),
    "redis_aof_last_write_status": set(),
    "redis_master_link_up": {"master_host", "master_port"},
    "redis_instance_info": {"maxmemory_policy", "role", "redis_mode"},
}
"""Metrics of redis_exporter and their labels: `exporter/exporter.go` of oliver006/redis_exporter."""


@pytest.mark.parametrize("rule", REDIS_RULES, ids=[rule["alert"] for rule in REDIS_RULES])
def test_alerts_for_redis_ask_for_what_its_exporter_has(rule: dict[str, Any]) -> None:
    """Each rule for the index's server parses, and names metrics and labels of redis_exporter and the one job."""
    for found in asked(rule["expr"]):
        labels = dict(found.matchers)
        assert labels.pop("job") == "crossmount-redis"
        assert labels.keys() <= EXPORTED[found.name]
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert used <= PROMETHEUS | {label for found in asked(rule["expr"]) for label in EXPORTED[found.name]}
    assert rule["labels"]["severity"] == "warning"  # a failing index fails no push
    readme = (DEPLOY / "prometheus" / "README.md").read_text()
    assert f"`{rule['alert']}`" in readme
